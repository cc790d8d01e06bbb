"""What must hold between ledger, rollup, quota and leases at every commit. One checker for fault tests, `doctor` and production.

Each check is one statement grouped by tenant and returns the violations it finds; none means that the invariant holds.
Read all of them inside one `snapshot()`: numbers of two moments may differ without anything being wrong.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from . import partitions
from .pending import HOLDER

DEAD_LEASE_TIMES = 10


@dataclass(frozen=True, slots=True)
class Violation:
    """What does not hold for a tenant, or for all of them, in words and figures."""

    tenant_id: UUID | None
    detail: str


@contextmanager
def snapshot() -> Iterator[None]:
    """Everything read inside is of one moment (REPEATABLE READ, READ ONLY). Not inside another transaction."""
    with transaction.atomic(durable=True):
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


# {where} and {and_where} may name one tenant, so that a fault test checks its own.
QUOTAS = """
WITH quota AS (
    SELECT tenant_id, period_start, used, failed, refused FROM metering_quota {where}
), hours AS (
    SELECT tenant_id, period_start, sum(units) AS used, sum(failed) AS failed, sum(refused) AS refused
    FROM metering_usage_hour {where} GROUP BY tenant_id, period_start
)
SELECT tenant_id, period_start, coalesce(q.used, 0), coalesce(h.used, 0), coalesce(q.failed, 0), coalesce(h.failed, 0),
       coalesce(q.refused, 0), coalesce(h.refused, 0)
FROM quota q FULL JOIN hours h USING (tenant_id, period_start)
WHERE (coalesce(q.used, 0), coalesce(q.failed, 0), coalesce(q.refused, 0))
   <> (coalesce(h.used, 0), coalesce(h.failed, 0), coalesce(h.refused, 0))
ORDER BY tenant_id, period_start
"""
RESERVED = """
WITH quota AS (
    SELECT tenant_id, period_start, reserved FROM metering_quota {where}
), leases AS (
    SELECT tenant_id, period_start, sum(units) AS units FROM metering_lease {where} GROUP BY tenant_id, period_start
)
SELECT tenant_id, period_start, coalesce(q.reserved, 0), coalesce(l.units, 0)
FROM quota q FULL JOIN leases l USING (tenant_id, period_start)
WHERE coalesce(q.reserved, 0) <> coalesce(l.units, 0)
ORDER BY tenant_id, period_start
"""
# A call belongs to the period that holds its time: what is summed up in another one differs here, and so does a call of none.
CALL_LOG = """
WITH period AS (
    SELECT tenant_id, period_start, period_end FROM metering_quota WHERE period_end > %(since)s {and_where}
), ledger AS (
    SELECT c.tenant_id, p.period_start, c.occurred_at, c.outcome, c.calls, c.units FROM metering_call c
    LEFT JOIN period p ON p.tenant_id = c.tenant_id AND c.occurred_at >= p.period_start AND c.occurred_at < p.period_end
    WHERE c.occurred_at >= %(since)s {and_where_call}
    UNION ALL
    SELECT c.tenant_id, p.period_start, c.occurred_at, 'billable', c.calls, c.units FROM metering_adjustment c
    LEFT JOIN period p ON p.tenant_id = c.tenant_id AND p.period_start = c.period_start
        AND c.occurred_at >= p.period_start AND c.occurred_at < p.period_end
    WHERE c.occurred_at >= %(since)s {and_where_call}
), log AS (
    SELECT tenant_id, period_start, date_trunc('hour', occurred_at, 'UTC') AS hour, sum(units) AS units,
           coalesce(sum(calls) FILTER (WHERE outcome = 'billable'), 0) AS billable,
           coalesce(sum(calls) FILTER (WHERE outcome = 'failed'), 0) AS failed,
           coalesce(sum(calls) FILTER (WHERE outcome = 'refused'), 0) AS refused
    FROM ledger GROUP BY 1, 2, 3
), hours AS (
    SELECT tenant_id, period_start, hour, sum(units) AS units, sum(billable) AS billable, sum(failed) AS failed,
           sum(refused) AS refused
    FROM metering_usage_hour WHERE hour >= %(since)s {and_where} GROUP BY 1, 2, 3
)
SELECT tenant_id, min(hour), count(DISTINCT hour), sum(coalesce(c.units, 0)), sum(coalesce(h.units, 0)),
       sum(abs(coalesce(c.units, 0) - coalesce(h.units, 0)) + abs(coalesce(c.billable, 0) - coalesce(h.billable, 0))
           + abs(coalesce(c.failed, 0) - coalesce(h.failed, 0)) + abs(coalesce(c.refused, 0) - coalesce(h.refused, 0)))
