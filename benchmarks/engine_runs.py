"""The stretches that `engine` and `boundaries` time. Each runs in a process of its own, with Django set up there."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings

from metering import calls
from metering import engine as engines
from metering.holdings import Refused
from metering.models import Outcome
from metering.recorder import Entry, call_id
from tenants.keys import Caller

from .stage import percentile

CHECK_EVERY = 64  # calls between two looks at the clock
SERVING_THREADS = 2


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


@dataclass(frozen=True, slots=True)
class Served:
    calls: int
    refused: int  # by a limit, or because it could not be asked
    longest_ms: float


def serve_until(tenancy: Tenancy, over: Path, start_at: float) -> Served:
    """Whole calls by two threads, as fast as they are recorded, until this file is there."""
    caller = Caller(tenancy.tenant_id, tenancy.slug, tenancy.project_id, tenancy.key_id, "mh_live_x", frozenset(), None)
    _wait_until(start_at)
    with ThreadPoolExecutor(SERVING_THREADS) as pool:
        shares = list(pool.map(lambda _: _serve(caller, over), range(SERVING_THREADS)))
    engines.stop()
    return Served(
        sum(each.calls for each in shares),
        sum(each.refused for each in shares),
        max(each.longest_ms for each in shares),
    )


def _serve(caller: Caller, over: Path) -> Served:
    meter, most = engines.engine(), settings.METERING["BUFFER_CALLS"] // 4
    served, refused, longest = 0, 0, 0.0
    while not over.exists():
        for _ in range(CHECK_EVERY):
            before = time.perf_counter()
            try:
                call = calls.open_call(caller=caller, capability="auth")
            except calls.LimitUnavailable:
                refused += 1
            else:
                served += call.problem is None
                refused += call.problem is not None
                calls.close_call(call, status=429 if call.problem else 200, latency_us=700)
            longest = max(longest, time.perf_counter() - before)
        while len(meter.buffer._entries) > most:  # PostgreSQL is behind: what it cannot take is not sustained
            time.sleep(0.001)
    return Served(served, refused, longest * 1000)


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
