"""Reading the call log: a page at a time, newest first, from where the last page ended.

The log has millions of rows and one index that leads by time. What else is asked for (a key, failed calls) may be rare, so the
rollup says first in which hours there is any of it, and only those hours are looked at: the work is bounded by a page's, not by
the range's. The log is kept for CALL_LOG_DAYS; of older hours only the counts are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection

from . import adjustments, invariants, periods
from .models import Adjustment, Call, Outcome

HOURS_AT_ONCE = 48
MICROSECOND = timedelta(microseconds=1)
NO_ID = UUID(int=0)
TIME_ORDERED = 7  # version of the UUIDs that name calls
COLUMNS = "id, occurred_at, recorded_at, project_id, api_key_id, capability, outcome, reason, status, calls, units, latency_us"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which calls of a tenant, in [start, end). `status` is one, or the first of a hundred with `is_class`.

    `kept_from` is where the log begins.
    """

    tenant_id: UUID
    start: datetime
    end: datetime
    capability: str | None = None
    project_id: int | None = None
    key_id: int | None = None
    outcome: Outcome | None = None
    status: int | None = None
    is_class: bool = False
    project_ids: frozenset[int] | None = None
    kept_from: datetime | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the log: what comes after it, reading towards older calls, occurred before it."""

    occurred_at: datetime
    id: UUID = NO_ID


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the log. A flood of refused calls shares rows: `calls` says how many."""

    id: UUID
    occurred_at: datetime
    recorded_at: datetime
    project_id: int
    key_id: int
    capability: str
    outcome: str
    reason: str
    status: int
    calls: int
    units: int
    latency_us: int | None


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, newest first. `after` is where the next page begins, None where there is none; a page may be short of its rows."""

    rows: tuple[Row, ...]
    after: Place | None


def page(wanted: Filter, *, before: Place | None = None, limit: int = 50) -> Page:
    """The newest calls of the filter that come before the place."""
    hours = _hours(wanted, before)
    looked_at, expected = [], 0
    for hour, matching in hours:
        looked_at.append(hour)
        is_begun = before is not None and hour == periods.hour_of(before.occurred_at)
        expected += 0 if is_begun else matching
        if expected > limit:
            break
    rows = _rows(wanted, before, looked_at, limit + 1)
    if len(rows) > limit:
        return Page(tuple(rows[:limit]), Place(rows[limit - 1].occurred_at, rows[limit - 1].id))
    is_all = len(looked_at) == len(hours) < HOURS_AT_ONCE
    return Page(tuple(rows), None if is_all else Place(looked_at[-1]))


def stream(wanted: Filter, *, limit: int = 2000) -> Iterator[Row]:
    """Every call of the filter, newest first, read a part at a time: no long statement, no more memory than a part."""
    found = page(wanted, limit=limit)
    yield from found.rows
    while found.after is not None:
        found = page(wanted, before=found.after, limit=limit)
        yield from found.rows


def find(*, tenant_id: UUID, call_id: UUID, project_ids: frozenset[int] | None = None) -> Row | None:
    """The call with this id; None where the log has it not, or not any more, or the reader may not see it."""
    if call_id.version != TIME_ORDERED:  # no call of ours: without the time in its id it would be looked for everywhere
        return None
    call = adjustments.by_call_id(Call.objects.filter(tenant_id=tenant_id), call_id).first()
    if call is None or (project_ids is not None and call.project_id not in project_ids):
        return None
    return Row(
        call.id, call.occurred_at, call.recorded_at, call.project_id, call.api_key_id, call.capability, call.outcome,
        call.reason, call.status, call.calls, call.units, call.latency_us,
    )  # fmt: skip


def corrections(*, tenant_id: UUID, call_id: UUID) -> list[Adjustment]:
    """What was corrected of the call, oldest first."""
    return list(Adjustment.objects.filter(tenant_id=tenant_id, call_id=call_id).order_by("created_at", "id"))


def kept_from() -> datetime | None:
    """The first day of which the log keeps every call."""
    return invariants.kept_since()


# What the rollup counts of each outcome. An hour whose calls were all voided counts none and has them in the log all the same.
MATCHING = {
    None: "sum(billable + failed + refused)",
    Outcome.BILLABLE: "sum(billable)",
    Outcome.FAILED: "sum(failed)",
    Outcome.REFUSED: "sum(refused)",
}


def _hours(wanted: Filter, before: Place | None) -> list[tuple[datetime, int]]:
    """The newest hours that may have such calls, and about how many."""
    where, values = _narrowed(wanted)
    end = wanted.end
    if before is not None:
        end = min(end, before.occurred_at + (MICROSECOND if before.id != NO_ID else timedelta(0)))
    having = ""
    if wanted.outcome in {Outcome.FAILED, Outcome.REFUSED}:
        having = f"HAVING {MATCHING[wanted.outcome]} > 0"
    sql = f"""
        SELECT hour, greatest({MATCHING[wanted.outcome]}, 1) FROM metering_usage_hour
        WHERE tenant_id = %(tenant)s AND hour >= %(first)s AND hour < %(end)s {where}
        GROUP BY hour {having} ORDER BY hour DESC LIMIT {HOURS_AT_ONCE}
    """
    with connection.cursor() as cursor:
        cursor.execute(sql, {**values, "tenant": wanted.tenant_id, "first": periods.hour_of(wanted.start), "end": end})
        return [(hour, int(matching)) for hour, matching in cursor.fetchall()]


def _rows(wanted: Filter, before: Place | None, hours: list[datetime], limit: int) -> list[Row]:
    if not hours:
        return []
    where, values = _narrowed(wanted)
    if wanted.outcome is not None:
        where += " AND outcome = %(outcome)s"
    if wanted.status is not None:
        where += " AND status >= %(status)s AND status < %(status_end)s"
    if before is not None:
        where += " AND (occurred_at, id) < (%(at)s, %(id)s)"
        values |= {"at": before.occurred_at, "id": before.id}
    status = wanted.status or 0
    values |= {
        "tenant": wanted.tenant_id, "hours": hours, "start": wanted.start, "end": wanted.end, "outcome": wanted.outcome,
        "status": status, "status_end": status + (100 if wanted.is_class else 1), "limit": limit,
    }  # fmt: skip
    sql = f"""
        SELECT c.* FROM unnest(%(hours)s::timestamptz[]) AS h (hour) CROSS JOIN LATERAL (
            SELECT {COLUMNS} FROM metering_call
            WHERE tenant_id = %(tenant)s AND occurred_at >= h.hour AND occurred_at < h.hour + interval '1 hour'
              AND occurred_at >= %(start)s AND occurred_at < %(end)s {where}
            ORDER BY occurred_at DESC, id DESC LIMIT %(limit)s
        ) AS c ORDER BY c.occurred_at DESC, c.id DESC LIMIT %(limit)s
    """
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return [Row(*row) for row in cursor.fetchall()]


def _narrowed(wanted: Filter) -> tuple[str, dict[str, Any]]:
    """What log and rollup are both narrowed by."""
    narrower = {"capability": wanted.capability, "project_id": wanted.project_id, "api_key_id": wanted.key_id}
    values: dict[str, Any] = {column: value for column, value in narrower.items() if value is not None}
    where = "".join(f" AND {column} = %({column})s" for column in values)
    if wanted.project_ids is not None:
        where += " AND project_id = ANY(%(project_ids)s)"
        values["project_ids"] = sorted(wanted.project_ids)
    return where, values
