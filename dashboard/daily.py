"""The chart of a period by day: what was used, and what is still expected of each day."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils import dateformat
from django.utils.translation import gettext as _

from billing.estimates import Statement
from metering import periods, usage

from . import charts, formatting, instants
from .instants import day as day_element

NARROW_DAYS = 14
Daily = Sequence[tuple[datetime, str, usage.Counts]]


@dataclass(frozen=True, slots=True)
class Key:
    """A line of the legend."""

    label: str
    style: str


@dataclass(frozen=True, slots=True)
class TableRow:
    """The same column as a row of numbers; `expected` is text, empty where nothing is."""

    label: str
    values: tuple[int, ...]
    total: int
    expected: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart in two widths, its legend, and its numbers as a table."""

    title: str
    description: str
    wide: charts.Chart
    narrow: charts.Chart
    legend: tuple[Key, ...]
    ghost_label: str
    line_label: str
    row_heading: str
    rows: tuple[TableRow, ...]
    currency: str = ""  # the numbers are minor units of it; empty: they are calls


def figure(
    *, statement: Statement, daily: Daily, series: Sequence[charts.Series], label: Callable[[str], str]
) -> Figure:
    """The running period by day, stacked by the series."""
    stacks = list(_stacks(statement, daily, series))
    pace = even_pace(statement)
    wide = charts.stacked(stacks, series, line=pace)
    today = (periods.day_of(statement.now) - periods.day_of(statement.period.start)).days
    first = max(0, min(today + 1, len(stacks)) - NARROW_DAYS)
    narrow = charts.stacked(stacks[first : first + NARROW_DAYS], series, line=pace)
    has_ghosts = any(stack.ghost for stack in stacks)
    return Figure(
        title=_("Billable calls per day (UTC)"),
        description=_description(has_ghosts=has_ghosts),
        wide=wide,
        narrow=narrow,
        legend=tuple(Key(series_label(item, label), item.style) for item in series),
        ghost_label=_("projected") if has_ghosts else "",
        line_label=_("included, spread evenly") if wide.line_y is not None else "",
        row_heading=_("Day (UTC)"),
        rows=tuple(_table_row(at, stack) for at, stack in zip(periods.days(statement.period), stacks, strict=True)),
    )


def series_label(item: charts.Series, label: Callable[[str], str]) -> str:
    return _("Other") if item.group == charts.OTHER else label(item.group)


def even_pace(statement: Statement) -> int | None:
    """Calls a day that would use the included ones up exactly at the period's end; None without a bound."""
    included = statement.allowance.included
    return None if included is None else included * 86_400 // statement.period.seconds


def expected(statement: Statement) -> list[int]:
    """Calls that each day of the period will still bring: their sum is the projection's likely value less what was used."""
    days = list(periods.days(statement.period))
    rest = statement.projection.rest if statement.projection else ()
    return [0] * (len(days) - len(rest)) + list(rest)


def _stacks(statement: Statement, daily: Daily, series: Sequence[charts.Series]) -> Iterator[charts.Stack]:
    numbers: dict[datetime, dict[str, int]] = {}
    for at, group, counts in daily:
        numbers.setdefault(at, {})[group] = counts.units
    for at, ghost in zip(periods.days(statement.period), expected(statement), strict=True):
        values = charts.values_of(numbers.get(at, {}), series)
        era = dateformat.format(at, "M")
        yield charts.Stack(_column_label(at, values, ghost), str(at.day), era, values, ghost)


def _column_label(at: datetime, values: Sequence[int], ghost: int) -> str:
    text = _("%(day)s: %(calls)s") % {"day": instants.text(at), "calls": formatting.count(sum(values))}
    return text + (_(", %(calls)s projected") % {"calls": formatting.count(ghost)} if ghost else "")


def _table_row(at: datetime, stack: charts.Stack) -> TableRow:
    return TableRow(day_element(at), stack.values, stack.total, formatting.count(stack.ghost) if stack.ghost else "")


def _description(*, has_ghosts: bool) -> str:
    stacked = _("Stacked columns, one a day; the table below has the same numbers.")
    return f"{stacked} " + _("Dashed columns are projected.") if has_ghosts else stacked


def totals(daily: Daily) -> Mapping[str, int]:
    """Units by group over all days."""
    found: dict[str, int] = {}
    for _at, group, counts in daily:
        found[group] = found.get(group, 0) + counts.units
    return found
