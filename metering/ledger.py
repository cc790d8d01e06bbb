"""The ledger's one transaction: batch id, call log, usage hours, leases and quota move together.

So ledger = rollup = quota at every commit. The batch id is unique: sending a batch again after an ambiguous commit
changes nothing. Rows are locked in key order, quota first, so no two flushes wait for each other.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from . import histogram
from .database import Connection
from .recorder import Batch, Entry, Returns, Settled

logger = logging.getLogger(__name__)
HOUR = 3600.0
REFUSED_ROWS = 100  # refused calls of one key, capability and reason that a batch logs one by one; the rest share a row

CLAIM = "INSERT INTO metering_batch (id, committed_at) VALUES (%s, clock_timestamp()) ON CONFLICT (id) DO NOTHING RETURNING 1"
# Quota rows are locked in key order before anything else of their tenants is touched: no two flushes wait for each other.
LOCK = """
SELECT 1 FROM metering_quota q JOIN unnest(%s::uuid[], %s::timestamptz[]) AS k (tenant_id, period_start)
    ON q.tenant_id = k.tenant_id AND q.period_start = k.period_start
ORDER BY q.tenant_id, q.period_start FOR UPDATE OF q
"""
OPEN = """
INSERT INTO metering_quota (tenant_id, period_start, period_end, included, admits)
SELECT k.tenant_id, k.period_start, k.period_end, a.included,
       least(a.hard_limit, CASE WHEN a.policy = 'rate' THEN NULL ELSE a.included END)
FROM unnest(%s::uuid[], %s::timestamptz[], %s::timestamptz[]) AS k (tenant_id, period_start, period_end)
LEFT JOIN metering_allowance a ON a.tenant_id = k.tenant_id
ORDER BY k.tenant_id, k.period_start
ON CONFLICT (tenant_id, period_start) DO NOTHING
"""
LOG = """
COPY metering_call (tenant_id, occurred_at, id, period_start, project_id, api_key_id, capability, outcome, reason, status,
                    calls, units, latency_us, lease_id, batch_id) FROM STDIN
"""
ROLL_UP = """
INSERT INTO metering_usage_hour AS h (tenant_id, hour, period_start, project_id, api_key_id, capability, billable, units,
                                      failed, refused, latency_start, latency_counts)
SELECT tenant_id, hour, period_start, project_id, api_key_id, capability, billable, units, failed, refused, latency_start,
       latency_counts::integer[]
FROM unnest(%s::uuid[], %s::timestamptz[], %s::timestamptz[], %s::bigint[], %s::bigint[], %s::text[], %s::bigint[], %s::bigint[],
            %s::bigint[], %s::bigint[], %s::smallint[], %s::text[])
  AS n (tenant_id, hour, period_start, project_id, api_key_id, capability, billable, units, failed, refused, latency_start,
        latency_counts)
ON CONFLICT (tenant_id, hour, period_start, project_id, api_key_id, capability) DO UPDATE SET
    billable = h.billable + EXCLUDED.billable,
    units = h.units + EXCLUDED.units,
    failed = h.failed + EXCLUDED.failed,
    refused = h.refused + EXCLUDED.refused,
    latency_start = metering_histogram_start(h.latency_start, h.latency_counts, EXCLUDED.latency_start, EXCLUDED.latency_counts),
    latency_counts = metering_histogram_sum(h.latency_start, h.latency_counts, EXCLUDED.latency_start, EXCLUDED.latency_counts)
"""
# Leases that were reclaimed meanwhile are gone, and take nothing off `reserved`. NULL units: the whole lease goes back.
SETTLE_LEASES = """
UPDATE metering_lease l SET units = l.units - least(coalesce(n.units, l.units), l.units)
FROM unnest(%s::uuid[], %s::uuid[], %s::bigint[]) AS n (tenant_id, id, units), metering_lease before
WHERE l.tenant_id = n.tenant_id AND l.id = n.id AND before.tenant_id = n.tenant_id AND before.id = n.id
RETURNING l.tenant_id, l.period_start, before.units - l.units, l.units = 0
"""
DROP_EMPTY = (
    "DELETE FROM metering_lease WHERE units = 0 AND (tenant_id, id) IN (SELECT * FROM unnest(%s::uuid[], %s::uuid[]))"
)
SETTLE_QUOTA = """
UPDATE metering_quota q SET used = q.used + n.used, reserved = q.reserved - n.released, failed = q.failed + n.failed,
                            refused = q.refused + n.refused
