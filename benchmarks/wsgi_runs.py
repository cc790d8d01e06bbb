"""The stretches that go through Django's WSGI handler in process. Each runs in a process of its own, with Django set up there."""

import io
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.core.wsgi import get_wsgi_application
from django.utils import timezone

from metering import calls
from metering import engine as engines
from tenants import keys

from . import wire
from .product import cpu_seconds
from .stage import percentile

UNMETERED, METERED = "/sandbox/v1/unmetered/auth/session", "/sandbox/v1/auth/session"
WARM = 300
Call = Callable[[str, str], None]  # path, key


def handler() -> Call:
    """Calls a path with a key, as gunicorn would; the answer is 200."""
    application = get_wsgi_application()

    def call(path: str, key: str) -> None:
        response = application(_environ(path, key), _started)
        for _ in response:
            pass
        response.close()

    return call


def _started(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
    assert status.startswith("200"), status


def _environ(path: str, key: str) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET", "PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": "", "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000", "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "127.0.0.1:8000",
        "HTTP_AUTHORIZATION": f"Bearer {key}", "wsgi.version": (1, 0), "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO(), "wsgi.multithread": True,
        "wsgi.multiprocess": True, "wsgi.run_once": False,
    }  # fmt: skip


# -- hot tenants ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Added:
    """Microseconds a call, unmetered and metered."""

    unmetered_p50: float
    metered_p50: float
    unmetered_cpu: float  # of the whole process, flush thread included
    metered_cpu: float
    metered_servers: float  # CPU of PostgreSQL and Valkey
    metered_calls: int  # in all


def added_in_process(
    hot: list[str], count: int, benchmark_pid: int = 0, tail: Sequence[str] = (), block: int = 500
) -> Added:
    """The p50 of a call through the whole of Django, both views in turn; then in blocks: CPU of the process and the servers.

    The process has seen a call of each key of `tail` before.
    """
    call, whose = handler(), itertools.cycle(hot)
    for key in tail:
        open_and_close(key)
    paths = [UNMETERED, METERED]
    _in_turn([lambda path=path: call(path, next(whose)) for path in paths], WARM, time.thread_time_ns)  # all is warm
    single = _in_turn([lambda path=path: call(path, next(whose)) for path in paths], count, time.thread_time_ns)
    servers = dict.fromkeys(paths, 0.0)

    def several(path: str) -> None:
        before = cpu_seconds(benchmark_pid=benchmark_pid)["servers"] if benchmark_pid else 0.0
        for _ in range(block):
            call(path, next(whose))
        engines.wake()
        time.sleep(0.1)  # what this block recorded is flushed within its own time
        if benchmark_pid:
            servers[path] += cpu_seconds(benchmark_pid=benchmark_pid)["servers"] - before

    blocks = count // block
    whole = _in_turn([lambda path=path: several(path) for path in paths], blocks, time.process_time_ns)
    engines.stop()
    metered_calls = len(tail) + WARM + count + blocks * block
    return Added(*single, *(each / block for each in whole), servers[METERED] / blocks / block * 1e6, metered_calls)


def _in_turn(runs: list[Callable[[], None]], times: int, clock_ns: Callable[[], int]) -> list[float]:
    """The p50 of each run in microseconds, one after the other, so that what disturbs the machine disturbs all."""
    taken: list[list[int]] = [[] for _ in runs]
    for _ in range(times):
        for run, own in zip(runs, taken, strict=True):
            before = clock_ns()
            run()
            own.append(clock_ns() - before)
    return [percentile(sorted(own), 50) / 1000 for own in taken]


def open_and_close(key: str) -> None:
    """A metered call of this key without Django around it."""
    call = calls.open_call(caller=keys.cache.verify(key, now=timezone.now()), capability="auth")
    calls.close_call(call, status=200, latency_us=700)


# -- the long tail -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Cold:
    """First calls of tenants that this process does not know: microseconds, and what a call sends."""

    wall_us: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)  # of the request's thread
    sent: Counter[str] = field(default_factory=Counter)  # round trips; fractions of one, too


def long_tail(unmetered: list[str], metered: list[str]) -> dict[str, Cold]:
    """One call of each key, unmetered and metered in turn; under "other threads" what metered calls send later."""
    call = handler()
    pairs = iter(zip(unmetered, metered, strict=True))
    for first, second in itertools.islice(pairs, 50):  # code and connections are there
        call(UNMETERED, first)
        call(METERED, second)
    found = {UNMETERED: Cold(), METERED: Cold(), wire.OTHERS: Cold()}
    with wire.counted() as counted:
        for pair in pairs:
            for path, key in zip((UNMETERED, METERED), pair, strict=True):
                counted.by = path
                wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
                call(path, key)
                found[path].cpu_us.append((time.thread_time_ns() - cpu) / 1000)
                found[path].wall_us.append((time.perf_counter_ns() - wall) / 1000)
        counted.by = wire.OTHERS
        engines.stop()
    for (by, what), times in sorted(counted.sent.items()):
        found[by].sent[what] = times / len(found[METERED].wall_us)  # type: ignore[assignment]
    return found


# -- memory --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reading:
    calls: int
    resident_mb: float
    tenants_known: int
    keys_known: int
    seconds: float


def memory(known: list[str], total: int, every: int) -> list[Reading]:
    """Resident memory before the first call and after each `every` calls: one of each key, then ten at a time of random keys."""
    call, started = handler(), time.monotonic()
    readings = [_reading(0, started)]
    for number, key in enumerate(itertools.islice(_visits(known), total), start=1):
        call(METERED, key)
        if number % every == 0:
            readings.append(_reading(number, started))
    engines.stop()
    return readings


def _visits(known: list[str]) -> Iterator[str]:
    yield from known
    while True:
        yield from [random.choice(known)] * 10


def _reading(number: int, started: float) -> Reading:
    status = Path("/proc/self/status").read_text()
    resident_kb = int(status.partition("VmRSS:")[2].split()[0])
    return Reading(
        number, resident_kb / 1024, engines.engine().leases.tenants_known, len(keys.cache._entries),
        time.monotonic() - started,
    )  # fmt: skip
