"""What a period will end with. Pure and exact: counts and instants in, counts out, integers all the way.

The level of a day is learned from the last eight weeks, earlier periods included, with weekdays told apart and bursts spread
over the time in which they happened; `docs/projection.md` says how and how well. `straight_line` is what it has to beat.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from math import isqrt

from metering import periods
from metering.periods import Period

DAY_SECONDS = 86_400
DAY = timedelta(days=1)
LEAST_SECONDS = DAY_SECONDS // 4  # with less to go by, the rate of those hours says nothing about a day
WEEK = 7
SATURDAY = 5
FEW_WEEKS = 3  # fewer than this tell only weekends from working days
HIDDEN_SHARE = 10  # nothing is projected in the first tenth of a period
FEWEST_CALLS = 50
REACHES_BACK = 8 * WEEK * DAY  # how far back days count
ONE = 10_000  # a weekday's weight when all are alike
LEAST_WEIGHT = ONE // 50
MICRO = 10**6  # levels are in millionths of a call a day
BURST = (7, 4)  # what lies beyond 7/4 of the week around it is a burst
YOUNG_DAYS = 21  # fewer days than this say nothing about a change of level
TODAY_FADES = 56  # today's calls so far count less the more whole days are known
STRETCHES = (28, 14, 7)  # over these the level is followed
DOUBT = 2  # how many times its noise a change of level has to be to be half believed
BAND = (16, 10)  # standard deviations to either side: about eight in ten periods end inside


@dataclass(frozen=True, slots=True)
class Day:
    """What is known of a UTC day: its units, and how much of it was seen. Days that are unknown are left out."""

    start: datetime
    units: int
    seconds: int = DAY_SECONDS


@dataclass(frozen=True, slots=True)
class Projection:
    """Units at the period's end. About eight in ten periods end between low and high.

    `rest`: what each UTC day from the present one on still brings; with what was used it makes the likely value.
    """

    low: int
    likely: int
    high: int
    rest: tuple[int, ...] = ()

    def capped(self, limit: int | None) -> "Projection":
        """The same, when no more than `limit` units are admitted."""
        if limit is None:
            return self
        likely = min(self.likely, limit)
        left = sum(self.rest) - (self.likely - likely)
        return Projection(min(self.low, limit), likely, min(self.high, limit), _first(self.rest, left))

    def reaches(self, units: int, *, now: datetime, end: datetime) -> datetime | None:
        """When so many more units will have come, evenly within each day; None when the rest does not bring them."""
        day, left = periods.day_of(now), units
        for brings in self.rest:
            if brings >= left > 0:
                start = max(day, now)
                return start + timedelta(seconds=_seconds(min(day + DAY, end) - start) * left // brings)
            day, left = day + DAY, left - brings
        return None


def _first(rest: Sequence[int], left: int) -> tuple[int, ...]:
    """The days' units in their order until none are left."""
    kept = []
    for units in rest:
        kept.append(max(0, min(units, left)))
        left -= kept[-1]
    return tuple(kept)


def known_days(
    *, units: Mapping[datetime, int], since: datetime, now: datetime, unknown: Collection[datetime] = ()
) -> list[Day]:
    """The last eight weeks by UTC day, oldest first, today so far as the last one.

    Days without calls count as zero from the first one with calls on; that day begins at `since` where the tenant did. `unknown`
    days say nothing: as a rule their calls were refused.
    """
    today = periods.day_of(now)
    first = max(min(units, default=today), today - REACHES_BACK)
    found = []
    for number in range((today - first).days + 1):
        start = first + number * DAY
        begin = since if start == first and start < since < start + DAY else start
        seen = min(start + DAY, now) - begin
        if start not in unknown and seen > timedelta(0):
            found.append(Day(start, units.get(start, 0), int(seen.total_seconds())))
    return found


def projected(*, period: Period, used: int, days: Sequence[Day], now: datetime) -> Projection | None:
    """Units at the period's end, as the days so far make it likely; None when it is too early to say.

    Each weekday's share of a week is learned from the weeks before, and the level follows the last 28, 14 and 7 days as far as
    they differ by more than their noise. With less than six hours to go by it is the straight line.
    """
    if _is_too_early(period, used, now):
        return None
    if sum(day.seconds for day in days) < LEAST_SECONDS:
        whole = [day.units for day in days if day.seconds == DAY_SECONDS]
        return straight_line(period=period, used=used, full_days=whole, now=now)
    weights = _weights([day for day in days if day.seconds == DAY_SECONDS])
    level, bursts = _level(days, weights)
    rest = _rest(period, now, weights, level, bursts)
    spread = _spread(days, weights, max(0, _seconds(period.end - now)), sum(rest))
    likely = used + sum(rest)
    return Projection(max(used, likely - spread), likely, likely + spread, rest)


