"""How calls that the gateway admitted were answered: told by the operator's proxy in batches, or not in time.

A call is settled once: its row is deleted and the call committed in one transaction, so whatever is told twice, to whichever
process, counts once, and a kill at any point leaves either all of it or nothing. A call of which nothing was told within
GATE_OUTCOME_SECONDS counts as served.
"""

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any
from uuid import UUID

import psycopg
from django.conf import settings

from metering import calls, ledger
from metering.database import Connection, Connects
from metering.engine import engine
from metering.events.recording import in_transaction
from metering.models import Outcome
from metering.recorder import Batch, Entry, Settled

logger = logging.getLogger(__name__)
NO_OUTCOME = "no-outcome"  # the reason of a call that counts as served because nobody told
AT_A_TIME = 1000
TIME_ORDERED = 7  # version of the UUIDs that name calls
EARLY_SECONDS = 5.0  # an admitted call is held within 50 ms; while its process cannot reach PostgreSQL it takes longer
GONE_SECONDS = 30.0  # what a process may still hold that has not renewed for so long is given up
TAKE = """
DELETE FROM metering_pending p USING (SELECT id FROM metering_pending WHERE id = ANY(%s) ORDER BY id FOR UPDATE) AS told
WHERE p.id = told.id
RETURNING p.id, p.tenant_id, p.project_id, p.api_key_id, p.capability, p.units, extract(epoch FROM p.admitted_at)::float8,
    p.lease_id
"""
OVERDUE = """
SELECT id FROM metering_pending WHERE admitted_at < clock_timestamp() - make_interval(secs => %s)
ORDER BY admitted_at LIMIT %s
"""
# Up to when every admitted call is held or settled, as far as processes have said.
HELD_TO = """
SELECT least(clock_timestamp() - make_interval(secs => %s), min(counted_to)) FROM metering_process
WHERE expires_at > clock_timestamp() - make_interval(secs => %s)
"""
KNOWN = """
SELECT c.id, c.status, c.reason FROM unnest(%s::uuid[], %s::uuid[], %s::float8[]) AS told (tenant_id, id, at)
JOIN metering_call c ON c.tenant_id = told.tenant_id AND c.id = told.id
    AND c.occurred_at >= to_timestamp(told.at - 0.002) AND c.occurred_at < to_timestamp(told.at + 0.002)
"""


class State(StrEnum):
    SETTLED = "settled"
    ALREADY = "already"  # by an earlier outcome, or by none in time
    EARLY = "early"  # not held yet: tell it again
    UNKNOWN = "unknown"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Told:
    """What the proxy says of one call. `tenant_id` lets one that was settled before be told from one that never was."""

    call_id: UUID
    status: int
    latency_us: int | None = None
    tenant_id: UUID | None = None


@dataclass(slots=True)
class Result:
    state: State
    why: str = ""


def settle(told: Sequence[Told]) -> list[Result]:
    """Each call is in the ledger as it was answered, or its result says why not; one transaction. Raises Unreachable.

    Telling again is harmless, also after Unreachable, where it may have happened or not.
    """
    meter = engine()
    meter.flush()  # what this process admitted a moment ago is held
    first: dict[UUID, Told] = {}
    for one in told:
        first.setdefault(one.call_id, one)
    taken = _settle(meter.database, sorted(first), lambda call_id: first[call_id])
    with meter.database.connection() as connection:
        missing = [one for one in first.values() if one.call_id not in taken]
        known = _known(connection, missing) if missing else {}
        held_to = _held_to(connection) if len(known) < len(missing) else 0.0
        results, seen = [], set[UUID]()
        for one in told:
            is_new = one.call_id in taken and one.call_id not in seen
            results.append(Result(State.SETTLED) if is_new else _unsettled(one, one.call_id in taken, known, held_to))
            seen.add(one.call_id)
    return results


def settle_overdue() -> int:
    """Calls of which nothing was told in time count as served; returns how many did. Raises Unreachable."""
    meter, count = engine(), 0
    while True:
        with meter.database.connection() as connection:
            overdue = connection.execute(OVERDUE, (settings.GATE["OUTCOME_SECONDS"], AT_A_TIME)).fetchall()
        count += len(_settle(meter.database, sorted(call_id for (call_id,) in overdue), lambda _: None))
        if len(overdue) < AT_A_TIME:
            return count


Outcomes = Callable[[UUID], Told | None]


def _settle(database: Connects, call_ids: Sequence[UUID], outcome: Outcomes) -> set[UUID]:
    """Those of the calls that waited are in the ledger; which they are. One that the ledger cannot take stops nobody."""
    if not call_ids:
        return set()
    try:
        with database.connection() as connection:
            rows, settled = in_transaction(connection, lambda: _turn(connection, call_ids, outcome))
    except psycopg.Error as refused:
        error = refused  # the name that `except` gives ends with it
        if len(call_ids) > 1:
            middle = len(call_ids) // 2
            return _settle(database, call_ids[:middle], outcome) | _settle(database, call_ids[middle:], outcome)
        with database.connection() as connection:
            rows, settled = in_transaction(connection, lambda: _pass_over(connection, call_ids, outcome, error))
    _tell_leases(rows, settled)
    return {row.id for row in rows}


