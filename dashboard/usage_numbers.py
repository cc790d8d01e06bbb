"""The numbers that the usage page shows of its points: calls of one outcome, or money. Each is rounded once, from exact parts."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal

from django.utils.translation import gettext as _

from billing.series import Point, Query
from metering.models import Outcome
from metering.usage import Counts, Granularity, GroupBy


@dataclass(frozen=True, slots=True)
class Numbers:
    """By bucket and group, by bucket, by group, and in all; with the counts of each bucket beside them."""

    cells: Mapping[datetime, Mapping[str, int]]
    rows: Mapping[datetime, int]
    columns: Mapping[str, int]
    total: int
    counts: Mapping[datetime, Counts]


def numbers(points: Sequence[Point], query: Query) -> Numbers:
    """What is shown of these points."""
    cells: dict[datetime, dict[str, int]] = defaultdict(dict)
    rows: dict[datetime, Decimal] = defaultdict(Decimal)
    columns: dict[str, Decimal] = defaultdict(Decimal)
    counts: dict[datetime, Counts] = defaultdict(Counts)
    for point in points:
        exact = Decimal(calls(point.counts, query)) if point.exact_minor is None else point.exact_minor
        cells[point.start][point.group] = rounded(exact)
        rows[point.start] += exact
        columns[point.group] += exact
        counts[point.start] += point.counts
    return Numbers(
        dict(cells),
        {at: rounded(exact) for at, exact in rows.items()},
        {group: rounded(exact) for group, exact in columns.items()},
        rounded(sum(columns.values(), Decimal(0))),
        dict(counts),
    )


def rounded(exact: Decimal) -> int:
    """Whole calls, or whole minor units: half a unit away from zero, as on the invoice."""
    return int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def calls(counts: Counts, query: Query) -> int:
    """The calls that the chart is about: those of the outcome that is asked for, else the billable ones."""
    if query.group_by is GroupBy.OUTCOME:
        return counts.answered + counts.refused
    shown = {Outcome.FAILED: counts.failed, Outcome.REFUSED: counts.refused}
    return shown.get(query.scope.outcome, counts.billable) if query.scope.outcome else counts.billable


def title(query: Query) -> str:
    """What the numbers are, in words."""
    if query.shows_money:
        return {
            Granularity.DAY: _("Cost of the calls per day (UTC)"),
            Granularity.MONTH: _("Cost of the calls per month (UTC)"),
        }[query.granularity]
    place = (Granularity.HOUR, Granularity.DAY, Granularity.MONTH).index(query.granularity)
    titles = {
        Outcome.BILLABLE: (
            _("Billable calls per hour (UTC)"), _("Billable calls per day (UTC)"), _("Billable calls per month (UTC)"),
        ),
        Outcome.FAILED: (
            _("Failed calls per hour (UTC)"), _("Failed calls per day (UTC)"), _("Failed calls per month (UTC)"),
        ),
        Outcome.REFUSED: (
            _("Refused calls per hour (UTC)"), _("Refused calls per day (UTC)"), _("Refused calls per month (UTC)"),
        ),
    }  # fmt: skip
    if query.group_by is GroupBy.OUTCOME and query.scope.outcome is None:
        return (_("Calls per hour (UTC)"), _("Calls per day (UTC)"), _("Calls per month (UTC)"))[place]
    return titles[query.scope.outcome or Outcome.BILLABLE][place]
