"""Month over month: periods beside each other, and which capability moved the running one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils import dateformat
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from billing import estimates
from billing.estimates import Month, Statement
from billing.models import Account
from metering import periods, usage

from . import charts, formatting, instants
from .changes import Change, change
from .daily import Figure, Key, TableRow, series_label
from .instants import dates
from .overview import day_of_period

NARROW_PERIODS = 6
FEWEST_PERIODS = 2


@dataclass(frozen=True, slots=True)
class PeriodRow:
    """One period. `by_now` is its part up to the same place as the running one has reached."""

    period: SafeString
    is_running: bool
    counts: usage.Counts
    change: Change
    cause: str
    by_now: int
    amount: str


@dataclass(frozen=True, slots=True)
class Driver:
    """What one capability added to the change."""

    label: str
    now: int
    before: int
    difference: str
    change: Change


@dataclass(frozen=True, slots=True)
class Trends:
    """The page. `summary` says the change in words."""

    statement: Statement
    day: str
    summary: str
    drivers: tuple[Driver, ...]
    total: Driver
    figure: Figure
    rows: tuple[PeriodRow, ...]
    sees_money: bool


def trends(*, account: Account, now: datetime, sees_money: bool = True) -> Trends:
    """Thirteen periods up to this instant."""
    statement = estimates.statement(account=account, now=now)
    months = _since_first_use(estimates.months(account=account, now=now))
    before, current = months[-2].by_place, months[-1].by_place
    found = drivers(now=current, before=before)
    total = driver(
        _("Total"),
        now=sum(counts.billable for counts in current.values()),
        before=sum(counts.billable for counts in before.values()),
    )
    return Trends(
        statement=statement,
        day=day_of_period(statement),
        summary=summary(found, total),
        drivers=found,
        total=total,
        figure=figure(months, statement),
        rows=tuple(reversed(list(_rows(months)))),
        sees_money=sees_money,
    )


def _since_first_use(months: Sequence[Month]) -> list[Month]:
    """Without the empty periods before the tenant began, but never fewer than two."""
    first = next((place for place, month in enumerate(months) if month.total != usage.Counts()), len(months))
    return list(months[min(first, len(months) - FEWEST_PERIODS) :])


def driver(label: str, *, now: int, before: int) -> Driver:
    return Driver(label, now, before, signed(now - before), change(now=now, before=before))


def signed(number: int) -> str:
    """A difference: what is more has a plus."""
    return f"{'+' if number > 0 else ''}{formatting.count(number)}"


def drivers(*, now: Mapping[str, usage.Counts], before: Mapping[str, usage.Counts]) -> tuple[Driver, ...]:
    """Each capability's part in the change, the largest first."""
    nothing = usage.Counts()
    found = [
        driver(name, now=now.get(name, nothing).billable, before=before.get(name, nothing).billable)
        for name in sorted(now.keys() | before.keys())
        if now.get(name, nothing).billable or before.get(name, nothing).billable
    ]
    return tuple(sorted(found, key=lambda item: -abs(item.now - item.before)))


def summary(found: Sequence[Driver], total: Driver) -> str:
    """The change and its main cause in one sentence."""
    if not total.before:
        return _("There is nothing to compare with yet: no calls on the same days of the last period.")
    difference = total.now - total.before
    if not difference:
        return _("As many calls as on the same days of the last period.")
    cause = main_cause(found, difference)
    words = {"calls": formatting.count(abs(difference)), "percent": total.change.text}
    words |= {"driver": cause.label, "part": cause.difference}
    if difference > 0:
        text = _(
            "%(calls)s calls more than on the same days of the last period (%(percent)s); mostly %(driver)s (%(part)s)."
        )
    else:
        text = _(
            "%(calls)s calls fewer than on the same days of the last period (%(percent)s); mostly %(driver)s (%(part)s)."
        )
    return text % words


def main_cause(found: Sequence[Driver], difference: int) -> Driver:
    """What moved most in the direction of the whole."""
    return max(found, key=lambda item: (item.now - item.before) * (1 if difference > 0 else -1))


def _cause(month: Month, before: Month, *, is_running: bool) -> str:
    """storage +600: the capability that drove the change from the period before; the running one to the same place."""
    found = drivers(now=month.by_place if is_running else month.capabilities,
                    before=before.by_place if is_running else before.capabilities)  # fmt: skip
    difference = sum(item.now - item.before for item in found)
    if not difference:
        return ""
    cause = main_cause(found, difference)
    return f"{cause.label} {cause.difference}"


def _rows(months: Sequence[Month]) -> Iterator[PeriodRow]:
    for place, month in enumerate(months):
        is_running = place == len(months) - 1
        now = month.total.billable
        before = 0
        if place:
            before = months[place - 1].same_day.billable if is_running else months[place - 1].total.billable
        yield PeriodRow(
            period=dates(month.period),
            is_running=is_running,
            counts=month.total,
            change=change(now=now, before=before) if place else Change(formatting.NOTHING, "same"),
            cause=_cause(month, months[place - 1], is_running=is_running) if place else "",
            by_now=month.same_day.billable,
            amount=formatting.money(month.invoice.total_minor, month.invoice.currency),
        )


def figure(months: Sequence[Month], statement: Statement) -> Figure:
    """The periods as stacked columns, the running one with what is still expected of it."""
    totals: dict[str, int] = {}
    for month in months:
        for name, counts in month.capabilities.items():
            totals[name] = totals.get(name, 0) + counts.units
    series = charts.series_of(totals)
    ghost = statement.projection.likely - statement.used if statement.projection else 0
    stacks = [_stack(month, series, ghost if month is months[-1] else 0) for month in months]
    return Figure(
        title=_("Billable calls per billing period"),
        description=_("Stacked columns, one a period; the table below has the same numbers."),
        wide=charts.stacked(stacks, series),
        narrow=charts.stacked(stacks[-NARROW_PERIODS:], series),
        legend=tuple(Key(series_label(item, str), item.style) for item in series),
        ghost_label=_("projected") if ghost else "",
        line_label="",
        row_heading=_("Period (UTC)"),
        rows=tuple(
            TableRow(
                dates(month.period), stack.values, stack.total, formatting.count(stack.ghost) if stack.ghost else ""
            )
            for month, stack in zip(months, stacks, strict=True)
        ),
    )


def _stack(month: Month, series: Sequence[charts.Series], ghost: int) -> charts.Stack:
    values = charts.values_of({name: counts.units for name, counts in month.capabilities.items()}, series)
    return charts.Stack(
        label=_column_label(month.period, sum(values), ghost),
        tick=dateformat.format(month.period.start, "M"),
        era=dateformat.format(month.period.start, "y"),
        values=values,
        ghost=ghost,
    )


def _column_label(period: periods.Period, calls: int, ghost: int) -> str:
    start = instants.text(period.start, " Y")
    text = _("From %(start)s: %(calls)s") % {"start": start, "calls": formatting.count(calls)}
    return text + (_(", %(calls)s projected") % {"calls": formatting.count(ghost)} if ghost else "")
