"""The ledger's one commit: batch id, call log, usage hours, months, leases, windows and quota move together.

So ledger = rollup = quota at every commit. It is one statement, the function `metering_commit` (migration 0003): one round trip,
one transaction. The batch id is unique: sending a batch again after an ambiguous commit changes nothing. Rows are locked in key
order, quota first, so no two flushes wait for each other.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import groupby
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from . import histogram, pending, periods
from .database import Connection
from .recorder import HELD, Batch, Entry, Returns, Settled

logger = logging.getLogger(__name__)
HOUR = 3600.0
HALF_A_MICROSECOND = 5e-7  # the database rounds: what lies closer than this before an hour occurred in that hour
REFUSED_ROWS = 100  # refused calls of one key, capability and reason that a batch logs one by one; the rest share a row
BOUNDARY_MOVED = "MH001"
PLACINGS = 3  # when a boundary moves more often than this while one batch is sent, the batch is sent again later
ARGUMENTS = 34
POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
COMMIT = f"SELECT * FROM metering_commit({', '.join(['%s'] * ARGUMENTS)})"


def commit(connection: Connection, batch: Batch) -> list[Settled]:
    """The batch is in the database exactly once; empty when it was there already. Raises psycopg's errors.

    A call whose period's boundary has moved since it was admitted is recorded in the period that holds it now. While boundaries
    keep moving that is no error of the batch: raises SerializationFailure, an OperationalError, and nothing was recorded.
    """
    for placing in range(PLACINGS + 1):
        try:
            return _commit_all(connection, batch if placing == 0 else placed(connection, batch))
        except psycopg.Error as error:
            if error.sqlstate != BOUNDARY_MOVED:
                raise
    raise psycopg.errors.SerializationFailure("Boundaries of periods moved all the while.")


def _commit_all(connection: Connection, batch: Batch) -> list[Settled]:
    """As `commit_once`, and calls whose outcome is told later wait, in the same transaction."""
    held = [entry for entry in batch.entries if entry.outcome == HELD]
    if not held:
        return commit_once(connection, batch)
    others = tuple(entry for entry in batch.entries if entry.outcome != HELD)
    with connection.transaction():
        settled = pending.hold(connection, batch.id, held)  # first: what goes back is of leases that these have left
        if others or batch.returns:
            settled += commit_once(connection, Batch(others, batch.returns, batch.id))
    return settled


def commit_once(connection: Connection, batch: Batch) -> list[Settled]:
    """As `commit`, for a caller with a transaction of its own: a boundary that has moved is an error (BOUNDARY_MOVED)."""
    entries = _thinned(batch.entries)
    hours, places = _hours(entries)
    parameters = (batch.id, *_quotas(hours), *_rolled_up(hours), *_logged(entries, places), *_leaving(batch))
    return [Settled(*row) for row in connection.execute(COMMIT, parameters)]


def _thinned(entries: Iterable[Entry]) -> list[Entry]:
    """The entries, with a flood of refused calls folded into one row for each key, capability, reason and hour."""
    kept: list[Entry] = []
    seen: dict[tuple[object, ...], int] = {}
    folded: dict[tuple[object, ...], Entry] = {}
    for entry in entries:
        if entry.outcome != "refused":
            kept.append(entry)
            continue
        kind = (
            entry.tenant_id, entry.project_id, entry.key_id, entry.capability, entry.reason, entry.period_start,
            entry.occurred_at // HOUR,
        )  # fmt: skip
        seen[kind] = seen.get(kind, 0) + entry.calls
        if seen[kind] < REFUSED_ROWS:
            kept.append(entry)
        else:
            first = folded.get(kind)
            folded[kind] = entry if first is None else first._replace(calls=first.calls + entry.calls)
    kept.extend(folded.values())
    return kept


HourKey = tuple[UUID, float, float, int, int, str]  # tenant, period, hour, project, key, capability


@dataclass(slots=True)
class Change:
    """What a batch adds to one usage hour."""

    period_end: float
    first: float
    last: float
    place: int = 0  # among the batch's hours, from 1
    billable: int = 0
    units: int = 0
    failed: int = 0
    refused: int = 0
    latencies: dict[int, int] = field(default_factory=dict)  # bucket -> answered calls whose latency is known


Hours = dict[HourKey, Change]


def _hours(entries: list[Entry]) -> tuple[Hours, list[int]]:
    """What the entries add to the rollup, in key order; and the place of each entry's hour in it."""
    hours: Hours = {}
    of_entries = []
    for e in entries:
        at = e.occurred_at
        hour = (at + HALF_A_MICROSECOND) // HOUR * HOUR
        key = (e.tenant_id, e.period_start, hour, e.project_id, e.key_id, _storable(e.capability))
        change = hours.get(key)
        if change is None:
            change = hours[key] = Change(e.period_end, at, at)
        of_entries.append(change)
        change.first = min(change.first, at)
        change.last = max(change.last, at)
        if e.outcome == "refused":
            change.refused += e.calls
            continue
        if e.outcome == "billable":
            change.billable += e.calls
            change.units += e.units
        else:
            change.failed += e.calls
        if e.latency_us is not None:
            bucket = histogram.bucket(e.latency_us)
            change.latencies[bucket] = change.latencies.get(bucket, 0) + 1
    ordered = dict(sorted(hours.items()))
    for place, change in enumerate(ordered.values(), start=1):
        change.place = place
    return ordered, [change.place for change in of_entries]


