"""Usage hours made anew from the ledger: the call log and the adjustments. Compared with what is stored, and written when wanted.

Only for hours of which the call log keeps every call; older hours are trusted. Months, quotas and windows are sums of hours.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from . import histogram, invariants

HOUR = timedelta(hours=1)
HOUR_SQL = "date_trunc('hour', occurred_at, 'UTC')"
# A call belongs to the period that holds its time.
PERIOD = """
WITH period AS MATERIALIZED (
    SELECT period_start, period_end FROM metering_quota
    WHERE tenant_id = %(tenant)s AND period_end > %(start)s AND period_start < %(end)s
)
"""
FROM_LOG = f"""
{PERIOD}
SELECT {HOUR_SQL}, period_start, project_id, api_key_id, capability, outcome,
       CASE WHEN outcome = 'refused' OR latency_us IS NULL THEN -1 ELSE width_bucket(latency_us, %(bounds)s::float8[]) END,
       sum(calls), sum(units), count(*)
FROM metering_call LEFT JOIN period ON occurred_at >= period_start AND occurred_at < period_end
WHERE tenant_id = %(tenant)s AND occurred_at >= %(start)s AND occurred_at < %(end)s
GROUP BY 1, 2, 3, 4, 5, 6, 7
"""
FROM_ADJUSTMENTS = f"""
{PERIOD}
SELECT {HOUR_SQL}, period.period_start, project_id, api_key_id, capability, sum(calls), sum(units)
FROM metering_adjustment LEFT JOIN period ON occurred_at >= period.period_start AND occurred_at < period_end
WHERE tenant_id = %(tenant)s AND occurred_at >= %(start)s AND occurred_at < %(end)s
GROUP BY 1, 2, 3, 4, 5
"""
STORED = """
SELECT hour, period_start, project_id, api_key_id, capability, billable, units, failed, refused, latency_start, latency_counts
FROM metering_usage_hour WHERE tenant_id = %(tenant)s AND hour >= %(start)s AND hour < %(end)s
"""
DELETE = "DELETE FROM metering_usage_hour WHERE tenant_id = %(tenant)s AND hour >= %(start)s AND hour < %(end)s"
INSERT = """
INSERT INTO metering_usage_hour (tenant_id, hour, period_start, project_id, api_key_id, capability, billable, units, failed,
                                 refused, latency_start, latency_counts)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
LOCKS = (
    "SELECT FROM metering_allowance WHERE tenant_id = %s FOR NO KEY UPDATE",  # whoever opens another period waits for it
    "SELECT FROM metering_quota WHERE tenant_id = %s ORDER BY period_start FOR UPDATE",
)

Key = tuple[datetime, datetime, int, int, str]  # hour, period, project, key, capability
COUNTS = ("billable", "units", "failed", "refused")


@dataclass(slots=True)
class Sums:
    """One usage hour of a project, key and capability."""

    billable: int = 0
    units: int = 0
    failed: int = 0
    refused: int = 0
    latencies: dict[int, int] = field(default_factory=dict)  # bucket -> answered calls

    @property
    def is_empty(self) -> bool:
        return not (self.billable or self.units or self.failed or self.refused or any(self.latencies.values()))

    @property
    def is_possible(self) -> bool:
        return min(self.billable, self.units, self.failed, self.refused, *self.latencies.values()) >= 0

    def __sub__(self, part: "Sums") -> "Sums":
        left = {name: getattr(self, name) - getattr(part, name) for name in COUNTS}
        buckets = self.latencies.keys() | part.latencies.keys()
        latencies = {bucket: self.latencies.get(bucket, 0) - part.latencies.get(bucket, 0) for bucket in buckets}
        return Sums(**left, latencies=latencies)


Hours = dict[Key, Sums]


@dataclass(frozen=True, slots=True)
class Difference:
    """A usage hour that is not what the ledger says."""

    tenant_id: UUID
    key: Key
    stored: Sums
    ledger: Sums


class InNoPeriod(Exception):
    """The ledger has calls at a time that no period of their tenant holds: nobody can say in which one they count."""


def from_ledger(*, tenant_id: UUID, start: datetime, end: datetime) -> Hours:
    """The usage hours of [start, end) as the call log and the adjustments make them; raises InNoPeriod.

    Of an hour that begins before or ends after it, the part inside.
    """
    hours: Hours = {}
    parameters: dict[str, Any] = {"tenant": tenant_id, "start": start, "end": end, "bounds": list(histogram.BOUNDS_US)}
    with connection.cursor() as cursor:
        cursor.execute(FROM_LOG, parameters)
        for *key, outcome, bucket, calls, units, rows in cursor.fetchall():
            sums = hours.setdefault(tuple(key), Sums())
            setattr(sums, outcome, getattr(sums, outcome) + int(calls))
            sums.units += int(units)
            if bucket >= 0:
                sums.latencies[bucket] = sums.latencies.get(bucket, 0) + rows
        cursor.execute(FROM_ADJUSTMENTS, parameters)
        for *key, calls, units in cursor.fetchall():
            sums = hours.setdefault(tuple(key), Sums())
            sums.billable += int(calls)
            sums.units += int(units)
    homeless = min((key[0] for key in hours if key[1] is None), default=None)
    if homeless is not None:
        raise InNoPeriod(f"Calls of {homeless:%Y-%m-%d %H}h (UTC) lie in no period. Open it with metering_open_period.")
    return hours


def stored(*, tenant_id: UUID, start: datetime, end: datetime) -> Hours:
    """The usage hours of [start, end) as they are in the database."""
    hours: Hours = {}
    with connection.cursor() as cursor:
        cursor.execute(STORED, {"tenant": tenant_id, "start": start, "end": end})
        for *key, billable, units, failed, refused, first, counts in cursor.fetchall():
            latencies = {first + place: count for place, count in enumerate(counts) if count}
            hours[tuple(key)] = Sums(billable, units, failed, refused, latencies)
    return hours


def replace_hours(*, tenant_id: UUID, start: datetime, end: datetime, hours: Hours) -> None:
    """The stored usage hours of [start, end) are these. Inside a transaction that holds the tenant's quota rows."""
    with connection.cursor() as cursor:
        cursor.execute(DELETE, {"tenant": tenant_id, "start": start, "end": end})
        rows = []
        for key, sums in hours.items():
            latency = histogram.trimmed({bucket: count for bucket, count in sums.latencies.items() if count})
            counts = (getattr(sums, name) for name in COUNTS)
            rows.append((tenant_id, *key, *counts, latency.start, latency.counts))
        cursor.executemany(INSERT, rows)


def lock(tenant_id: UUID) -> None:
    """No flush, grant or adjustment of the tenant commits until this transaction ends."""
    with connection.cursor() as cursor:
        for statement in LOCKS:
            cursor.execute(statement, [tenant_id])


def hold_log() -> datetime | None:
    """No day of the call log is dropped until this transaction ends; returns since when every call is kept."""
    with connection.cursor() as cursor:
        cursor.execute("LOCK TABLE metering_call IN ACCESS SHARE MODE")
    return invariants.kept_since()


@dataclass(frozen=True, slots=True)
class Found:
    """What a comparison found: usage hours that differ from the ledger, and totals that differ from the usage hours, in words."""

    hours: list[Difference]
    totals: list[str]

    def __bool__(self) -> bool:
        return bool(self.hours or self.totals)


class LogTooShort(Exception):
    """The call log does not keep every call of these hours: they cannot be made anew."""


def rebuild(*, tenant_id: UUID, start: datetime, end: datetime, apply: bool) -> Found:
    """What in [start, end) is not what the ledger says; with `apply` it is afterwards, months, quotas and windows included.

    Both times whole hours. The comparison is of one snapshot and holds up nobody; what differs is then made anew under the
    tenant's lock. Raises LogTooShort, and has changed nothing, when the call log does not keep every call of an hour that differs;
    raises InNoPeriod.
    """
    with invariants.snapshot():
        found = Found(list(_differences(tenant_id, start, end)), _wrong_totals(tenant_id))
    if apply and found:
        _make_anew(tenant_id, sorted({difference.key[0] for difference in found.hours}))
    return found


def _make_anew(tenant_id: UUID, hours: list[datetime]) -> None:
    with transaction.atomic():
        if hours:
            _check_log(hours[0])
        lock(tenant_id)
        for hour in hours:
            anew = from_ledger(tenant_id=tenant_id, start=hour, end=hour + HOUR)
            replace_hours(tenant_id=tenant_id, start=hour, end=hour + HOUR, hours=anew)
        if _wrong_totals(tenant_id):
            _total_anew(tenant_id)


def _check_log(start: datetime) -> None:
    """Raises LogTooShort unless every call from `start` on is kept, and will be until this transaction ends."""
    kept = hold_log()
    if kept is None or start < kept:
        raise LogTooShort(
            f"The call log is kept since {kept}, not since {start}: its oldest day was dropped. Run it again."
        )


TOTALS = (invariants.months_equal_usage_hours, invariants.quotas_equal_usage_hours, invariants.windows_equal_ledger)


def _wrong_totals(tenant_id: UUID) -> list[str]:
    return [f"{check.__name__}: {violation.detail}" for check in TOTALS for violation in check(tenant_id=tenant_id)]


MONTHS_GONE = "DELETE FROM metering_usage_month WHERE tenant_id = %(tenant)s"
MONTHS_ANEW = """
INSERT INTO metering_usage_month (tenant_id, month, billable, units, failed, refused)
SELECT tenant_id, date_trunc('month', hour, 'UTC'), sum(billable), sum(units), sum(failed), sum(refused) FROM metering_usage_hour
WHERE tenant_id = %(tenant)s GROUP BY 1, 2
"""
QUOTAS_ANEW = """
UPDATE metering_quota q SET (used, failed, refused) = (
    SELECT coalesce(sum(units), 0), coalesce(sum(failed), 0), coalesce(sum(refused), 0) FROM metering_usage_hour h
    WHERE h.tenant_id = q.tenant_id AND h.period_start = q.period_start)
WHERE tenant_id = %(tenant)s
"""
# The next grant makes them from hours and leases.
WINDOWS_GONE = "DELETE FROM metering_window WHERE tenant_id = %(tenant)s"


def _total_anew(tenant_id: UUID) -> None:
    """Months, quotas and windows are the sums of their usage hours, old ones included: every hour is kept. Under the lock."""
    with connection.cursor() as cursor:
        for statement in (MONTHS_GONE, MONTHS_ANEW, QUOTAS_ANEW, WINDOWS_GONE):
            cursor.execute(statement, {"tenant": tenant_id})


def _differences(tenant_id: UUID, start: datetime, end: datetime) -> Iterator[Difference]:
    ledger = from_ledger(tenant_id=tenant_id, start=start, end=end)
    kept = stored(tenant_id=tenant_id, start=start, end=end)
    for key in sorted(ledger.keys() | kept.keys()):
        is_, should_be = kept.get(key, Sums()), ledger.get(key, Sums())
        should_be.latencies = {bucket: count for bucket, count in should_be.latencies.items() if count}
        if is_ != should_be and not (is_.is_empty and should_be.is_empty):
            yield Difference(tenant_id, key, is_, should_be)


MONTH = """
INSERT INTO metering_usage_month AS m (tenant_id, month, billable, units, failed, refused)
VALUES (%(tenant)s, date_trunc('month', %(hour)s::timestamptz, 'UTC'), %(billable)s, %(units)s, %(failed)s, %(refused)s)
ON CONFLICT (tenant_id, month) DO UPDATE SET billable = m.billable + EXCLUDED.billable, units = m.units + EXCLUDED.units,
    failed = m.failed + EXCLUDED.failed, refused = m.refused + EXCLUDED.refused
"""
QUOTA = """
UPDATE metering_quota SET used = used + %(units)s, failed = failed + %(failed)s, refused = refused + %(refused)s
WHERE tenant_id = %(tenant)s AND period_start = %(period)s
"""
WINDOWS = """
UPDATE metering_window SET used = used + %(units)s WHERE tenant_id = %(tenant)s AND (
    (kind = 'day' AND window_start = date_trunc('day', %(hour)s::timestamptz, 'UTC'))
    OR (kind = 'project' AND subject_id = %(project)s AND window_start = %(period)s)
    OR (kind = 'key' AND subject_id = %(key)s AND window_start = %(period)s))
"""


def add_to_totals(
    cursor: Any, *, tenant_id: UUID, hour: datetime, period_start: datetime, project_id: int, key_id: int,
    billable: int = 0, units: int = 0, failed: int = 0, refused: int = 0,
) -> None:  # fmt: skip
    """What was added to a usage hour is added to its month, its quota and the narrower limits' windows as well."""
    parameters = {
        "tenant": tenant_id, "hour": hour, "period": period_start, "project": project_id, "key": key_id,
        "billable": billable, "units": units, "failed": failed, "refused": refused,
    }  # fmt: skip
    for statement in (MONTH, QUOTA, WINDOWS):
        cursor.execute(statement, parameters)
