"""The stretches that `benchmarks.engine` times. Each runs in a process of its own, with Django set up there."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.wsgi import get_wsgi_application

from metering import calls
from metering import engine as engines
from metering.leases import Refused
from metering.models import Outcome
from metering.recorder import Entry, call_id
from tenants.keys import Caller

from .stage import percentile

CHECK_EVERY = 64  # calls between two looks at the clock


@dataclass(frozen=True, slots=True)
class Tenancy:
    """A tenant as the engine sees it; travels between processes."""

    tenant_id: UUID
    project_id: int
    key_id: int
    slug: str


@dataclass(frozen=True, slots=True)
class Recorded:
    calls: int
    started: float  # wall clock: comparable between processes of one machine
    committed: float  # when the last of them was committed
    cpu_seconds: float


def _wait_until(start_at: float) -> None:
    time.sleep(max(0.0, start_at - time.time()))


def record_directly(tenancies: list[Tenancy], seconds: float, start_at: float) -> Recorded:
    """Admission and record, nothing else: what the engine sustains, until everything is committed."""
    meter = engines.engine()

    def once(tenancy: Tenancy) -> None:
        ticket = meter.admit(tenancy.tenant_id)
        meter.record(
            Entry(
                call_id(ticket.occurred_at), tenancy.tenant_id, tenancy.project_id, tenancy.key_id, "auth",
                Outcome.BILLABLE.value, "", 200, 1, 700, ticket.occurred_at, ticket.bounds.start, ticket.bounds.end,
                ticket.lease.id if ticket.lease else None,
            )
        )  # fmt: skip

    return _sustained(once, tenancies, seconds, start_at)


def record_whole_calls(tenancies: list[Tenancy], seconds: float, start_at: float) -> Recorded:
    """All that throttle and middleware do with a call: burst limit, admission, close, RateLimit fields."""
    callers = [Caller(t.tenant_id, t.slug, t.project_id, t.key_id, "mh_live_x", frozenset(), None) for t in tenancies]

    def once(caller: Caller) -> None:
        call = calls.open_call(caller=caller, capability="auth")
        calls.close_call(call, status=200, latency_us=700)
        calls.headers(call)

    return _sustained(once, callers, seconds, start_at)


def _sustained(once: Callable[[Any], None], whose: list[Any], seconds: float, start_at: float) -> Recorded:
    meter, most = engines.engine(), settings.METERING["BUFFER_CALLS"] // 4
    for each in whose:
        once(each)  # connections and leases are there
    _wait_until(start_at)
    started, cpu = time.time(), time.process_time()
    done = len(whose)
    while time.time() - started < seconds:
        for number in range(CHECK_EVERY):
            once(whose[number % len(whose)])
        done += CHECK_EVERY
        while len(meter.buffer._entries) > most:  # PostgreSQL is behind: what it cannot take is not sustained
            time.sleep(0.001)
    engines.stop()
    return Recorded(done, started, time.time(), time.process_time() - cpu)


def admit_until_refused(tenancy: Tenancy, start_at: float) -> int:
    """How many calls this process admitted and recorded before the period was used up."""
    meter = engines.engine()
    _wait_until(start_at)
    admitted = 0
    while True:
        try:
            ticket = meter.admit(tenancy.tenant_id)
        except Refused as refused:
            if refused.final:
                break
            time.sleep(0.01)
            continue
        admitted += 1
        meter.record(
            Entry(
                call_id(ticket.occurred_at), tenancy.tenant_id, tenancy.project_id, tenancy.key_id, "auth",
                Outcome.BILLABLE.value, "", 200, 1, 700, ticket.occurred_at, ticket.bounds.start, ticket.bounds.end,
                ticket.lease.id if ticket.lease else None,
            )
        )  # fmt: skip
    engines.stop()
    return admitted


def admission_us(tenancy: Tenancy, count: int, lease_units: int) -> tuple[float, float]:
    """p50 and p99 of one admission, with grants of at most `lease_units`: with 1 each call takes a lease."""
    settings.METERING["LEASE_MAX_UNITS"] = lease_units
    meter = engines.engine()
    for _ in range(count // 10):
        meter.admit(tenancy.tenant_id)
    taken = []
    for _ in range(count):
        before = time.perf_counter_ns()
        meter.admit(tenancy.tenant_id)
        taken.append(time.perf_counter_ns() - before)
    engines.stop()
    taken.sort()
    return percentile(taken, 50) / 1000, percentile(taken, 99) / 1000


@dataclass(frozen=True, slots=True)
class Added:
    """Microseconds a call, unmetered and metered, through Django's WSGI handler in process."""

    unmetered_p50: float
    metered_p50: float
    unmetered_cpu: float  # mean CPU of the whole process, flush thread included
    metered_cpu: float


def added_in_process(key: str, count: int, block: int = 500) -> Added:
    """Both views through the whole of Django, one after the other: p50 of a call; then in blocks: CPU of the process."""
    application = get_wsgi_application()
    paths = ["/sandbox/v1/unmetered/auth/session", "/sandbox/v1/auth/session"]

    def call(path: str) -> None:
        response = application(_environ(path, key), _started)
        for _ in response:
            pass
        response.close()

    _in_turn([lambda path=path: call(path) for path in paths], 300, time.thread_time_ns)  # caches and leases are warm
    single = _in_turn([lambda path=path: call(path) for path in paths], count, time.thread_time_ns)

    def several(path: str) -> None:
        for _ in range(block):
            call(path)
        engines.wake()
        time.sleep(0.1)  # what this block recorded is flushed within its own time

    blocks = _in_turn([lambda path=path: several(path) for path in paths], count // block, time.process_time_ns)
    engines.stop()
    return Added(*single, *(each / block for each in blocks))


def _in_turn(runs: list[Callable[[], None]], times: int, clock_ns: Callable[[], int]) -> list[float]:
    """The p50 of each run in microseconds, one after the other, so that what disturbs the machine disturbs all."""
    taken: list[list[int]] = [[] for _ in runs]
    for _ in range(times):
        for run, own in zip(runs, taken, strict=True):
            before = clock_ns()
            run()
            own.append(clock_ns() - before)
    return [percentile(sorted(own), 50) / 1000 for own in taken]


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
