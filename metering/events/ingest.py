"""Events become calls in the ledger, each once: its name is kept for ever in the transaction that records it.

An event that asks to be admitted takes its units out of a lease, as a call does, and is recorded only if the limits let it. All
others tell of what has happened: they are recorded even beyond a limit, and the answer says so.

Fails closed: without PostgreSQL nothing is taken, and the sender sends again. Sending again is harmless.
"""

import hashlib
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import psycopg
from django.conf import settings

from metering import calls, ledger
from metering.database import Connection, Unreachable
from metering.engine import Engine, engine
from metering.models import Outcome
from metering.recorder import Batch, Entry, Settled, call_id
from tenants.keys import Caller
from tenants.problems import Problem, ServiceUnavailable

from .shapes import Event, Fault

logger = logging.getLogger(__name__)
AHEAD_SECONDS = 300.0  # clocks differ: an event from so far ahead counts now, one from further is refused
NOW = (
    "SELECT extract(epoch FROM clock_timestamp())::float8, EXISTS (SELECT FROM metering_allowance WHERE tenant_id = %s)"
)
KNOWN = "SELECT digest, call_id FROM metering_event WHERE tenant_id = %s AND digest = ANY(%s)"
REMEMBER = """
INSERT INTO metering_event (tenant_id, digest, call_id)
SELECT %s, name.digest, name.call_id FROM unnest(%s::bytea[], %s::uuid[]) AS name (digest, call_id)
ON CONFLICT DO NOTHING RETURNING digest
"""
STANDING = """
SELECT used, admits FROM metering_quota_row
WHERE tenant_id = %s AND period_start <= to_timestamp(%s) AND period_end > to_timestamp(%s)
"""
COMMITTED = "SELECT EXISTS (SELECT FROM metering_batch WHERE id = %s)"
SURELY_OVER_SECONDS = 10.0  # no statement of the engine's connections lives for so long


class State(StrEnum):
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # recorded before, by this request or an earlier one
    REFUSED = "refused"  # by a limit, which the event asked for
    REJECTED = "rejected"  # it is not valid, or of a time that is not taken


@dataclass(slots=True)
class Result:
    """What became of one event."""

    id: str | None
    state: State
    call_id: str | None = None
    why: str = ""
    problem: Problem | None = None  # of a refused one
    call: calls.MeteredCall | None = field(default=None, repr=False)  # of one that asked to be admitted


@dataclass(frozen=True, slots=True)
class Standing:
    """The running period after a request: units used, and what is admitted of them (None: no bound)."""

    used: int
    admits: int | None

    @property
    def is_exceeded(self) -> bool:
        return self.admits is not None and self.used > self.admits


@dataclass(slots=True)
class _Item:
    """An event on its way: what it becomes in the ledger, and where its result stands."""

    event: Event
    result: Result
    digest: bytes
    at: float
    call: calls.MeteredCall | None = None  # admitted


def record(*, caller: Caller, events: Sequence[Event | Fault]) -> tuple[list[Result], Standing]:
    """Every event is in the ledger once, or its result says why not; one transaction for all of them.

    Raises NoPlan, LimitUnavailable and ServiceUnavailable: nothing was recorded then, or all of it was and nobody could say so;
    the same events may be sent again.
    """
    meter = engine()
    _settle_doubts(meter)
    try:
        with meter.database.connection() as connection:
            now = _now(connection, meter, caller.tenant_id)
            results = [Result(event.id, State.REJECTED, why="") for event in events]
            items = list(_valid(events, results, now))
            _drop_known(connection, caller.tenant_id, items)
        items = _admitted([item for item in items if item.result.state is not State.DUPLICATE], caller)
        if items:
            _commit(meter, caller, items)
        standing = _standing(meter, caller.tenant_id, now)
    except Unreachable:
        raise ServiceUnavailable from None
    return results, standing


def digest(source: str, event_id: str) -> bytes:
    """What is kept of an event's name: 128 bits of SHA-256, so that two names never meet."""
    return hashlib.sha256(f"{source}\x00{event_id}".encode()).digest()[:16]


def oldest_taken(now: float) -> float:
    """Events from before this instant are refused: the call log does not keep their day any more."""
    return now - timedelta(days=min(settings.EVENTS_MAX_AGE_DAYS, settings.CALL_LOG_DAYS - 1)).total_seconds()


def _now(connection: Connection, meter: Engine, tenant_id: UUID) -> float:
    """Database time; raises NoPlan for a tenant without an allowance."""
    asked = meter.clock.monotonic()
    row: Any = connection.execute(NOW, (tenant_id,)).fetchone()
    now, has_allowance = row
    meter.clock.set(database_epoch=now, asked=asked)
    if not has_allowance:
        raise calls.NoPlan
    return float(now)


def _valid(events: Sequence[Event | Fault], results: list[Result], now: float) -> Iterator[_Item]:
    """The events that may be recorded, in their order; of two with one name the first."""
    seen: dict[bytes, Result] = {}
    for event, result in zip(events, results, strict=True):
        if isinstance(event, Fault):
            result.why = event.why
            continue
        at = now if event.occurred_at is None or event.admit else event.occurred_at.timestamp()
        result.why = _bad_time(at, now)
        if result.why:
            continue
        name = digest(event.source, event.id)
        result.state = State.DUPLICATE if name in seen else State.ACCEPTED
        if name not in seen:
            seen[name] = result
            yield _Item(event, result, name, min(at, now))


def _bad_time(at: float, now: float) -> str:
    if at > now + AHEAD_SECONDS:
        return f"The time is more than {AHEAD_SECONDS:.0f} seconds ahead of ours."
    if at < oldest_taken(now):
        return f"The time is before {datetime.fromtimestamp(oldest_taken(now), UTC):%Y-%m-%dT%H:%M:%SZ}, too old to be counted."
    return ""