def _quotas(hours: Hours) -> Iterator[str]:
    """The arguments q_: what the batch does to each quota row, in key order."""
    quotas = [
        (tenant_id, start, [change for _, change in of_quota])
        for (tenant_id, start), of_quota in groupby(hours.items(), key=lambda item: item[0][:2])
    ]
    yield _array(_uuid(tenant_id) for tenant_id, _, _ in quotas)
    yield _array(start for _, start, _ in quotas)
    yield _array(changes[0].period_end for _, _, changes in quotas)
    yield _array(min(change.first for change in changes) for _, _, changes in quotas)
    yield _array(max(change.last for change in changes) for _, _, changes in quotas)
    yield _array(sum(change.units for change in changes) for _, _, changes in quotas)
    yield _array(sum(change.failed for change in changes) for _, _, changes in quotas)
    yield _array(sum(change.refused for change in changes) for _, _, changes in quotas)


def _rolled_up(hours: Hours) -> Iterator[str | list[str]]:
    """The arguments h_: the rows of the rollup, in key order."""
    tenants, periods_, starts, projects, keys, capabilities = zip(*hours, strict=True) if hours else ((),) * 6
    changes = list(hours.values())
    latencies = [histogram.trimmed(change.latencies) for change in changes]
    yield _array(map(_uuid, tenants))
    for column in (starts, periods_, projects, keys):
        yield _array(column)
    yield list(capabilities)
    yield _array(change.billable for change in changes)
    yield _array(change.units for change in changes)
    yield _array(change.failed for change in changes)
    yield _array(change.refused for change in changes)
    yield _array(counts.start for counts in latencies)
    yield [_array(counts.counts) for counts in latencies]


def _logged(entries: list[Entry], places: list[int]) -> Iterator[str]:
    """The arguments c_: the rows of the call log."""
    if not entries:
        yield from ["{}"] * 10
        return
    columns = Entry(*zip(*entries, strict=True))  # type: ignore[arg-type]  # a column in each field
    yield _array(places)
    yield _array(columns.occurred_at)  # type: ignore[arg-type]
    yield _array(columns.id)
    yield _array(columns.outcome)
    yield _array(map(_quoted, columns.reason))
    yield _array(columns.status)  # type: ignore[arg-type]
    yield _array(columns.calls)  # type: ignore[arg-type]
    yield _array(columns.units)  # type: ignore[arg-type]
    yield _array("NULL" if latency_us is None else latency_us for latency_us in columns.latency_us)  # type: ignore[union-attr]
    yield _array("NULL" if lease_id is None else _uuid(lease_id) for lease_id in columns.lease_id)  # type: ignore[union-attr]


def _leaving(batch: Batch) -> Iterator[str]:
    """The arguments l_: leases whose units were used or go back, in key order."""
    leaving: Returns = dict(batch.returns)
    for entry in batch.entries:
        if entry.lease_id is not None:
            key = (entry.tenant_id, entry.lease_id)
            known = leaving.get(key, 0)
            leaving[key] = None if known is None else known + entry.units
    keys = sorted(leaving)
    yield _array(_uuid(tenant_id) for tenant_id, _ in keys)
    yield _array(_uuid(lease_id) for _, lease_id in keys)
    yield _array("NULL" if leaving[key] is None else leaving[key] for key in keys)


