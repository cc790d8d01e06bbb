"""Events that come over HTTP become calls in the ledger, each once, with one answer for each.

An event that asks to be admitted takes its units out of a lease, as a call does, and is recorded only if the limits let it. All
others tell of what has happened: they are recorded even beyond a limit, and the answer says so.

Fails closed: without PostgreSQL nothing is taken, and the sender sends again. Sending again is harmless.
"""

import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from metering import calls
from metering.database import Connection, Unreachable
from metering.engine import Engine, engine
from metering.recorder import Settled
from tenants.keys import Caller
from tenants.problems import ServiceUnavailable

from . import recording
from .recording import Item, Result, State
from .shapes import Event, Fault

NOW = (
    "SELECT extract(epoch FROM clock_timestamp())::float8, EXISTS (SELECT FROM metering_allowance WHERE tenant_id = %s)"
)
STANDING = """
SELECT used, admits FROM metering_quota_row
WHERE tenant_id = %s AND period_start <= to_timestamp(%s) AND period_end > to_timestamp(%s)
"""
COMMITTED = "SELECT EXISTS (SELECT FROM metering_batch WHERE id = %s)"
SURELY_OVER_SECONDS = 10.0  # no statement of the engine's connections lives for so long


@dataclass(frozen=True, slots=True)
class Standing:
    """The running period after a request: units used, and what is admitted of them (None: no bound)."""

    used: int
    admits: int | None

    @property
    def is_exceeded(self) -> bool:
        return self.admits is not None and self.used > self.admits


def record(*, caller: Caller, events: Sequence[Event | Fault]) -> tuple[list[Result], Standing]:
    """Every event is in the ledger once, or its result says why not; one transaction for all of them.

    Raises NoPlan, LimitUnavailable and ServiceUnavailable: nothing was recorded then, or all of it was and nobody could say so;
    the same events may be sent again.
    """
    meter = engine()
    settle_doubts(meter)
    results = [Result(event.id) for event in events]
    try:
        with meter.database.connection() as connection:
            now = _now(connection, meter, caller.tenant_id)
            told = ((caller, event, result) for event, result in zip(events, results, strict=True))
            items = list(recording.valid(told, now))
            mark_known(connection, items)
        items, refused = admitted([item for item in items if item.result.state is not State.DUPLICATE])
        count_refused(refused)
        if items:
            _commit(meter, items)
        standing = _standing(meter, caller.tenant_id, now)
    except Unreachable:
        raise ServiceUnavailable from None
    return results, standing


def _now(connection: Connection, meter: Engine, tenant_id: UUID) -> float:
    """Database time; raises NoPlan for a tenant without an allowance."""
    asked = meter.clock.monotonic()
    row: Any = connection.execute(NOW, (tenant_id,)).fetchone()
    now, has_allowance = row
    meter.clock.set(database_epoch=now, asked=asked)
    if not has_allowance:
        raise calls.NoPlan
    return float(now)


def mark_known(connection: Connection, items: list[Item]) -> None:
    """What was recorded before must not ask for units. Whether a name is new is decided by the constraint, later."""
    before = recording.known(connection, [item for item in items if item.event.admit])
    for item in items:
        if item.name in before:
            item.result.state, item.result.call_id = State.DUPLICATE, before[item.name]


def admitted(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """The items that limits let pass, as all do that do not ask; and those that one refuses.

    Raises NoPlan or LimitUnavailable, with every unit given back.
    """
    kept: list[Item] = []
    refused: list[Item] = []
    try:
        for item in items:
            if item.event.admit and calls.is_billable(item.event.status):
                item.call = calls.open_call(caller=item.caller, capability=item.event.capability, cost=item.event.units)
                item.result.call, problem = item.call, item.call.problem
                if problem is not None:
                    item.result.state, item.result.problem, item.result.why = (
                        State.REFUSED,
                        problem,
                        str(problem.detail),
                    )
                    refused.append(item)
                    continue
            kept.append(item)
    except BaseException:
        give_back(kept)
        raise
    return kept, refused


def count_refused(items: Sequence[Item]) -> None:
    """Each is counted as refused, and its name not remembered: the sender may ask again."""
    for item in items:
        if item.call is not None and item.call.problem is not None:
            calls.close_call(item.call, status=item.call.problem.status_code, latency_us=item.event.latency_us or 0)


def give_back(items: Sequence[Item]) -> None:
    for item in items:
        if item.call is not None and item.call.ticket is not None:
            engine().give_back(item.call.ticket)
            item.call.ticket = None


def _commit(meter: Engine, items: list[Item]) -> None:
    """Recorded in one transaction with their names; what was recorded before is marked, and its units are free again."""
    batch_id = uuid.uuid4()
    try:
        with meter.database.connection() as connection:
            settled = _recorded(connection, items, batch_id)
    except Unreachable:
        doubt(batch_id, items)
        raise
    except BaseException:
        give_back(items)
        raise
    settle(meter, items, settled)


def settle(meter: Engine, items: Sequence[Item], settled: Sequence[Settled]) -> None:
    """The items were committed: what this process holds of the tenants follows, and units of duplicates are free again."""
    used: Counter[tuple[UUID, float]] = Counter()
    for item in items:
        if item.result.state is State.ACCEPTED and item.call is not None and item.call.ticket is not None:
            used[item.caller.tenant_id, item.call.ticket.bounds.start] += item.call.ticket.cost
    for quota in settled:
        units = used[quota.tenant_id, quota.period_start]
        meter.leases.settle(quota.tenant_id, period_start=quota.period_start, used=quota.used, recorded=units)
    give_back([item for item in items if item.result.state is State.DUPLICATE])


def _recorded(connection: Connection, items: list[Item], batch_id: UUID) -> list[Settled]:
    return recording.in_transaction(connection, lambda: recording.recorded(connection, items, batch_id))


def _standing(meter: Engine, tenant_id: UUID, now: float) -> Standing:
    with meter.database.connection() as connection:
        row: Any = connection.execute(STANDING, (tenant_id, now, now)).fetchone()
    return Standing(*row) if row else Standing(0, None)


# -- commits that were cut off -----------------------------------------------------------------------------------------

_doubts: deque[tuple[float, UUID, list[Item]]] = deque()
_doubts_lock = threading.Lock()


def doubt(batch_id: UUID, items: Sequence[Item]) -> None:
    """Nobody saw whether the batch with these items was committed."""
    with _doubts_lock:
        _doubts.append((time.monotonic(), batch_id, list(items)))


def settle_doubts(meter: Engine) -> None:
    """Units of commits whose end nobody saw are free again where nothing was committed. At once they might be used twice."""
    while True:
        with _doubts_lock:
            if not _doubts or time.monotonic() - _doubts[0][0] < SURELY_OVER_SECONDS:
                return
            since, batch_id, items = _doubts.popleft()
        try:
            with meter.database.connection() as connection:
                row: Any = connection.execute(COMMITTED, (batch_id,)).fetchone()
        except Unreachable:
            with _doubts_lock:
                _doubts.appendleft((since, batch_id, items))
            return
        for item in items:
            if item.call is not None and item.call.ticket is not None:
                ticket = item.call.ticket
                # Without a lease nothing goes back: its units are used, and only no longer awaited.
                meter.give_back(ticket._replace(lease=None) if row[0] else ticket)
