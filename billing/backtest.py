"""How far the projection was off: it is made again at every midnight of every period that is over, beside a straight line."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

from django.db.models import Sum
from django.db.models.functions import TruncDay

from metering.models import Quota, UsageHour
from metering.periods import Period

from . import projection
from .models import Account

DAY = timedelta(days=1)
HUNDREDTH = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Past:
    """A period that is over: its units by UTC day, and how many units it admitted (None: any number)."""

    period: Period
    units: Mapping[datetime, int]
    admits: int | None = None


@dataclass(frozen=True, slots=True)
class History:
    """All that is known of a tenant by day, and its periods."""

    units: Mapping[datetime, int]
    unknown: frozenset[datetime]  # days on which more was refused than served
    since: datetime
    periods: tuple[Past, ...]

    @classmethod
    def of_days(
        cls,
        *,
        units: Mapping[datetime, int],
        periods: Sequence[Period],
        since: datetime,
        unknown: Collection[datetime] = (),
    ) -> "History":
        """A history of whole days, for periods that begin at midnight."""
        past = [Past(period, {day: count for day, count in units.items() if day in period}) for period in periods]
        return cls(units, frozenset(unknown), since, tuple(past))


@dataclass(frozen=True, slots=True)
class Score:
    """Errors over a number of cut points, each in parts of what the period ended with, summed exactly."""

    cut_points: int = 0
    error: Fraction = Fraction(0)
    line_error: Fraction = Fraction(0)
    inside: int = 0  # how often the period ended between low and high

    @property
    def error_percent(self) -> Decimal:
        """The mean absolute percentage error."""
        return _percent(self.error, self.cut_points)

    @property
    def line_error_percent(self) -> Decimal:
        return _percent(self.line_error, self.cut_points)

    @property
    def inside_percent(self) -> Decimal:
        return _percent(Fraction(self.inside), self.cut_points)


def _percent(total: Fraction, count: int) -> Decimal:
    share = total * 100 / count if count else Fraction(0)
    return (Decimal(share.numerator) / Decimal(share.denominator)).quantize(HUNDREDTH, ROUND_HALF_UP)


def total(scores: Iterable[Score]) -> Score:
    """All cut points together, each counting the same."""
    everything = list(scores)
    return Score(
        sum(score.cut_points for score in everything),
        sum((score.error for score in everything), Fraction(0)),
        sum((score.line_error for score in everything), Fraction(0)),
        sum(score.inside for score in everything),
    )


def score(history: History) -> Score:
    """The errors at every midnight (UTC) of these periods at which something is projected."""
    return total(_cut(history, past, now) for past in history.periods for now in _midnights(past.period))


def _midnights(period: Period) -> Iterator[datetime]:
    day = period.start.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + DAY
    while day < period.end:
        yield day
        day += DAY


def _cut(history: History, past: Past, now: datetime) -> Score:
    """What was projected at this instant against what came, knowing nothing of what came."""
    truth = sum(past.units.values())
    before = {day: units for day, units in past.units.items() if day < now}
    used = sum(before.values())
    known = {day: units for day, units in history.units.items() if now - projection.REACHES_BACK <= day < now}
    days = projection.known_days(units=known, since=history.since, now=now, unknown=history.unknown)
    ahead = projection.projected(period=past.period, used=used, days=days, now=now)
    full_days = [units for day, units in before.items() if day >= past.period.start]
    line = projection.straight_line(period=past.period, used=used, full_days=full_days, now=now)
    if ahead is None or line is None:
        return Score()
    if past.admits is not None:
        bound = max(past.admits, used)
        ahead, line = ahead.capped(bound), line.capped(bound)
    return Score(
        cut_points=1,
        error=Fraction(abs(ahead.likely - truth), truth),
        line_error=Fraction(abs(line.likely - truth), truth),
        inside=int(ahead.low <= truth <= ahead.high),
    )


def history_of(*, account: Account, now: datetime) -> History:
    """The tenant's usage by day and its periods that are over, in two queries."""
    rows = (
        UsageHour.objects.filter(tenant_id=account.tenant_id, hour__lt=now)
        .values("period_start", day=TruncDay("hour", tzinfo=UTC))
        .annotate(units_=Sum("units"), refused_=Sum("refused"))
    )
    units: dict[datetime, int] = {}
    refused: dict[datetime, int] = {}
    by_period: dict[datetime, dict[datetime, int]] = {}
    for row in rows.order_by("day"):
        day, count = row["day"], int(row["units_"])
        units[day] = units.get(day, 0) + count
        refused[day] = refused.get(day, 0) + int(row["refused_"])
        by_period.setdefault(row["period_start"], {})[day] = count
    over = Quota.objects.filter(tenant_id=account.tenant_id, period_end__lte=now).order_by("period_start")
    past = [
        Past(Period(quota.period_start, quota.period_end), by_period.get(quota.period_start, {}), quota.admits)
        for quota in over
    ]
    unknown = frozenset(day for day, calls in refused.items() if calls > units[day])
    return History(units, unknown, account.created_at, tuple(past))