FROM log c FULL JOIN hours h USING (tenant_id, period_start, hour)
WHERE (coalesce(c.units, 0), coalesce(c.billable, 0), coalesce(c.failed, 0), coalesce(c.refused, 0))
   <> (coalesce(h.units, 0), coalesce(h.billable, 0), coalesce(h.failed, 0), coalesce(h.refused, 0))
GROUP BY tenant_id ORDER BY tenant_id
"""
HELD = """
WITH leases AS (
    SELECT tenant_id, id AS lease_id, units FROM metering_lease WHERE process_id = %(holder)s {and_where}
), calls AS (
    SELECT tenant_id, lease_id, sum(units) AS units FROM metering_pending WHERE lease_id IS NOT NULL {and_where} GROUP BY 1, 2
)
SELECT tenant_id, coalesce(l.units, 0), coalesce(c.units, 0) FROM leases l FULL JOIN calls c USING (tenant_id, lease_id)
WHERE coalesce(l.units, 0) <> coalesce(c.units, 0) ORDER BY tenant_id
"""
MONTHS = """
WITH months AS (
    SELECT tenant_id, month, units, billable, failed, refused FROM metering_usage_month {where}
), hours AS (
    SELECT tenant_id, date_trunc('month', hour, 'UTC') AS month, sum(units) AS units, sum(billable) AS billable,
           sum(failed) AS failed, sum(refused) AS refused
    FROM metering_usage_hour {where} GROUP BY 1, 2
)
SELECT tenant_id, month, coalesce(m.units, 0), coalesce(h.units, 0)
FROM months m FULL JOIN hours h USING (tenant_id, month)
WHERE (coalesce(m.units, 0), coalesce(m.billable, 0), coalesce(m.failed, 0), coalesce(m.refused, 0))
   <> (coalesce(h.units, 0), coalesce(h.billable, 0), coalesce(h.failed, 0), coalesce(h.refused, 0))
ORDER BY tenant_id, month
"""
WINDOWS = """
SELECT tenant_id, w.kind, w.subject_id, w.window_start, w.used, h.used, w.reserved, l.units
FROM (SELECT * FROM metering_window {where}) w
CROSS JOIN LATERAL (
    SELECT coalesce(sum(units), 0) AS used FROM metering_usage_hour h WHERE h.tenant_id = w.tenant_id AND CASE w.kind
        WHEN 'day' THEN h.hour >= w.window_start AND h.hour < w.window_start + interval '1 day'
        WHEN 'project' THEN h.period_start = w.window_start AND h.project_id = w.subject_id
        ELSE h.period_start = w.window_start AND h.api_key_id = w.subject_id END
) h
CROSS JOIN LATERAL (
    SELECT coalesce(sum(units), 0) AS units FROM metering_lease l WHERE l.tenant_id = w.tenant_id AND CASE w.kind
        WHEN 'day' THEN l.day = w.window_start
        WHEN 'project' THEN l.period_start = w.window_start AND l.project_id = w.subject_id
        ELSE l.period_start = w.window_start AND l.api_key_id = w.subject_id END
) l
WHERE (w.used, w.reserved) <> (h.used, l.units)
ORDER BY tenant_id, w.kind, w.subject_id
"""
OVERLAPS = """
SELECT tenant_id, a.period_start, a.period_end, b.period_start FROM (SELECT * FROM metering_quota {where}) a
JOIN metering_quota b USING (tenant_id)
WHERE a.period_start < b.period_start AND a.period_end > b.period_start
ORDER BY tenant_id, a.period_start
"""
# What is reached has fired, what has fired was reached or has been corrected since, and the quota row knows what comes next.
ALERTS = """
SELECT tenant_id, q.period_start, q.used, q.alert_at, t.next
FROM (SELECT * FROM metering_quota {where}) q LEFT JOIN LATERAL (
    SELECT min(units) AS next FROM metering_threshold t
    WHERE t.tenant_id = q.tenant_id AND t.period_start = q.period_start AND NOT fired) t ON true
