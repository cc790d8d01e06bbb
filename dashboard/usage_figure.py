"""The chart of any range of hours, days or months. Where there is no room for a column each, several share one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import dateformat
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from metering import periods
from metering.periods import Period
from metering.usage import Granularity

from . import charts, formatting, instants
from .daily import Figure, Key, series_label
from .usage_numbers import Numbers

MOST_WIDE = 100
MOST_NARROW = 15
TOGETHER = {
    Granularity.HOUR: (1, 2, 3, 6, 12, 24, 48, 72, 168, 336),
    Granularity.DAY: (1, 2, 3, 7, 14, 28, 56),
    Granularity.MONTH: (1, 2, 3, 6, 12),
}


@dataclass(frozen=True, slots=True)
class Shown:
    """What the numbers are: their name, and the currency where they are minor units of money."""

    title: str
    currency: str = ""

    def text(self, number: int) -> str:
        return formatting.money(number, self.currency) if self.currency else formatting.count(number)


def buckets(*, start: datetime, end: datetime, granularity: Granularity) -> list[datetime]:
    """The beginning of each hour, day or month (UTC) that the range touches."""
    if granularity is Granularity.HOUR:
        return [start + timedelta(hours=place) for place in range(-(-int((end - start).total_seconds()) // 3600))]
    if granularity is Granularity.DAY:
        return list(periods.days(Period(start, end)))
    found, month = [], periods.month_of(start)
    while month < end:
        found.append(month)
        month = periods.months_after(month, 1)
    return found


@dataclass(frozen=True, slots=True)
class Sheet:
    """What chart and table are made of: numbers by bucket and group, all buckets of the range, and how they are called."""

    numbers: Numbers
    starts: Sequence[datetime]
    granularity: Granularity
    series: Sequence[charts.Series]
    label: Callable[[str], str]
    shown: Shown


def figure(sheet: Sheet) -> Figure:
    """The sheet's numbers, stacked by its series."""
    wide, narrow = (_step(len(sheet.starts), most, sheet.granularity) for most in (MOST_WIDE, MOST_NARROW))
    return Figure(
        title=sheet.shown.title,
        description=_describe(sheet.granularity, wide),
        wide=charts.stacked(list(_stacks(sheet, wide)), sheet.series),
        narrow=charts.stacked(list(_stacks(sheet, narrow)), sheet.series),
        legend=tuple(Key(series_label(item, sheet.label), item.style) for item in sheet.series),
        ghost_label="",
        line_label="",
        row_heading="",
        rows=(),
        currency=sheet.shown.currency,
    )


def _step(count: int, most: int, granularity: Granularity) -> int:
    """Buckets in one column, so that there are at most `most` columns."""
    return next((step for step in TOGETHER[granularity] if count <= step * most), -(-count // most))


def _stacks(sheet: Sheet, step: int) -> Iterator[charts.Stack]:
    for place in range(0, len(sheet.starts), step):
        inside = sheet.starts[place : place + step]
        sums: dict[str, int] = {}
        for at in inside:
            for group, number in sheet.numbers.cells.get(at, {}).items():
                sums[group] = sums.get(group, 0) + number
        values = tuple(max(0, number) for number in charts.values_of(sums, sheet.series))
        name = bucket_name(inside[0], sheet.granularity)
        if len(inside) > 1:
            name = f"{name} \N{EN DASH} {bucket_name(inside[-1], sheet.granularity)}"
        tick, era = _tick(inside[0], sheet.granularity)
        yield charts.Stack(f"{name}: {sheet.shown.text(sum(values))}", tick, era, values)


def bucket_name(at: datetime, granularity: Granularity) -> str:
    if granularity is Granularity.MONTH:
        return dateformat.format(at, "M Y")
    return instants.text(at, ", H:i" if granularity is Granularity.HOUR else "")


def _tick(at: datetime, granularity: Granularity) -> tuple[str, str]:
    """What is written below a column, and what it is part of, written where that changes."""
    if granularity is Granularity.HOUR:
        return dateformat.format(at, "H:i"), instants.text(at)
    if granularity is Granularity.DAY:
        return str(at.day), dateformat.format(at, "M")
    return dateformat.format(at, "M"), dateformat.format(at, "y")


def _describe(granularity: Granularity, step: int) -> str:
    columns = {
        Granularity.HOUR: ngettext("one an hour", "one for each %(step)d hours", step),
        Granularity.DAY: ngettext("one a day", "one for each %(step)d days", step),
        Granularity.MONTH: ngettext("one a month", "one for each %(step)d months", step),
    }
    each = columns[granularity] % ({"step": step} if step > 1 else {})
    return _("Stacked columns, %(each)s; the table below has the same numbers.") % {"each": each}