def _is_too_early(period: Period, used: int, now: datetime) -> bool:
    return _seconds(now - period.start) * HIDDEN_SHARE < period.seconds or used < FEWEST_CALLS


def _seconds(span: timedelta) -> int:
    return int(span.total_seconds())


# -- weekdays ------------------------------------------------------------------------------------------------------------


def _weights(days: Sequence[Day]) -> list[int]:
    """How busy each weekday is, Monday first; ONE on average. A difference counts as far as it is more than noise."""
    weeks = _weeks(days)
    if len(weeks) < FEW_WEEKS:
        return _weekend([_without_bursts(week) for week in weeks])
    raw = [_weight([week[weekday] for week in weeks]) for weekday in range(WEEK)]
    return [max(LEAST_WEIGHT, weight * WEEK * ONE // sum(raw)) for weight in raw]


def _weeks(days: Sequence[Day]) -> list[list[int]]:
    """The shares of each weekday in the last whole weeks, one that ends yesterday the first; weeks without calls left out."""
    found = []
    for end in range(len(days), WEEK - 1, -WEEK):
        week = days[end - WEEK : end]
        total = sum(day.units for day in week)
        if total and week[-1].start - week[0].start == (WEEK - 1) * DAY:
            shares = sorted((day.start.weekday(), day.units * WEEK * ONE // total) for day in week)
            found.append([share for _, share in shares])
    return found


def _weight(shares: list[int]) -> int:
    """The median share, drawn towards ONE the more the weeks disagree."""
    median = _median(shares)
    noise = (
        _median([abs(share - median) for share in shares]) ** 2 * 343 // (100 * len(shares))
    )  # 3.43: (1.48 x 1.25)^2
    return ONE + _believed(median - ONE, noise)


def _weekend(weeks: list[list[int]]) -> list[int]:
    """One weight for working days and one for weekends: all that a week or two can tell."""
    working = [share for week in weeks for share in week[:SATURDAY]]
    free = [share for week in weeks for share in week[SATURDAY:]]
    if not weeks:
        return [ONE] * WEEK
    noise = _variance(working) * WEEK // (len(free) * SATURDAY)
    away = _believed(sum(free) // len(free) - sum(working) // len(working), DOUBT * noise)
    days = len(free) + len(working)
    on_working, on_free = ONE - away * len(free) // days, ONE + away * len(working) // days
    return [max(LEAST_WEIGHT, on_working)] * SATURDAY + [max(LEAST_WEIGHT, on_free)] * (WEEK - SATURDAY)


def _without_bursts(week: list[int]) -> list[int]:
    most = _median(week) * 2
    return [min(units, most) for units in week] if most else week


def _believed(away: int, noise: int) -> int:
    """A difference as far as it is more than its noise, a variance."""
    return away * away * away // (away * away + noise) if away else 0


def _median(values: Sequence[int]) -> int:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


# -- level ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    """A day without its weekday: its rate in millionths of a call a day, and how much it weighs."""

    rate: int
    weight: int


def _seen(days: Sequence[Day], weights: list[int]) -> list[_Seen]:
    whole = sum(day.seconds == DAY_SECONDS for day in days)
    found = []
    for day in days:
        weight = weights[day.start.weekday()] * day.seconds
        rate = day.units * MICRO * ONE * DAY_SECONDS // weight
        is_today = day is days[-1] and day.seconds < DAY_SECONDS
        fading = max(0, TODAY_FADES - whole) if is_today else TODAY_FADES
        found.append(_Seen(rate, weight * fading // TODAY_FADES))
    return [day for day in found if day.weight]


def _level(days: Sequence[Day], weights: list[int]) -> tuple[int, int]:
    """Millionths of a call a day: without bursts, to be weighed by weekday, and what bursts add on average."""
    seen = _seen(days, weights)
    calm = [_Seen(min(day.rate, _burst_from(seen, place)), day.weight) for place, day in enumerate(seen)]
    time = sum(day.weight for day in seen)
    bursts = sum((day.rate - without.rate) * day.weight for day, without in zip(seen, calm, strict=True)) // time
    return _followed(calm), bursts


def _burst_from(seen: Sequence[_Seen], place: int) -> int:
    """What is a burst here: by the seven days around, or the seven at that end."""
    first = max(0, min(place - WEEK // 2, len(seen) - WEEK))
    return _median([day.rate for day in seen[first : first + WEEK]]) * BURST[0] // BURST[1]


def _followed(calm: Sequence[_Seen]) -> int:
    """The mean of all days, moved towards that of the last 28, 14 and 7 as far as they differ by more than their noise."""
    level = _mean(calm)
    if len(calm) <= YOUNG_DAYS:
        return level
    noise = _noise(calm)
    for stretch in STRETCHES:
        if stretch < len(calm):
            level += _believed(_mean(calm[-stretch:]) - level, DOUBT * noise // stretch)
    return level


def _mean(seen: Sequence[_Seen]) -> int:
    return sum(day.rate * day.weight for day in seen) // sum(day.weight for day in seen)


def _noise(calm: Sequence[_Seen]) -> int:
    """The variance of a day: from one day to the next, or within the last week where that is more."""
    week = calm[-WEEK:]
    mean = _mean(week)
    within = sum((day.rate - mean) ** 2 for day in week) // (len(week) - 1)
    steps = sum((one.rate - other.rate) ** 2 for one, other in pairwise(calm)) // (2 * (len(calm) - 1))
    return max(within, steps)


# -- the rest of the period ----------------------------------------------------------------------------------------------


def _rest(period: Period, now: datetime, weights: list[int], level: int, bursts: int) -> tuple[int, ...]:
    """What each day from the present one on still brings: whole calls whose sum is rounded once."""
    found, exact, given = [], 0, 0
    day = periods.day_of(now)
    while day < period.end:
        seconds = _seconds(min(day + DAY, period.end) - max(day, now))
        exact += (level * weights[day.weekday()] + bursts * ONE) * seconds
        until = exact // (MICRO * ONE * DAY_SECONDS)
        found.append(until - given)
        day, given = day + DAY, until
    return tuple(found)


def _spread(days: Sequence[Day], weights: list[int], seconds: int, rest: int) -> int:
    """How far the end may lie from the likely value: by the days' noise, and by how the weeks' levels differed.

    All of the rest while fewer than two whole days are known.
    """
    rates = [day.units * MICRO * ONE // weights[day.start.weekday()] for day in days if day.seconds == DAY_SECONDS]
    if len(rates) < 2:  # noqa: PLR2004 -- a deviation needs two
        return rest
    noise = _variance(rates)
    weeks = [sum(rates[end - WEEK : end]) // WEEK for end in range(len(rates), WEEK - 1, -WEEK)]
    drift = max(0, _variance(weeks) - noise // WEEK) if len(weeks) > 1 else 0
    of_days = noise * seconds * DAY_SECONDS
    of_level = (noise // min(len(rates), STRETCHES[0]) + 2 * drift) * seconds * seconds
    return isqrt(of_days + of_level) * BAND[0] // (BAND[1] * MICRO * DAY_SECONDS)


def _variance(values: Sequence[int]) -> int:
    count, total = len(values), sum(values)
    return (count * sum(value * value for value in values) - total * total) // (count * (count - 1))


# -- the peer ------------------------------------------------------------------------------------------------------------


def straight_line(*, period: Period, used: int, full_days: Sequence[int], now: datetime) -> Projection | None:
    """Units at the period's end if the rest goes like the part so far; None when it is too early to say.

    `full_days` are the units of the period's completed days; their spread gives the range: the likely value plus or
    minus 1.28 standard deviations of a day times the square root of the days that remain, never below what was used.
    """
    if _is_too_early(period, used, now):
        return None
    elapsed = _seconds(now - period.start)
    remaining = max(0, period.seconds - elapsed)
    rest = used * remaining // elapsed
    spread = 0
    if len(full_days) > 1:
        spread = isqrt(_variance(full_days) * remaining // DAY_SECONDS) * 128 // 100
    even = _rest(period, now, [ONE] * WEEK, used * MICRO * DAY_SECONDS // elapsed, 0)
    line = Projection(max(used, used + rest - spread), used + rest, used + rest + spread)
    return replace(line, rest=_filled(even, rest))


def _filled(even: tuple[int, ...], rest: int) -> tuple[int, ...]:
    """The same days with exactly this sum: the last one takes what rounding left."""
    return (*even[:-1], even[-1] + rest - sum(even)) if even else ()