def _drop_known(connection: Connection, tenant_id: UUID, items: list[_Item]) -> None:
    """What was recorded before is marked: it must not ask for units. Whether it is new is decided by the constraint, later."""
    known = _known(connection, tenant_id, [item for item in items if item.event.admit])
    for item in items:
        if item.digest in known:
            item.result.state, item.result.call_id = State.DUPLICATE, str(known[item.digest])


def _known(connection: Connection, tenant_id: UUID, items: list[_Item]) -> dict[bytes, UUID]:
    """The call ids of those that were recorded before."""
    names = [item.digest for item in items]
    return dict(connection.execute(KNOWN, (tenant_id, names)).fetchall()) if names else {}


def _admitted(items: list[_Item], caller: Caller) -> list[_Item]:
    """The items without those that a limit refuses. Raises NoPlan or LimitUnavailable, with every unit given back."""
    kept: list[_Item] = []
    try:
        for item in items:
            if item.event.admit and calls.is_billable(item.event.status):
                item.call = calls.open_call(caller=caller, capability=item.event.capability, cost=item.event.units)
                item.result.call = item.call
                if item.call.problem is not None:
                    _refuse(item)
                    continue
            kept.append(item)
    except BaseException:
        _give_back(kept)
        raise
    return kept


def _refuse(item: _Item) -> None:
    """Counted as refused, and not remembered: the sender may ask again."""
    call = item.call
    assert call is not None
    assert call.problem is not None
    item.result.state, item.result.problem, item.result.why = State.REFUSED, call.problem, str(call.problem.detail)
    calls.close_call(call, status=call.problem.status_code, latency_us=item.event.latency_us)


def _give_back(items: Sequence[_Item]) -> None:
    for item in items:
        if item.call is not None and item.call.ticket is not None:
            engine().give_back(item.call.ticket)
            item.call.ticket = None


def _commit(meter: Engine, caller: Caller, items: list[_Item]) -> None:
    """Recorded in one transaction with their names; what was recorded before is marked, and its units are free again."""
    batch_id = uuid.uuid4()
    try:
        with meter.database.connection() as connection:
            settled = _recorded(connection, caller, items, batch_id)
    except Unreachable:
        with _doubts_lock:
            _doubts.append((time.monotonic(), batch_id, items))
        raise
    except BaseException:
        _give_back(items)
        raise
    admitted = [item.call.ticket for item in items if item.result.state is State.ACCEPTED and item.call is not None]
    for quota in settled:
        units = sum(one.cost for one in admitted if one is not None and one.bounds.start == quota.period_start)
        meter.leases.settle(quota.tenant_id, period_start=quota.period_start, used=quota.used, recorded=units)
    _give_back([item for item in items if item.result.state is State.DUPLICATE])


def _recorded(connection: Connection, caller: Caller, items: list[_Item], batch_id: UUID) -> list[Settled]:
    for _ in range(ledger.PLACINGS + 1):
        try:
            with connection.transaction():
                new = _remembered(connection, caller.tenant_id, items)
                entries = tuple(_entry(item, caller) for item in items if item.digest in new)
                return ledger.commit_once(connection, ledger.placed(connection, Batch(entries, {}, batch_id)))
        except psycopg.Error as error:
            if error.sqlstate != ledger.BOUNDARY_MOVED:
                raise
    raise Unreachable("Boundaries of periods moved all the while.")


def _remembered(connection: Connection, tenant_id: UUID, items: list[_Item]) -> set[bytes]:
    """The names that are new, kept from now on; the other items are marked. In key order: no two requests wait for each other."""
    ordered = sorted(items, key=lambda item: item.digest)
    for item in ordered:
        item.result.call_id = item.result.call_id or (item.call.id if item.call else call_id(item.at))
    names, ids = [item.digest for item in ordered], [item.result.call_id for item in ordered]
    new = {bytes(row[0]) for row in connection.execute(REMEMBER, (tenant_id, names, ids)).fetchall()}
    lost = [item for item in ordered if item.digest not in new]
    known = _known(connection, tenant_id, lost)
    for item in lost:
        item.result.state, item.result.call_id = State.DUPLICATE, str(known.get(item.digest, ""))
    return new


def _entry(item: _Item, caller: Caller) -> Entry:
    """The ledger's row. The period of one that nothing admitted is found when it is committed."""
    event, call = item.event, item.call
    ticket = call.ticket if call else None
    outcome, units = (Outcome.BILLABLE, event.units) if calls.is_billable(event.status) else (Outcome.FAILED, 0)
    bounds = ticket.bounds if ticket else None
    return Entry(
        str(item.result.call_id), caller.tenant_id, caller.project_id, caller.key_id, event.capability, outcome.value, "",
        event.status, units, event.latency_us, ticket.occurred_at if ticket else item.at,
        bounds.start if bounds else 0.0, bounds.end if bounds else 0.0,
        ticket.lease.id if ticket and ticket.lease else None,
    )  # fmt: skip


def _standing(meter: Engine, tenant_id: UUID, now: float) -> Standing:
    with meter.database.connection() as connection:
        row: Any = connection.execute(STANDING, (tenant_id, now, now)).fetchone()
    return Standing(*row) if row else Standing(0, None)


# -- commits that were cut off -----------------------------------------------------------------------------------------

_doubts: deque[tuple[float, UUID, list[_Item]]] = deque()
_doubts_lock = threading.Lock()


def _settle_doubts(meter: Engine) -> None:
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
                meter.give_back(
                    ticket._replace(lease=None) if row[0] else ticket
                )  # without a lease: it is only not awaited
