"""Boundaries of periods that are learned late. Stripe's periods are the truth; a tenant's anchor only predicts them.

A call belongs to the period that holds its time, so the call log stays as it is. What was summed up under a prediction moves: usage
hours (whole ones by their key, one that the boundary cuts by the ledger), corrections and quota, in one transaction that holds up
the tenant's grants and flushes. A call that is flushed afterwards by a process that still had the old boundary in mind is placed
anew by the flush (`ledger.py`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models.functions import Now

from . import periods, rebuild
from .models import Allowance

HOUR = timedelta(hours=1)


class BoundaryTooOld(Exception):
    """The hour that a boundary cuts is no longer in the call log, so its calls cannot be told apart."""


@dataclass(frozen=True, slots=True)
class Row:
    """A quota row's period and what it admits."""

    start: datetime
    end: datetime
    included: int | None
    admits: int | None


def learn(*, tenant_id: UUID, period: periods.Period, now: datetime) -> bool:
    """[start, end) is a period of the tenant, its neighbours end and begin there, and everything recorded is in its own period.

    Returns whether that is news: learning what is known changes nothing. Raises BoundaryTooOld, and nothing has changed then.
    """
    with transaction.atomic():
        rebuild.lock(tenant_id)
        allowance = Allowance.objects.get(pk=tenant_id)
        before = _rows(tenant_id)
        if any((row.start, row.end) == (period.start, period.end) for row in before):
            return False
        is_last = period.end > now and not _is_used_from(tenant_id, period.end)
        after = list(_without_gaps(_tiled(before, period, allowance, now, is_last=is_last), allowance))
        cut = _cut_hours(before, after)
        _check_log(tenant_id, cut)
        changed = [row for row in after if row not in before]
        _replace_periods(tenant_id, changed, after)
        _move(tenant_id, before, after, cut)
        for hour in cut:
            hours = _divided(tenant_id, hour, before, after, now)
            rebuild.replace_hours(tenant_id=tenant_id, start=hour, end=hour + HOUR, hours=hours)
        _arm(tenant_id, changed)
        _count(tenant_id, changed)
        _move_leases(tenant_id, after, now)
        Allowance.objects.filter(pk=tenant_id).update(changed_at=Now())  # processes drop their leases within a second
    return True


def _rows(tenant_id: UUID) -> list[Row]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT period_start, period_end, included, admits FROM metering_quota WHERE tenant_id = %s ORDER BY 1",
            [tenant_id],
        )
        return [Row(*row) for row in cursor.fetchall()]


USED_FROM = "SELECT EXISTS (SELECT FROM metering_usage_hour WHERE tenant_id = %s AND hour >= %s)"


def _is_used_from(tenant_id: UUID, instant: datetime) -> bool:
    """Whether something may be recorded at this instant or later: clocks differ, and a process may be ahead of `now`."""
    with connection.cursor() as cursor:
        cursor.execute(USED_FROM, [tenant_id, periods.hour_of(instant)])
        return bool(cursor.fetchone()[0])


def _tiled(
    before: list[Row], period: periods.Period, allowance: Allowance, now: datetime, *, is_last: bool
) -> Iterator[Row]:
    """The rows with this period among them: what lay before it ends there, what lay after it begins there.

    `is_last`: later rows only predict, and are predicted anew from the anchor when their time comes. What the period leaves of
    a row would be a period of some days with a whole month's allowance.
    """
    for row in before:
        if row.start < period.start:
            yield Row(row.start, min(row.end, period.start), row.included, row.admits)
    inside = [row for row in before if row.start < period.end and row.end > period.start]
    if period.end > now or not inside:
        yield Row(period.start, period.end, allowance.included, allowance.admits)
    else:
        yield Row(period.start, period.end, inside[-1].included, inside[-1].admits)
    for row in before:
        if row.end > period.end and (row.start == period.end or not is_last):
            yield Row(max(row.start, period.end), row.end, row.included, row.admits)


def _without_gaps(rows: Iterable[Row], allowance: Allowance) -> Iterator[Row]:
    """The rows, and between two that do not touch the periods that the anchor predicts there."""
    end: datetime | None = None
    for row in rows:
        while end is not None and end < row.start:
            following = min(periods.containing(allowance.anchor, end).end, row.start)
            yield Row(end, following, allowance.included, allowance.admits)
            end = following
        yield row
        end = row.end