@dataclass(frozen=True, slots=True)
class Row:
    id: UUID
    tenant_id: UUID
    project_id: int
    key_id: int
    capability: str
    units: int
    admitted_at: float
    lease_id: UUID | None


def _turn(connection: Connection, call_ids: Sequence[UUID], outcome: Outcomes) -> tuple[list[Row], list[Settled]]:
    rows = [Row(*row) for row in connection.execute(TAKE, (list(call_ids),)).fetchall()]
    if not rows:
        return [], []
    entries = tuple(_entry(row, outcome(row.id)) for row in rows)
    batch = Batch(
        entries, _returns(row for row, entry in zip(rows, entries, strict=True) if not entry.units), uuid.uuid4()
    )
    return rows, ledger.commit_once(connection, ledger.placed(connection, batch))


def _entry(row: Row, told: Told | None) -> Entry:
    """The ledger's row; its period is found when it is committed."""
    status = HTTPStatus.OK.value if told is None else told.status
    is_billed = calls.is_billable(status)
    return Entry(
        str(row.id), row.tenant_id, row.project_id, row.key_id, row.capability,
        Outcome.BILLABLE.value if is_billed else Outcome.FAILED.value, NO_OUTCOME if told is None else "", status,
        row.units if is_billed else 0, None if told is None else told.latency_us, row.admitted_at, 0.0, 0.0,
        row.lease_id if is_billed else None,
    )  # fmt: skip


def _returns(rows: Iterable[Row]) -> dict[tuple[UUID, UUID], int | None]:
    """Units of calls that are not billed go back."""
    units: Counter[tuple[UUID, UUID]] = Counter()
    for row in rows:
        if row.lease_id is not None:
            units[row.tenant_id, row.lease_id] += row.units
    return dict(units)


def _pass_over(
    connection: Connection, call_ids: Sequence[UUID], outcome: Outcomes, error: psycopg.Error
) -> tuple[list[Row], list[Settled]]:
    """A call that the ledger cannot take is set aside with its reason, and holds nothing any more."""
    rows = [Row(*row) for row in connection.execute(TAKE, (list(call_ids),)).fetchall()]
    for row in rows:
        ledger.set_aside(connection, Batch((_entry(row, outcome(row.id)),), {}, uuid.uuid4()), error)
    returns = _returns(rows)
    return rows, ledger.commit_once(connection, Batch((), returns, uuid.uuid4())) if returns else []


def _tell_leases(rows: Sequence[Row], settled: Sequence[Settled]) -> None:
    """What this process knows of the tenants follows."""
    units: Counter[UUID] = Counter()
    for row in rows:
        units[row.tenant_id] += row.units
    for quota in settled:
        engine().leases.settle(
            quota.tenant_id, period_start=quota.period_start, used=quota.used, recorded=0, let_go=units[quota.tenant_id]
        )


def _known(connection: Connection, missing: Sequence[Told]) -> dict[UUID, tuple[int, str]]:
    """Status and reason of those that are in the ledger, where the tenant is named."""
    named = [one for one in missing if one.tenant_id is not None and one.call_id.version == TIME_ORDERED]
    columns = (
        [one.tenant_id for one in named],
        [one.call_id for one in named],
        [_admitted_at(one.call_id) for one in named],
    )
    return {call_id: (status, reason) for call_id, status, reason in connection.execute(KNOWN, columns).fetchall()}


def _held_to(connection: Connection) -> float:
    row: Any = connection.execute(HELD_TO, (EARLY_SECONDS, GONE_SECONDS)).fetchone()
    return float(row[0].timestamp())


def _admitted_at(call_id: UUID) -> float:
    """A call's id begins with its milliseconds."""
    return (call_id.int >> 80) / 1000


def _unsettled(one: Told, was_told: bool, known: dict[UUID, tuple[int, str]], held_to: float) -> Result:
    if was_told:
        return Result(State.ALREADY, "It stands in this request twice; the first one counts.")
    if one.call_id in known:
        status, reason = known[one.call_id]
        if reason == NO_OUTCOME:
            seconds = settings.GATE["OUTCOME_SECONDS"]
            return Result(State.ALREADY, f"It counts as served: no outcome came within {seconds:g} seconds.")
        return Result(State.ALREADY, f"It was settled before, with status {status}.")
    if one.call_id.version == TIME_ORDERED and _admitted_at(one.call_id) > held_to:
        return Result(State.EARLY, "It is not held yet. Tell it again in a second.")
    return Result(State.UNKNOWN, "No call with this id awaits an outcome: it was settled before, or never admitted.")