WHERE q.alert_at IS DISTINCT FROM t.next OR q.used >= t.next
ORDER BY tenant_id, q.period_start
"""
# A row trigger (1) before (2) delete (8) and update (16), enabled, on the table and on each partition.
APPEND_ONLY = ("metering_call", "metering_adjustment", "tenants_auditentry")
CHANGEABLE = """
WITH named AS (
    SELECT unnest(%(tables)s::regclass[])::oid AS id
), every AS (
    SELECT id FROM named UNION ALL SELECT inhrelid FROM pg_inherits JOIN named ON id = inhparent
)
SELECT id::regclass::text FROM every WHERE NOT EXISTS (
    SELECT FROM pg_trigger WHERE tgrelid = id AND tgtype & 27 = 27 AND tgenabled IN ('O', 'A') AND tgqual IS NULL)
ORDER BY 1
"""
SET_ASIDE = "SELECT tenant_id, count(*), sum(calls), min(at) FROM metering_setaside {where} GROUP BY tenant_id ORDER BY tenant_id"
DEAD_LEASES = """
SELECT tenant_id, count(*), sum(units), min(granted_at) FROM metering_lease l
LEFT JOIN metering_process p ON p.id = l.process_id
WHERE greatest(coalesce(p.expires_at, l.granted_at), l.granted_at)
      < clock_timestamp() - make_interval(secs => %(lease_seconds)s * %(times)s) {and_where}
GROUP BY tenant_id ORDER BY tenant_id
"""


def quotas_equal_usage_hours(*, tenant_id: UUID | None = None) -> list[Violation]:
    """I4: what a quota counts as used, failed and refused is the sum of the period's usage hours."""
    return [
        Violation(
            tenant,
            f"period of {start:%Y-%m-%d}: quota says used {used}, failed {failed}, refused {refused}; "
            f"usage hours say {hours_used}, {hours_failed}, {hours_refused}",
        )
        for tenant, start, used, hours_used, failed, hours_failed, refused, hours_refused in _rows(QUOTAS, tenant_id)
    ]


def reserved_equals_leases(*, tenant_id: UUID | None = None) -> list[Violation]:
    """I4: what a quota counts as reserved is the sum of the period's lease rows."""
    return [
        Violation(tenant, f"period of {start:%Y-%m-%d}: reserved {reserved}, leases hold {held}")
        for tenant, start, reserved, held in _rows(RESERVED, tenant_id)
    ]


def held_equals_pending(*, tenant_id: UUID | None = None) -> list[Violation]:
    """What is held for calls that await their outcome is the sum of those calls."""
    return [
        Violation(tenant, f"{held} unit(s) are held for calls that await their outcome, the calls hold {waiting}")
        for tenant, held, waiting in _rows(HELD, tenant_id, holder=HOLDER)
    ]


def months_equal_usage_hours(*, tenant_id: UUID | None = None) -> list[Violation]:
    """I4: a month of the rollup is the sum of its usage hours, by outcome and units."""
    return [
        Violation(tenant, f"{month:%B %Y}: the month says {units} units, its usage hours {hours}")
        for tenant, month, units, hours in _rows(MONTHS, tenant_id)
    ]


def windows_equal_ledger(*, tenant_id: UUID | None = None) -> list[Violation]:
    """I4: what a narrower limit counts as used and reserved is the sum of its usage hours and of its leases."""
    return [
        Violation(
            tenant,
            f"{kind} {subject} from {start:%Y-%m-%d}: used {used}, usage hours say {hours}; "
            f"reserved {reserved}, leases hold {held}",
        )
        for tenant, kind, subject, start, used, hours, reserved, held in _rows(WINDOWS, tenant_id)
    ]


def alerts_have_fired(*, tenant_id: UUID | None = None) -> list[Violation]:
    """An alert whose threshold is reached has fired, in every period."""
    return [
        Violation(tenant, f"period of {start:%Y-%m-%d}: {used} used, the next alert is at {next_}, expected at {at}")
        for tenant, start, used, at, next_ in _rows(ALERTS, tenant_id)
    ]