def _cut_hours(before: list[Row], after: list[Row]) -> list[datetime]:
    """Hours that a boundary which came or went lies inside: their calls are told apart by the call log."""
    changed = _boundaries(before) ^ _boundaries(after)
    return sorted({periods.hour_of(boundary) for boundary in changed if boundary != periods.hour_of(boundary)})


def _boundaries(rows: list[Row]) -> set[datetime]:
    return {boundary for row in rows for boundary in (row.start, row.end)}


EVER = "SELECT EXISTS (SELECT FROM metering_usage_hour WHERE tenant_id = %s AND hour = ANY(%s))"


def _check_log(tenant_id: UUID, cut: list[datetime]) -> None:
    if not cut:
        return
    kept = rebuild.hold_log()
    old = [hour for hour in cut if kept is None or hour < kept]
    if not old:
        return
    with connection.cursor() as cursor:
        cursor.execute(EVER, [tenant_id, old])
        if cursor.fetchone() == (True,):
            since = f"{kept:%Y-%m-%d}" if kept else "never"
            raise BoundaryTooOld(
                f"A boundary lies inside {old[0]:%Y-%m-%d %H}h (UTC), and the call log is kept since {since}. Use a whole hour."
            )


DELETE = "DELETE FROM metering_quota WHERE tenant_id = %(tenant)s AND NOT period_start = ANY(%(starts)s)"
# A row that stays is changed in place: who waits for its lock gets it, and not a row that is no more.
UPSERT = """
INSERT INTO metering_quota (tenant_id, period_start, period_end, included, admits)
VALUES (%(tenant)s, %(start)s, %(end)s, %(included)s, %(admits)s)
ON CONFLICT (tenant_id, period_start) DO UPDATE SET period_end = EXCLUDED.period_end, included = EXCLUDED.included,
    admits = EXCLUDED.admits
"""