PERIODS = """
SELECT tenant_id, extract(epoch FROM period_start)::float8, extract(epoch FROM period_end)::float8
FROM metering_quota WHERE tenant_id = ANY(%s) ORDER BY tenant_id, period_start
"""
ANCHORS = "SELECT tenant_id, anchor FROM metering_allowance WHERE tenant_id = ANY(%s)"


def placed(connection: Connection, batch: Batch) -> Batch:
    """The batch, under the same id, with each call in the period that holds it now, or in one that overlaps no other."""
    tenant_ids = list({entry.tenant_id for entry in batch.entries})
    known: dict[UUID, list[tuple[float, float]]] = {}
    for tenant_id, start, end in connection.execute(PERIODS, (tenant_ids,)):
        known.setdefault(tenant_id, []).append((start, end))
    anchors: dict[UUID, datetime] = dict(connection.execute(ANCHORS, (tenant_ids,)))
    entries = []
    for entry in batch.entries:
        stored = entry._replace(occurred_at=_stored(entry.occurred_at).timestamp())
        of_tenant = known.setdefault(entry.tenant_id, [])
        period = _period_of(stored, of_tenant, anchors.get(entry.tenant_id))
        if period not in of_tenant:
            of_tenant.append(period)
        entries.append(stored._replace(period_start=period[0], period_end=period[1]))
    return Batch(tuple(entries), batch.returns, batch.id)


def _stored(instant: float) -> datetime:
    """The instant to the microsecond, rounded exactly as `to_timestamp` rounds it: the last before a boundary may become it."""
    return POSTGRES_EPOCH + timedelta(microseconds=round((instant - POSTGRES_EPOCH.timestamp()) * 1e6))


def _period_of(entry: Entry, known: list[tuple[float, float]], anchor: datetime | None) -> tuple[float, float]:
    """The known period that holds the call, or what its anchor predicts, trimmed to its neighbours: periods tile time."""
    at = entry.occurred_at
    for start, end in known:
        if start <= at < end:
            return start, end
    start, end = entry.period_start, entry.period_end
    if anchor is not None:
        predicted = periods.containing(anchor, datetime.fromtimestamp(at, UTC))
        start, end = predicted.start.timestamp(), predicted.end.timestamp()
    start = max([start, *(before for _, before in known if before <= at)])
    end = min([end, *(after for after, _ in known if after > at)])
    return start, end


def set_aside(connection: Connection, batch: Batch, error: psycopg.Error) -> None:
    """Records that the ledger cannot take are kept with the reason; their leases expire with the process."""
    tenant_id = batch.entries[0].tenant_id if batch.entries else next(iter(batch.returns))[0]
    records = [{name: _storable(str(getattr(entry, name))) for name in Entry._fields} for entry in batch.entries]
    logger.error("%d calls of tenant %s set aside: %s", len(batch.entries), tenant_id, error)
    connection.execute(
        "INSERT INTO metering_setaside (id, tenant_id, at, calls, error, records) VALUES (%s, %s, clock_timestamp(), %s, %s, %s) "
        "ON CONFLICT (id) DO NOTHING",
        (batch.id, tenant_id, len(batch.entries), str(error), Jsonb(records)),
    )


def _array(values: Iterable[object]) -> str:
    """An array literal of values whose text needs no quotes. psycopg's own takes 2 us for each element, this 0.2."""
    return "{" + ",".join(map(str, values)) + "}"


# The same few tenants, leases and texts come again and again in a batch: their text is made once.
_uuid = lru_cache(maxsize=4096)(str)


@lru_cache(maxsize=1024)
def _storable(text: str) -> str:
    """The text without what PostgreSQL cannot store: NUL and lone surrogates."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "")


@lru_cache(maxsize=1024)
def _quoted(text: str) -> str:
    """The text as an element of an array literal."""
    return '"' + _storable(text).replace("\\", "\\\\").replace('"', '\\"') + '"'