def periods_do_not_overlap(*, tenant_id: UUID | None = None) -> list[Violation]:
    """I8: no instant lies in two periods of a tenant."""
    return [
        Violation(
            tenant,
            f"the period from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} reaches over {other:%Y-%m-%d %H:%M}",
        )
        for tenant, start, end, other in _rows(OVERLAPS, tenant_id)
    ]


def usage_hours_equal_call_log(*, since: datetime, tenant_id: UUID | None = None) -> list[Violation]:
    """I4, I8: each usage hour from `since` (the log keeps that day) is the sum of its calls and adjustments, by outcome and units,
    and counts in the period that holds them.
    """
    return [
        Violation(
            tenant,
            f"{hours} hour(s) from {first:%Y-%m-%d %H}h (UTC) differ by {difference} in all, period by "
            f"period: {logged} units in the call log, {rolled_up} in the usage hours",
        )
        for tenant, first, hours, logged, rolled_up, difference in _rows(CALL_LOG, tenant_id, since=since)
    ]


def ledger_is_append_only() -> list[Violation]:
    """I5: a trigger refuses to change or delete calls, adjustments and audit entries, in each of their tables."""
    return [
        Violation(None, f"{table} has no trigger that refuses UPDATE and DELETE")
        for (table,) in _rows(CHANGEABLE, None, tables=list(APPEND_ONLY))
    ]


def nothing_is_set_aside(*, tenant_id: UUID | None = None) -> list[Violation]:
    """No calls wait outside the ledger because it could not take them."""
    return [
        Violation(tenant, f"{calls} call(s) in {batches} batch(es) since {first:%Y-%m-%d %H:%M} (UTC)")
        for tenant, batches, calls, first in _rows(SET_ASIDE, tenant_id)
    ]


def no_dead_leases(*, lease_seconds: float, tenant_id: UUID | None = None) -> list[Violation]:
    """No lease outlives its process by ten lease times. One that does still comes back when its units are needed."""
    return [
        Violation(tenant, f"{units} unit(s) in {leases} lease(s) since {first:%Y-%m-%d %H:%M} (UTC)")
        for tenant, leases, units, first in _rows(
            DEAD_LEASES, tenant_id, lease_seconds=lease_seconds, times=DEAD_LEASE_TIMES
        )
    ]


def broken(*, tenant_id: UUID | None = None) -> dict[str, list[Violation]]:
    """What does not hold, by name; nothing when all is well. What only waits for a person is not among it. One snapshot."""
    with snapshot():
        since = kept_since()
        found = {
            "quotas": quotas_equal_usage_hours(tenant_id=tenant_id),
            "reserved": reserved_equals_leases(tenant_id=tenant_id),
            "held": held_equals_pending(tenant_id=tenant_id),
            "months": months_equal_usage_hours(tenant_id=tenant_id),
            "windows": windows_equal_ledger(tenant_id=tenant_id),
            "periods": periods_do_not_overlap(tenant_id=tenant_id),
            "alerts": alerts_have_fired(tenant_id=tenant_id),
            "call log": usage_hours_equal_call_log(since=since, tenant_id=tenant_id) if since else [],
            "append-only": ledger_is_append_only(),
        }
    return {name: violations for name, violations in found.items() if violations}


def kept_since() -> datetime | None:
    """The first day of which the call log keeps every call: that of its oldest partition; None without one."""
    days = [name.rpartition("_")[2] for name in partitions.names("metering_call")]
    first = min((day for day in days if day.isdigit()), default=None)
    return datetime.strptime(first, "%Y%m%d").replace(tzinfo=UTC) if first else None


def _rows(sql: str, tenant_id: UUID | None, **parameters: Any) -> list[tuple[Any, ...]]:
    condition = "tenant_id = %(tenant)s" if tenant_id is not None else "true"
    of_call = "c.tenant_id = %(tenant)s" if tenant_id is not None else "true"
    statement = sql.format(where=f"WHERE {condition}", and_where=f"AND {condition}", and_where_call=f"AND {of_call}")
    with connection.cursor() as cursor:
        cursor.execute(statement, {"tenant": tenant_id, **parameters})
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows
