"""Every read of what was used. Pages, API, throttle and reports show the same rows: the hourly rollup of the ledger.

All counts of one answer come from one statement, so they agree with each other at any load. Corrections are part of them: the
rollup moves with each. Ask `as_of()` first and give it with the answer: everything before that instant is counted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.db import connection

from . import histogram, invariants, periods
from .models import Allowance, Outcome

RANKS = (50, 95, 99)


class Granularity(StrEnum):
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class GroupBy(StrEnum):
    CAPABILITY = "capability"
    PROJECT = "project"
    KEY = "key"
    OUTCOME = "outcome"


# Outcomes are columns of an hour, not rows, and the latency histogram is over both that are answered: see `by_outcome`.
# A day by arithmetic: date_trunc() looks a time zone up for every row, which takes most of a page's time with the database.
BUCKETS = {
    Granularity.HOUR: "h.hour",
    Granularity.DAY: "date_bin('1 day', h.hour, '2000-01-01 00:00+00')",
    Granularity.MONTH: "date_trunc('month', h.hour, 'UTC')",
}
# Both unfold side by side in one pass; a join with unnest() would make a function scan of every row and take twice as long.
BUCKET_AND_COUNT = (
    "h.latency_start + generate_subscripts(h.latency_counts, 1) - 1 AS bucket, unnest(h.latency_counts) AS count"
)
COLUMNS = {GroupBy.CAPABILITY: "h.capability", GroupBy.PROJECT: "h.project_id::text", GroupBy.KEY: "h.api_key_id::text"}


@dataclass(frozen=True, slots=True)
class Latency:
    """Microseconds; None without answered calls."""

    p50_us: int | None
    p95_us: int | None
    p99_us: int | None


@dataclass(frozen=True, slots=True)
class Counts:
    """Calls by outcome. `units` is what is billed: equal to `billable` while every call costs one."""

    billable: int = 0
    units: int = 0
    failed: int = 0
    refused: int = 0

    @property
    def answered(self) -> int:
        """Calls that were served, well or badly: billable + failed."""
        return self.billable + self.failed

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.billable + other.billable,
            self.units + other.units,
            self.failed + other.failed,
            self.refused + other.refused,
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Usage of one capability, project, key or outcome. `name` is the capability or outcome, or the id of the project or key."""

    name: str
    counts: Counts
    latency: Latency
    buckets: tuple[tuple[int, int], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Point:
    """Usage of one hour, day or month (UTC, `start` is its beginning) and one group ('' without grouping)."""

    start: datetime
    group: str
    counts: Counts
    latency: Latency


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose usage, from when to when, in whole hours: an hour is inside when its start is.

    With `period_start` only calls that belong to that billing period; likewise with a capability, project, key or outcome.
    `project_ids` is what the reader may see: None is everything, an empty set nothing.
    """

    tenant_id: UUID
    start: datetime
    end: datetime
    period_start: datetime | None = None
    capability: str | None = None
    project_id: int | None = None
    key_id: int | None = None
    outcome: Outcome | None = None
    project_ids: frozenset[int] | None = None

    @classmethod
    def of_period(cls, tenant_id: UUID, period: periods.Period) -> "Scope":
        return cls(tenant_id, periods.hour_of(period.start), period.end, period.start)


AS_OF = """
    SELECT least(clock_timestamp(), min(counted_to), (SELECT min(admitted_at) FROM metering_pending))
    FROM metering_process WHERE expires_at > clock_timestamp()
"""
# The next one too: a prediction ends where it begins. Before all else up to when everything is counted.
KNOWN = f"""
(SELECT NULL::timestamptz, (
    {AS_OF}))
UNION ALL
(SELECT period_start, period_end FROM metering_quota WHERE tenant_id = %(tenant)s AND period_start <= %(now)s
 ORDER BY period_start DESC LIMIT %(count)s)
UNION ALL
(SELECT period_start, period_end FROM metering_quota WHERE tenant_id = %(tenant)s AND period_start > %(now)s
 ORDER BY period_start LIMIT 1)
"""


def current_period(*, allowance: Allowance, now: datetime) -> periods.Period:
    """The tenant's running period: the one that is enforced, or what the anchor predicts while none is open."""
    return last_periods(allowance=allowance, now=now, count=1)[0]


def last_periods(*, allowance: Allowance, now: datetime, count: int) -> list[periods.Period]:
    """The running period and those before it, `count` in all, oldest first; as the anchor predicts where none is known."""
    return last_periods_as_of(allowance=allowance, now=now, count=count)[0]


def last_periods_as_of(*, allowance: Allowance, now: datetime, count: int) -> tuple[list[periods.Period], datetime]:
    """The same periods, and `as_of()` asked with them."""
    with connection.cursor() as cursor:
        cursor.execute(KNOWN, {"tenant": allowance.tenant_id, "now": now, "count": count})
        rows = cursor.fetchall()
    counted_to = next(end for start, end in rows if start is None)
    known = [periods.Period(start, end) for start, end in rows if start is not None]
    found: list[periods.Period] = []
    instant = now
    while len(found) < count:
        found.append(_period_at(instant, known, allowance.anchor))
        instant = found[-1].start - timedelta(microseconds=1)
    return found[::-1], counted_to


def _period_at(instant: datetime, known: list[periods.Period], anchor: datetime) -> periods.Period:
    for period in known:
        if instant in period:
            return period
    predicted = periods.containing(anchor, instant)
    start = max([predicted.start, *(period.end for period in known if period.end <= instant)])
    end = min([predicted.end, *(period.start for period in known if period.start > instant)])
    return periods.Period(start, end)


def as_of() -> datetime:
    """Up to when everything is counted: the slowest live process has flushed to then, and no older call awaits its outcome."""
    with connection.cursor() as cursor:
        cursor.execute(AS_OF)
        row: Any = cursor.fetchone()
    return row[0]  # type: ignore[no-any-return]


def by_outcome(counts: Counts) -> dict[str, Counts]:
    """The counts of each outcome that there were calls of. Latency is not kept by outcome, but for all answered calls."""
    parts = {
        Outcome.BILLABLE.value: Counts(billable=counts.billable, units=counts.units),
        Outcome.FAILED.value: Counts(failed=counts.failed),
        Outcome.REFUSED.value: Counts(refused=counts.refused),
    }
    return {outcome: part for outcome, part in parts.items() if part != Counts()}


def groups(scope: Scope, *, group_by: GroupBy = GroupBy.CAPABILITY, with_latency: bool = True) -> list[Group]:
    """Usage by capability, project, key or outcome, the largest first, with latency percentiles."""
    if group_by is GroupBy.OUTCOME:
        parts = by_outcome(total(groups(scope, with_latency=False)).counts).items()
        return [Group(outcome, counts, latency([]), ()) for outcome, counts in parts]
    found = [
        Group(name, sums.counts, latency(sums.buckets), tuple(sums.buckets))
        for (name,), sums in _sums(scope, COLUMNS[group_by], with_latency=with_latency).items()
    ]
    return sorted(found, key=lambda group: (-group.counts.billable, group.name))


def capabilities(scope: Scope) -> set[str]:
    """The names of what was used."""
    where, parameters = _where(scope)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT DISTINCT h.capability FROM metering_usage_hour h WHERE {where}", parameters)
        return {name for (name,) in cursor.fetchall()}


def total(found: Iterable[Group]) -> Group:
    """The sum of groups, percentiles over all their calls."""
    everything = list(found)
    buckets: dict[int, int] = {}
    for group in everything:
        for bucket, count in group.buckets:
            buckets[bucket] = buckets.get(bucket, 0) + count
    items = tuple(sorted(buckets.items()))
    return Group("", sum((group.counts for group in everything), Counts()), latency(items), items)


def latency(buckets: Sequence[tuple[int, int]]) -> Latency:
    return Latency(*histogram.percentiles_us(buckets, RANKS))


def series_and_groups(scope: Scope, *, granularity: Granularity, group_by: GroupBy) -> tuple[list[Point], list[Group]]:
    """`series` without latency, and `groups`, of one statement: they add up to the same at any load."""
    if group_by is GroupBy.OUTCOME:
        points = series(scope, granularity=granularity, group_by=group_by)
        return points, _groups_of(points, {})
    start = BUCKETS[granularity]
    found = _sums(scope, start, COLUMNS[group_by], latency_columns=("NULL::timestamptz", COLUMNS[group_by]))
    points = [
        Point(at, name, found[at, name].counts, latency([]))
        for at, name in sorted(place for place in found if place[0] is not None)
    ]
    return points, _groups_of(points, {name: sums.buckets for (at, name), sums in found.items() if at is None})


def _groups_of(points: Iterable[Point], buckets: dict[str, list[tuple[int, int]]]) -> list[Group]:
    counts: dict[str, Counts] = {}
    for point in points:
        counts[point.group] = counts.get(point.group, Counts()) + point.counts
    found = [
        Group(name, part, latency(buckets.get(name, [])), tuple(buckets.get(name, []))) for name, part in counts.items()
    ]
    return sorted(found, key=lambda group: (-group.counts.billable, group.name))


def series(
    scope: Scope, *, granularity: Granularity, group_by: GroupBy | None = None, with_latency: bool = True
) -> list[Point]:
    """Usage over time, oldest first; hours, days or months without usage have no point."""
    if group_by is GroupBy.OUTCOME:
        return [
            Point(point.start, outcome, counts, latency([]))
            for point in series(scope, granularity=granularity, with_latency=False)
            for outcome, counts in by_outcome(point.counts).items()
        ]
    start = BUCKETS[granularity]
    found = _sums(scope, start, COLUMNS[group_by] if group_by else "''::text", with_latency=with_latency)
    return [Point(at, name, found[at, name].counts, latency(found[at, name].buckets)) for at, name in sorted(found)]


def daily(scope: Scope, *, group_by: GroupBy | None = None) -> list[tuple[datetime, str, Counts]]:
    """Counts by day (UTC) and group, without latency: what charts and projections need."""
    points = series(scope, granularity=Granularity.DAY, group_by=group_by, with_latency=False)
    return [(point.start, point.group, point.counts) for point in points]


@dataclass(frozen=True, slots=True)
class Recent:
    """Counts of a day (UTC), billing period and capability. `is_past` tells hours that had begun by the instant asked for,
    `is_same_span` those of the last period up to the place that the running one has reached.
    """

    day: datetime
    period_start: datetime
    capability: str
    is_past: bool
    is_same_span: bool
    counts: Counts


def recent(
    *, tenant_id: UUID, since: datetime, now: datetime, period: periods.Period, before: periods.Period
) -> list[Recent]:
    """What a statement goes by, from `since` to the running period's end, in one look: all of it agrees with itself."""
    # Sorted here and not by the database, which would sort all hours to group them in that order.
    sql = f"""
        SELECT {BUCKETS[Granularity.DAY]}, h.period_start, h.capability, h.hour < %(now)s,
               h.period_start = %(before)s AND h.hour < %(span_end)s,
               sum(h.billable), sum(h.units), sum(h.failed), sum(h.refused)
        FROM metering_usage_hour h WHERE h.tenant_id = %(tenant)s AND h.hour >= %(since)s AND h.hour < %(end)s
        GROUP BY 1, 2, 3, 4, 5
    """
    values: dict[str, Any] = {
        "tenant": tenant_id, "now": now, "before": before.start, "end": max(period.end, now),
        "since": min(since, periods.hour_of(before.start)),
        "span_end": min(before.start + (now - period.start), before.end),
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return [
            Recent(day, start, capability, is_past, is_same_span, Counts(*map(int, numbers)))
            for day, start, capability, is_past, is_same_span, *numbers in sorted(cursor.fetchall())
        ]


def recent_groups(found: Iterable[Recent], *, scope: Scope, with_latency: bool) -> list[Group]:
    """What was used in the scope's billing period by capability, the largest first: the counts are those of `found`."""
    here = [
        Point(row.day, row.capability, row.counts, latency([]))
        for row in found
        if row.period_start == scope.period_start
    ]
    return _groups_of(here, _histograms(scope) if with_latency and here else {})


def _histograms(scope: Scope) -> dict[str, list[tuple[int, int]]]:
    """Answered calls by bucket of latency, for each capability."""
    where, parameters = _where(scope)
    sql = f"""
        SELECT capability, bucket, sum(count)
        FROM (SELECT h.capability, {BUCKET_AND_COUNT} FROM metering_usage_hour h WHERE {where}) AS b GROUP BY 1, 2
    """
    found: dict[str, list[tuple[int, int]]] = {}
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        for capability, bucket, count in cursor.fetchall():
            found.setdefault(capability, []).append((int(bucket), int(count)))
    return found


def counts(scope: Scope, *, group_by: GroupBy, ids: Sequence[int]) -> dict[int, Counts]:
    """Counts of each of these projects or keys that was used, without latency: what lists of them show."""
    where, parameters = _where(scope)
    column = COLUMNS[group_by].removesuffix("::text")
    sql = f"""
        SELECT {column}, sum(h.billable), sum(h.units), sum(h.failed), sum(h.refused)
        FROM metering_usage_hour h WHERE {where} AND {column} = ANY(%(ids)s) GROUP BY 1
    """
    with connection.cursor() as cursor:
        cursor.execute(sql, {**parameters, "ids": list(ids)})
        return {found: Counts(*map(int, numbers)) for found, *numbers in cursor.fetchall()}


def last_billed_at(scope: Scope) -> datetime | None:
    """The last billed call: to the moment where the call log has it, else to its hour's end. None without one.

    Of an exhausted period it is the instant since which calls are refused.
    """
    sql = """
        SELECT coalesce(
            (SELECT c.occurred_at FROM metering_call c
             WHERE c.tenant_id = %(tenant)s AND c.occurred_at >= %(start)s AND c.occurred_at < %(end)s AND c.units > 0
             ORDER BY c.occurred_at DESC LIMIT 1),
            (SELECT least(max(h.hour) + interval '1 hour', clock_timestamp()) FROM metering_usage_hour h
             WHERE h.tenant_id = %(tenant)s AND h.hour >= %(start)s AND h.hour < %(end)s AND h.units > 0
             HAVING max(h.hour) IS NOT NULL)
        )
    """
    with connection.cursor() as cursor:
        cursor.execute(sql, {"tenant": scope.tenant_id, "start": scope.start, "end": scope.end})
        row: Any = cursor.fetchone()
    return row[0]  # type: ignore[no-any-return]


def by_period(*, tenant_id: UUID, wanted: Sequence[periods.Period]) -> dict[periods.Period, dict[str, Counts]]:
    """Counts by capability for each of these periods, empty where nothing was used."""
    found = so_far(tenant_id=tenant_id, wanted=wanted, reached=timedelta(0))
    return {period: {name: total for name, (total, _) in parts.items()} for period, parts in found.items()}


# Each hour is added once, to what was reached or to the rest. Seconds, because adding days asks for the time zone at each row.
SO_FAR = """
SELECT period_start, capability, sum(billable), sum(units), sum(failed), sum(refused),
       coalesce(sum(billable) FILTER (WHERE is_reached), 0), coalesce(sum(units) FILTER (WHERE is_reached), 0),
       coalesce(sum(failed) FILTER (WHERE is_reached), 0), coalesce(sum(refused) FILTER (WHERE is_reached), 0)
FROM (
    SELECT period_start, capability, hour < period_start + make_interval(secs => %(reached)s) AS is_reached,
           sum(billable) AS billable, sum(units) AS units, sum(failed) AS failed, sum(refused) AS refused
    FROM metering_usage_hour
    WHERE tenant_id = %(tenant)s AND hour >= %(first)s AND hour < %(last)s AND period_start = ANY(%(starts)s)
    GROUP BY 1, 2, 3
) AS part GROUP BY 1, 2
"""


def so_far(
    *, tenant_id: UUID, wanted: Sequence[periods.Period], reached: timedelta
) -> dict[periods.Period, dict[str, tuple[Counts, Counts]]]:
    """By capability, for each of these periods: its counts, and those of its hours that begin within `reached` of its start."""
    starts = {period.start: period for period in wanted}
    found: dict[periods.Period, dict[str, tuple[Counts, Counts]]] = {period: {} for period in wanted}
    if not wanted:
        return found
    values: dict[str, Any] = {
        "tenant": tenant_id, "reached": reached.total_seconds(), "first": periods.hour_of(min(wanted).start),
        "last": max(wanted).end, "starts": list(starts),
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(SO_FAR, values)
        for start, capability, *numbers in cursor.fetchall():
            whole = list(map(int, numbers))
            found[starts[start]][capability] = (Counts(*whole[:4]), Counts(*whole[4:]))
    return found


class CutHourForgotten(Exception):
    """An instant lies inside an hour of which the call log no longer keeps every call."""


# Whole hours from the rollup, what is cut of an hour from the ledger. The rollup has a row for each period of an hour, so where the
# period itself begins or ends no hour is cut.
UNITS_BETWEEN = """
WITH period AS (
    SELECT period_end FROM metering_quota WHERE tenant_id = %(tenant)s AND period_start = %(period)s
), stretch AS (
    SELECT CASE WHEN %(end)s >= (SELECT period_end FROM period) THEN %(whole_end)s ELSE %(cut_end)s END AS until
)
SELECT until, (
    SELECT coalesce(sum(units), 0) FROM metering_usage_hour
    WHERE tenant_id = %(tenant)s AND period_start = %(period)s AND hour >= %(from)s AND hour < until
), (
    SELECT coalesce(sum(units), 0) FROM (
        SELECT occurred_at, units FROM metering_call
        WHERE tenant_id = %(tenant)s AND occurred_at >= greatest(%(period)s, %(start)s) AND occurred_at < %(end)s
            AND occurred_at < (SELECT period_end FROM period)
            AND (occurred_at < %(from)s OR occurred_at >= %(cut_end)s)
        UNION ALL
        SELECT occurred_at, units FROM metering_adjustment
        WHERE tenant_id = %(tenant)s AND period_start = %(period)s AND occurred_at >= %(start)s AND occurred_at < %(end)s
    ) AS ledger WHERE occurred_at < %(from)s OR occurred_at >= greatest(%(from)s, until)
) FROM stretch
"""
COUNTED = (
    "SELECT EXISTS (SELECT FROM metering_usage_hour WHERE tenant_id = %s AND period_start = %s AND hour = ANY(%s))"
)


def units_between(*, tenant_id: UUID, period_start: datetime, start: datetime, end: datetime) -> int:
    """Units that are billed of this period's calls in [start, end), corrections among them; exact for any instants.

    Raises CutHourForgotten where an hour that is cut was used and is no longer in the call log.
    """
    if start >= end:
        return 0
    hours = {
        "from": periods.hour_of(start) if start <= period_start else periods.hour_from(start),
        "cut_end": periods.hour_of(end), "whole_end": periods.hour_from(end),
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(
            UNITS_BETWEEN, {"tenant": tenant_id, "period": period_start, "start": start, "end": end, **hours}
        )
        row: Any = cursor.fetchone()
        until, in_hours, in_ledger = row
    cut = {periods.hour_of(start)} if start < hours["from"] else set()
    _check_log(tenant_id, period_start, cut | ({periods.hour_of(end)} if until < end else set()))
    return int(in_hours + in_ledger)


def _check_log(tenant_id: UUID, period_start: datetime, cut: set[datetime]) -> None:
    """Raises CutHourForgotten."""
    kept = invariants.kept_since() if cut else None
    forgotten = sorted(hour for hour in cut if kept is None or hour < kept)
    if not forgotten:
        return
    with connection.cursor() as cursor:
        cursor.execute(COUNTED, [tenant_id, period_start, forgotten])
        if cursor.fetchone() == (True,):
            raise CutHourForgotten(f"{forgotten[0]:%Y-%m-%d %H}h (UTC) is no longer in the call log. Use a whole hour.")


@dataclass(slots=True)
class Sums:
    counts: Counts = field(default_factory=Counts)
    buckets: list[tuple[int, int]] = field(default_factory=list)


# With an outcome only its counts are there, and the histogram, which is over both that are answered, says nothing of it.
COUNTS = {
    None: ("sum(h.billable)", "sum(h.units)", "sum(h.failed)", "sum(h.refused)"),
    Outcome.BILLABLE: ("sum(h.billable)", "sum(h.units)", "0", "0"),
    Outcome.FAILED: ("0", "0", "sum(h.failed)", "0"),
    Outcome.REFUSED: ("0", "0", "0", "sum(h.refused)"),
}


def _sums(
    scope: Scope, *columns: str, with_latency: bool = True, latency_columns: tuple[str, ...] = ()
) -> dict[tuple[Any, ...], Sums]:
    """Counts and latency histograms by these columns, in one statement; histograms by `latency_columns` where these are given."""
    where, parameters = _where(scope)
    counts = COUNTS[scope.outcome]
    key = ", ".join(columns)
    places = ", ".join(str(place) for place in range(1, len(columns) + 1))
    names = [f"column_{place}" for place in range(len(columns))]
    named = [f"{column} AS {name}" for column, name in zip(latency_columns or columns, names, strict=True)]
    sql = f"""
        SELECT {key}, {", ".join(counts)}, NULL::int AS bucket
        FROM metering_usage_hour h WHERE {where} GROUP BY {places}
    """
    if scope.outcome is not None:
        sql += f" HAVING {' OR '.join(f'{number} <> 0' for number in counts if number != '0')}"
    elif with_latency:
        sql += f"""
        UNION ALL
        SELECT {", ".join(names)}, sum(count), 0, 0, 0, bucket
        FROM (SELECT {", ".join(named)}, {BUCKET_AND_COUNT} FROM metering_usage_hour h WHERE {where}) AS b
        GROUP BY {places}, bucket
        """
    found: dict[tuple[Any, ...], Sums] = {}
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        for *place, billable, units, failed, refused, bucket in cursor.fetchall():
            sums = found.setdefault(tuple(place), Sums())
            if bucket is None:
                sums.counts = Counts(int(billable), int(units), int(failed), int(refused))
            else:
                sums.buckets.append((int(bucket), int(billable)))
    return found


def _where(scope: Scope) -> tuple[str, dict[str, Any]]:
    narrower = {
        "period_start": scope.period_start, "capability": scope.capability, "project_id": scope.project_id,
        "api_key_id": scope.key_id,
    }  # fmt: skip
    wanted: dict[str, Any] = {column: value for column, value in narrower.items() if value is not None}
    where = ["h.tenant_id = %(tenant)s", "h.hour >= %(start)s", "h.hour < %(end)s"]
    where += [f"h.{column} = %({column})s" for column in wanted]
    if scope.project_ids is not None:
        where.append("h.project_id = ANY(%(project_ids)s)")
        wanted["project_ids"] = sorted(scope.project_ids)
    return " AND ".join(where), {"tenant": scope.tenant_id, "start": scope.start, "end": scope.end, **wanted}
