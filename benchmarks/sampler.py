"""Where the CPU of a web worker goes, by function, sampled by a signal for every 4 ms of CPU.

Python runs a signal's handler in the main thread, between two of its instructions, so it is the sync worker that can be
sampled without a bias: its requests run in the main thread. (A sampling thread has to wait for the interpreter's lock, and
mostly finds the others where they let go of it, in input and output; cProfile makes every Python call several times as
dear.) What each thread used between two samples comes from its own CPU clock and is exact, and so is the flush thread's
share; within it the functions are only a hint.

Switched on by the environment variable BENCHMARK_PROFILE, a folder: each worker leaves a file in it. It begins when `begin`
says so, with all that is made once (connections, leases, imports) behind it.
"""

import atexit
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from functools import cache
from pathlib import Path
from types import FrameType

from benchmarks import stage

VARIABLE, BEGUN = "BENCHMARK_PROFILE", "begun"
EVERY_SECONDS = 0.004
METERING, REST, FLUSH, SERVER = "request: metering", "request: rest", "flush thread", "gunicorn"
OWN = ("metering", "tenants", "sandbox", "config", "dashboard", "billing")
ANONYMOUS = "tenants/postgresql/"  # the connections: whoever asks is to answer for it
HANDLERS = "django/core/handlers/"
Spent = Counter[tuple[str, str]]  # nanoseconds by part and function


def install() -> None:
    """Each process forked from this one samples itself, where BENCHMARK_PROFILE says so."""
    if VARIABLE in os.environ:
        os.register_at_fork(after_in_child=_start)


def begin(folder: Path) -> None:
    """The workers begin to sample."""
    (folder / BEGUN).touch()
    time.sleep(0.1)


def _start() -> None:
    sampler = Sampler(Path(os.environ[VARIABLE]))
    signal.signal(signal.SIGPROF, sampler.sample)
    signal.setitimer(signal.ITIMER_PROF, EVERY_SECONDS, EVERY_SECONDS)
    atexit.register(sampler.keep)


class Sampler:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._main = threading.get_ident()
        self._clocks: dict[int, int] = {}
        self._spent: Spent = Counter()
        self._has_begun = False

    def sample(self, _signal: int, interrupted: FrameType | None) -> None:
        """What every thread used since the last sample is booked to where it is now."""
        begins, self._has_begun = not self._has_begun, self._has_begun or (self._folder / BEGUN).exists()
        if not self._has_begun or interrupted is None:
            return
        for thread, frame in sys._current_frames().items():
            now = _cpu_ns(thread)
            used = now - self._clocks.get(thread, now if begins else 0)
            self._clocks[thread] = now
            if used:
                self._spent[_placed(interrupted if thread == self._main else frame)] += used
        self._clocks[self._main] = _cpu_ns(self._main)  # without what this took

    def keep(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        lines = [[part, function, used] for (part, function), used in self._spent.items()]
        (self._folder / f"{os.getpid()}.json").write_text(json.dumps(lines))


def _cpu_ns(thread: int) -> int:
    # Whoever is among the current frames lives as long as we hold the interpreter's lock, and so has a clock.
    return time.clock_gettime_ns(time.pthread_getcpuclockid(thread))


def _placed(leaf: FrameType) -> tuple[str, str]:
    """The part of the work and the function that is to answer for it: our own innermost one, and what it called."""
    frames = [leaf]
    while frames[-1].f_back is not None:
        frames.append(frames[-1].f_back)
    part, ours = SERVER, ""
    for frame in reversed(frames):
        place = _place(frame.f_code.co_filename)
        part = _part(part, place, frame.f_code.co_name)
        if place.startswith(OWN) and not place.startswith(ANONYMOUS):
            ours = f"{place}:{frame.f_code.co_name}"
    last = f"{_place(leaf.f_code.co_filename)}:{leaf.f_code.co_name}"
    return part, f"{ours} > {last}" if ours and ours != last else last


def _part(part: str, place: str, function: str) -> str:
    if part == FLUSH or (place == "metering/engine.py" and function == "_loop"):
        return FLUSH
    if place.startswith("metering/"):
        return METERING
    # Handlers again inside metering: its middleware is the outermost and calls the rest.
    return REST if place.startswith(HANDLERS) else part


@cache
def _place(path: str) -> str:
    """The file, from its package on."""
    for root in ("/site-packages/", f"{stage.ROOT}/"):
        _, found, rest = path.partition(root)
        if found:
            return rest
    return "/".join(path.rsplit("/", 2)[-2:])


def print_parts(*, base: tuple[Path, int], with_metering: tuple[Path, int]) -> None:
    """The parts' microseconds a call, unmetered and metered. Each argument: a folder of workers' files, and how many calls."""
    columns = [[*_parts(*of), 0.0] for of in (base, with_metering)]
    for column in columns:
        column[-1] = sum(column)
    names = [METERING, REST, SERVER, FLUSH, "together"]
    rows = [
        [name, *(f"{us:.1f}" for us in (unmetered, metered, metered - unmetered))]
        for name, unmetered, metered in zip(names, *columns, strict=True)
    ]
    stage.print_table(["web workers, CPU us a call", "unmetered", "metered", "added"], rows)


def _parts(folder: Path, calls: int) -> list[float]:
    spent = _read(folder)
    return [
        sum(used for (its_part, _), used in spent.items() if its_part == part) / calls / 1000
        for part in (METERING, REST, SERVER, FLUSH)
    ]


def print_functions(folder: Path, calls: int, most: int = 20) -> None:
    """The functions of metering and its flush thread that use most."""
    spent = _read(folder)
    rows = [
        [part, f"`{function}`", f"{used / calls / 1000:.1f}"]
        for (part, function), used in spent.most_common()
        if part in {METERING, FLUSH}
    ]
    stage.print_table(["part", "our function > where it is", "CPU us a call"], rows[:most])


def _read(folder: Path) -> Spent:
    spent: Spent = Counter()
    for file in folder.glob("*.json"):
        for part, function, used in json.loads(file.read_text()):
            spent[part, function] += used
    return spent