def _replace_periods(tenant_id: UUID, changed: list[Row], after: list[Row]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(DELETE, {"tenant": tenant_id, "starts": [row.start for row in after]})
        for row in changed:  # oldest first: a row is short before the next one begins where it ended
            bounds = {"included": row.included, "admits": row.admits}
            cursor.execute(UPSERT, {"tenant": tenant_id, "start": row.start, "end": row.end, **bounds})


MOVE_ADJUSTMENTS = """
UPDATE metering_adjustment SET period_start = %(to)s
WHERE tenant_id = %(tenant)s AND occurred_at >= %(start)s AND occurred_at < %(end)s AND period_start <> %(to)s
"""
# The part of an hour that lies in one period before and in one after: only its key changes.
MOVE_HOURS = """
UPDATE metering_usage_hour SET period_start = %(to)s
WHERE tenant_id = %(tenant)s AND period_start = %(from)s AND hour >= %(hour)s AND hour < %(end)s AND NOT hour = ANY(%(cut)s)
"""

# What fired in the part of a period that is another's now has fired there; where that one has told the same, it stays.
MOVE_CROSSINGS = """
UPDATE metering_crossing c SET period_start = %(to)s
WHERE tenant_id = %(tenant)s AND period_start = %(from)s AND crossed_at >= %(start)s AND crossed_at < %(end)s AND NOT EXISTS (
    SELECT FROM metering_crossing o
    WHERE o.tenant_id = c.tenant_id AND o.period_start = %(to)s AND o.key = c.key AND o.units = c.units)
"""


def _move(tenant_id: UUID, before: list[Row], after: list[Row], cut: list[datetime]) -> None:
    """What was summed up belongs to the row that holds it, but for the hours that are cut."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL meterhouse.moving_boundary = 'on'")
        for old, new in _overlaps(before, after):
            start, end = max(old.start, new.start), min(old.end, new.end)
            parameters: dict[str, Any] = {
                "tenant": tenant_id, "from": old.start, "to": new.start, "start": start, "end": end,
                "hour": periods.hour_of(start), "cut": cut,
            }  # fmt: skip
            cursor.execute(MOVE_ADJUSTMENTS, parameters)
            cursor.execute(MOVE_CROSSINGS, parameters)
            cursor.execute(MOVE_HOURS, parameters)
        cursor.execute("SET LOCAL meterhouse.moving_boundary = 'off'")


def _overlaps(before: list[Row], after: list[Row]) -> Iterator[tuple[Row, Row]]:
    """Each old row with each new one of another start that takes over a part of it."""
    for old in before:
        for new in after:
            if old.start != new.start and max(old.start, new.start) < min(old.end, new.end):
                yield old, new


def _divided(tenant_id: UUID, hour: datetime, before: list[Row], after: list[Row], now: datetime) -> rebuild.Hours:
    """The usage hours of an hour that is cut.

    Where it lay in one period and lies in two now, the ledger is read for the shorter part only, and the longer one is what is
    left: a boundary of a moment ago does not read a busy hour.
    """
    end = hour + HOUR
    held, parts = _inside(before, hour), _inside(after, hour)
    if len(held) == 1 and len(parts) == 2:  # noqa: PLR2004 -- one boundary
        boundary = parts[1].start
        is_late = min(now, end) - boundary < boundary - hour
        (start, stop), longer = ((boundary, end), parts[0]) if is_late else ((hour, boundary), parts[1])
        whole = rebuild.stored(tenant_id=tenant_id, start=hour, end=end)
        part = rebuild.from_ledger(tenant_id=tenant_id, start=start, end=stop)
        rest = _rest(whole, part, held[0].start, longer.start)
        if rest is not None:
            return part | rest
    return rebuild.from_ledger(tenant_id=tenant_id, start=hour, end=end)


def _inside(rows: list[Row], hour: datetime) -> list[Row]:
    return [row for row in rows if row.start < hour + HOUR and row.end > hour]


def _rest(whole: rebuild.Hours, part: rebuild.Hours, held: datetime, into: datetime) -> rebuild.Hours | None:
    """What the part leaves of the whole, in the other period; None when they do not go together: the whole was wrong."""
    taken = {key[2:]: sums for key, sums in part.items()}
    if {key[1] for key in whole} - {held} or taken.keys() - {key[2:] for key in whole}:
        return None
    rest = {(key[0], into, *key[2:]): sums - taken.get(key[2:], rebuild.Sums()) for key, sums in whole.items()}
    if not all(sums.is_possible for sums in rest.values()):
        return None
    return {key: sums for key, sums in rest.items() if not sums.is_empty}


def _arm(tenant_id: UUID, changed: list[Row]) -> None:
    """These rows know what has fired in them, before they are counted anew: that may fire what has not."""
    with connection.cursor() as cursor:
        for row in changed:
            cursor.execute("SELECT metering_arm(%s, %s)", [tenant_id, row.start])


COUNT = """
UPDATE metering_quota SET (used, failed, refused) = (
    SELECT coalesce(sum(units), 0), coalesce(sum(failed), 0), coalesce(sum(refused), 0) FROM metering_usage_hour
    WHERE tenant_id = %(tenant)s AND period_start = %(start)s AND hour >= %(hour)s AND hour < %(end)s)
WHERE tenant_id = %(tenant)s AND period_start = %(start)s
"""


def _count(tenant_id: UUID, changed: list[Row]) -> None:
    """What these rows count is the sum of their usage hours."""
    with connection.cursor() as cursor:
        for row in changed:
            hour = periods.hour_of(row.start)
            cursor.execute(COUNT, {"tenant": tenant_id, "start": row.start, "hour": hour, "end": row.end})


# Leases hold units for calls to come, so all of them belong to the row that holds now.
LEASES = (
    "UPDATE metering_lease SET period_start = %(current)s WHERE tenant_id = %(tenant)s AND period_start <> %(current)s"
)
# Windows of projects and keys are made anew from hours and leases by the next grant.
WINDOWS = "DELETE FROM metering_window WHERE tenant_id = %(tenant)s AND kind <> 'day'"
RESERVED = """
UPDATE metering_quota q SET reserved = (
    SELECT coalesce(sum(units), 0) FROM metering_lease l WHERE l.tenant_id = q.tenant_id AND l.period_start = q.period_start)
WHERE tenant_id = %(tenant)s
"""


def _move_leases(tenant_id: UUID, after: list[Row], now: datetime) -> None:
    current = next((row.start for row in after if row.start <= now < row.end), after[-1].start)
    with connection.cursor() as cursor:
        for statement in (LEASES, WINDOWS, RESERVED):
            cursor.execute(statement, {"tenant": tenant_id, "current": current})
