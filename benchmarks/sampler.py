"""Where the CPU of a web worker goes: every thread's own CPU clock, read every 2 ms and booked to what that thread is doing.

The sums by thread are exact, the split by function is sampled. cProfile would make each Python call several times as dear and so
name the wrong functions. The sampler's own CPU is left out, but it takes turns with the rest: the rates of a profiled
run are no figures. Switched on by the environment variable BENCHMARK_PROFILE, a folder: each worker leaves a file in it.
It begins when `begin` says so, with all that is made once (connections, leases, imports) behind it.
"""

import atexit
import json
import os
import sys
import threading
import time
from collections import Counter
from functools import cache
from pathlib import Path
from types import FrameType

from benchmarks import stage

VARIABLE, BEGUN = "BENCHMARK_PROFILE", "begun"
EVERY_SECONDS, LOOK_SECONDS = 0.002, 0.05
METERING, REST, FLUSH, SERVER = "request: metering", "request: rest", "flush thread", "gunicorn"
OWN = ("metering", "tenants", "sandbox", "config", "dashboard", "billing")
HANDLERS = "django/core/handlers/"
Spent = Counter[tuple[str, str]]  # nanoseconds by part and function


def install() -> None:
    """Each process forked from this one samples itself, where BENCHMARK_PROFILE says so."""
    if VARIABLE in os.environ:
        os.register_at_fork(after_in_child=_start)


def begin(folder: Path) -> None:
    """The workers begin to sample."""
    (folder / BEGUN).touch()
    time.sleep(3 * LOOK_SECONDS)


def _start() -> None:
    spent: Spent = Counter()
    threading.Thread(target=_sample, args=(spent,), name="sampler", daemon=True).start()
    atexit.register(_keep, spent)


def _sample(spent: Spent) -> None:
    while not Path(os.environ[VARIABLE], BEGUN).exists():
        time.sleep(LOOK_SECONDS)
    sys.setswitchinterval(0.0002)  # the sampler gets its turn soon, not when some thread happens to wait
    own = threading.get_ident()
    clocks: dict[int, int] = {}
    while True:
        time.sleep(EVERY_SECONDS)
        for thread, frame in sys._current_frames().items():
            if thread == own:
                continue
            # The thread lives as long as we hold the interpreter's lock, so it has a clock.
            now = time.clock_gettime_ns(time.pthread_getcpuclockid(thread))
            used = now - clocks.get(thread, now)
            clocks[thread] = now
            if used:
                spent[_placed(frame)] += used


def _keep(spent: Spent) -> None:
    lines = [[part, function, used] for (part, function), used in dict(spent).items()]
    Path(os.environ[VARIABLE], f"{os.getpid()}.json").write_text(json.dumps(lines))


def _placed(leaf: FrameType) -> tuple[str, str]:
    """The part of the work and the function that is to answer for it: our own innermost one, and what it called."""
    frames = [leaf]
    while frames[-1].f_back is not None:
        frames.append(frames[-1].f_back)
    part, ours = SERVER, ""
    for frame in reversed(frames):
        place = _place(frame.f_code.co_filename)
        part = _part(part, place, frame.f_code.co_name)
        if place.startswith(OWN):
            ours = f"{place}:{frame.f_code.co_name}"
    last = f"{_place(leaf.f_code.co_filename)}:{leaf.f_code.co_name}"
    return part, f"{ours} > {last}" if ours and ours != last else last


def _part(part: str, place: str, function: str) -> str:
    if part == FLUSH or (place == "metering/engine.py" and function == "_loop"):
        return FLUSH
    if place.startswith("metering/"):
        return METERING
    return (
        REST if place.startswith(HANDLERS) else part
    )  # also when the outermost middleware, metering's, calls the rest


@cache
def _place(path: str) -> str:
    """The file, from its package on."""
    for root in ("/site-packages/", f"{stage.ROOT}/"):
        _, found, rest = path.partition(root)
        if found:
            return rest
    return "/".join(path.rsplit("/", 2)[-2:])


def print_parts(folders: dict[str, tuple[Path, int]]) -> None:
    """The parts' microseconds a call, for each variant: its workers' files and its calls."""
    spent = {name: _read(folder) for name, (folder, _) in folders.items()}
    rows = []
    for part in (METERING, REST, SERVER, FLUSH):
        rows.append([part, *(_us(_sum(spent[name], part), calls) for name, (_, calls) in folders.items())])
    rows.append(["together", *(_us(spent[name].total(), calls) for name, (_, calls) in folders.items())])
    stage.print_table(["web workers, CPU us a call", *folders], rows)


def print_functions(folder: Path, calls: int, most: int = 20) -> None:
    """The functions of metering and its flush thread that use most."""
    spent = _read(folder)
    rows = [
        [part, f"`{function}`", _us(used, calls)]
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


def _sum(spent: Spent, part: str) -> int:
    return sum(used for (its_part, _), used in spent.items() if its_part == part)


def _us(nanoseconds: int, calls: int) -> str:
    return f"{nanoseconds / calls / 1000:.1f}"