FROM unnest(%s::uuid[], %s::timestamptz[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
  AS n (tenant_id, period_start, used, released, failed, refused)
WHERE q.tenant_id = n.tenant_id AND q.period_start = n.period_start
RETURNING q.tenant_id, extract(epoch FROM q.period_start)::float8, q.used, n.used
"""


def commit(connection: Connection, batch: Batch) -> list[Settled]:
    """The batch is in the database exactly once; empty when it was there already. Raises psycopg's errors."""
    with connection.transaction():
        if connection.execute(CLAIM, (batch.id,)).fetchone() is None:
            return []
        quotas = _quotas(connection, batch)
        _lock(connection, quotas)
        entries = list(_thinned(batch.entries))
        _log(connection, entries, batch.id)
        _roll_up(connection, entries)
        _settle_leases(connection, batch, quotas)
        return _settle_quotas(connection, quotas)


@dataclass(slots=True)
class QuotaChange:
    period_end: float
    used: int = 0
    released: int = 0
    failed: int = 0
    refused: int = 0


Quotas = dict[tuple[UUID, float], QuotaChange]


def _quotas(connection: Connection, batch: Batch) -> Quotas:
    """What the batch does to each quota row; rows of leases that only go back are found by their lease."""
    quotas: Quotas = {}
    for entry in batch.entries:
        key = (entry.tenant_id, entry.period_start)
        change = quotas.get(key)
        if change is None:
            change = quotas[key] = QuotaChange(entry.period_end)
        change.used += entry.units
        if entry.outcome == "failed":
            change.failed += entry.calls
        elif entry.outcome == "refused":
            change.refused += entry.calls
    if batch.returns:
        rows = connection.execute(
            "SELECT DISTINCT l.tenant_id, extract(epoch FROM l.period_start)::float8, extract(epoch FROM q.period_end)::float8 "
            "FROM unnest(%s::uuid[], %s::uuid[]) AS n (tenant_id, id) JOIN metering_lease l USING (tenant_id, id) "
            "JOIN metering_quota q USING (tenant_id, period_start)",
            (_array(key[0] for key in batch.returns), _array(key[1] for key in batch.returns)),
        ).fetchall()
        for tenant_id, start, end in rows:
            quotas.setdefault((tenant_id, start), QuotaChange(end))
    return dict(sorted(quotas.items()))


def _lock(connection: Connection, quotas: Quotas) -> None:
    tenants = _array(tenant_id for tenant_id, _ in quotas)
    starts = _array(_utc(start) for _, start in quotas)
    locked = connection.execute(LOCK, (tenants, starts)).rowcount
    if locked < len(quotas):  # a period that opened during an outage
        connection.execute(OPEN, (tenants, starts, _array(_utc(change.period_end) for change in quotas.values())))
        connection.execute(LOCK, (tenants, starts))


def _thinned(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries, with a flood of refused calls folded into one row for each key, capability, reason and hour."""
    seen: dict[tuple[Any, ...], int] = {}
    folded: dict[tuple[Any, ...], Entry] = {}
    for entry in entries:
        if entry.outcome != "refused":
            yield entry
            continue
        kind = (
            entry.tenant_id, entry.project_id, entry.key_id, entry.capability, entry.reason, entry.period_start,
            entry.occurred_at // HOUR,
        )  # fmt: skip
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] < REFUSED_ROWS:
            yield entry
        else:
            folded.setdefault(kind, entry)
    for kind, entry in folded.items():
        yield entry._replace(calls=seen[kind] - REFUSED_ROWS + 1)


def _log(connection: Connection, entries: list[Entry], batch_id: UUID) -> None:
    batch = str(batch_id)
    lines = [
        f"{_uuid(e.tenant_id)}\t{_instant(e.occurred_at)}\t{e.id}\t{_start(e.period_start)}\t{e.project_id}\t{e.key_id}\t"
        f"{_text(e.capability)}\t{e.outcome}\t{_text(e.reason)}\t{e.status}\t{e.calls}\t{e.units}\t{e.latency_us}\t"
        f"{_uuid(e.lease_id) if e.lease_id else _NULL}\t{batch}\n"
        for e in entries
    ]
    with connection.cursor() as cursor, cursor.copy(LOG) as copy:
        copy.write("".join(lines))


@dataclass(slots=True)
class HourChange:
    billable: int = 0
    units: int = 0
    failed: int = 0
    refused: int = 0
    latencies: dict[int, int] = field(default_factory=dict)  # bucket -> answered calls


def _roll_up(connection: Connection, entries: list[Entry]) -> None:
    hours = _hours(entries)
    if not hours:
        return
    keys = sorted(hours)
    changes = [hours[key] for key in keys]
    trimmed = [histogram.trimmed(change.latencies) for change in changes]
    connection.execute(
        ROLL_UP,
        (
            _array(key[0] for key in keys),
            _array(_utc(key[1]) for key in keys),
            _array(_utc(key[2]) for key in keys),
            _array(key[3] for key in keys),
            _array(key[4] for key in keys),
            [key[5] for key in keys],
            _array(change.billable for change in changes),
            _array(change.units for change in changes),
            _array(change.failed for change in changes),
            _array(change.refused for change in changes),
            _array(counts.start for counts in trimmed),
            [_array(counts.counts) for counts in trimmed],
        ),
    )


def _hours(entries: list[Entry]) -> dict[tuple[Any, ...], HourChange]:
    """What the entries add to each row of the rollup, by its key."""
    hours: dict[tuple[Any, ...], HourChange] = {}
    for e in entries:
        key = (
            e.tenant_id,
            e.occurred_at // HOUR * HOUR,
            e.period_start,
            e.project_id,
            e.key_id,
            _storable(e.capability),
        )
        change = hours.get(key)
        if change is None:
            change = hours[key] = HourChange()
        if e.outcome == "refused":
            change.refused += e.calls
            continue
        if e.outcome == "billable":
            change.billable += e.calls
            change.units += e.units
        else:
            change.failed += e.calls
        bucket = histogram.bucket(e.latency_us)
        change.latencies[bucket] = change.latencies.get(bucket, 0) + 1
    return hours


def _settle_leases(connection: Connection, batch: Batch, quotas: Quotas) -> None:
    leaving: Returns = dict(batch.returns)
    for entry in batch.entries:
        if entry.lease_id is not None:
            key = (entry.tenant_id, entry.lease_id)
            known = leaving.get(key, 0)
            leaving[key] = None if known is None else known + entry.units
    if not leaving:
        return
    keys = sorted(leaving)
    tenants, ids = _array(key[0] for key in keys), _array(key[1] for key in keys)
    rows = connection.execute(SETTLE_LEASES, (tenants, ids, _array(leaving[key] for key in keys))).fetchall()
    for tenant_id, period_start, units, _ in rows:
        change = quotas.get((tenant_id, period_start.timestamp()))
        if change is None:  # a grant whose answer was lost committed a moment ago: its quota row is not locked yet
            raise psycopg.errors.SerializationFailure("A lease appeared during the flush.")
        change.released += units
    if any(is_empty for *_, is_empty in rows):
        connection.execute(DROP_EMPTY, (tenants, ids))


def _settle_quotas(connection: Connection, quotas: Quotas) -> list[Settled]:
    if not quotas:
        return []
    rows = connection.execute(
        SETTLE_QUOTA,
        (
            _array(tenant_id for tenant_id, _ in quotas),
            _array(_utc(start) for _, start in quotas),
            _array(change.used for change in quotas.values()),
            _array(change.released for change in quotas.values()),
            _array(change.failed for change in quotas.values()),
            _array(change.refused for change in quotas.values()),
        ),
    ).fetchall()
    return [Settled(*row) for row in rows]


def set_aside(connection: Connection, batch: Batch, error: psycopg.Error) -> None:
    """Records that the ledger cannot take are kept with the reason; their leases expire with the process."""
    tenant_id = batch.entries[0].tenant_id if batch.entries else next(iter(batch.returns))[0]
    records = [{name: str(getattr(entry, name)) for name in Entry._fields} for entry in batch.entries]
    logger.error("%d calls of tenant %s set aside: %s", len(batch.entries), tenant_id, error)
    connection.execute(
        "INSERT INTO metering_setaside (id, tenant_id, at, calls, error, records) VALUES (%s, %s, clock_timestamp(), %s, %s, %s) "
        "ON CONFLICT (id) DO NOTHING",
        (batch.id, tenant_id, len(batch.entries), str(error), Jsonb(records)),
    )


_NULL = "\\N"


def _array(values: Iterable[object]) -> str:
    """An array literal of values whose text needs no quotes. psycopg's own takes 2 us for each element, this 0.3."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def _utc(epoch: float) -> datetime:
    return datetime.fromtimestamp(epoch, UTC)


# The same few tenants, leases, periods and texts come again and again in a batch: their text is made once.
_uuid = lru_cache(maxsize=1024)(str)


@lru_cache(maxsize=1024)
def _start(epoch: float) -> str:
    return str(_utc(epoch))


def _instant(epoch: float) -> str:
    second, microsecond = divmod(round(epoch * 1_000_000), 1_000_000)
    return f"{_second(second)}.{microsecond:06d}+00"


@lru_cache(maxsize=1024)
def _second(epoch: int) -> str:
    return f"{_utc(epoch):%Y-%m-%d %H:%M:%S}"


@lru_cache(maxsize=1024)
def _storable(text: str) -> str:
    """The text without what PostgreSQL cannot store: NUL and lone surrogates."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "")


@lru_cache(maxsize=1024)
def _text(text: str) -> str:
    """COPY's text format: backslash, tab and line ends are escaped."""
    return _storable(text).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
