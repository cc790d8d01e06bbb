"""Where a period ends: by the weekday, at the level of late, bursts spread out; no worse than a straight line."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import backtest, pricing, projection
from billing.projection import Day, Projection
from metering import periods
from metering.periods import Period
from sandbox import history, story

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
ANCHOR = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
JUNE = Period(datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC))  # begins on a Monday
LAUNCH = pricing.Terms("usd", 19_00, 100_000, Decimal("0.025"), prices_overage=True)


def days_before(now: datetime, units: Sequence[int]) -> list[Day]:
    """Whole days that end yesterday, the last one given being yesterday, and today without a call so far."""
    today = periods.day_of(now)
    known = [Day(today - (len(units) - place) * DAY, each) for place, each in enumerate(units)]
    seen = int((now - today).total_seconds())
    return [*known, Day(today, 0, seen)] if seen else known


def office(day: datetime) -> int:
    return 100 if day.weekday() >= 5 else 1_000


# -- what it says --------------------------------------------------------------------------------------------------------


def test_weekends_are_told_apart_from_working_days() -> None:
    now = JUNE.start + 12 * DAY  # Saturday, two quiet days ahead
    known = days_before(now, [office(now - back * DAY) for back in range(56, 0, -1)])
    used = sum(office(JUNE.start + number * DAY) for number in range(12))
    found = projection.projected(period=JUNE, used=used, days=known, now=now)
    truth = sum(office(JUNE.start + number * DAY) for number in range(30))
    line = projection.straight_line(period=JUNE, used=used, full_days=[], now=now)
    assert found
    assert line
    assert found.likely == pytest.approx(truth, rel=0.002)
    assert abs(found.likely - truth) * 20 < abs(line.likely - truth)
    assert found.rest[0] < found.rest[2] / 5  # Saturday, Monday


@pytest.mark.parametrize("weeks", [1, 2, 5])
def test_calls_on_weekends_only_are_expected_to_go_on(weeks: int) -> None:
    now = JUNE.start + 14 * DAY  # a Monday
    known = days_before(now, [0, 0, 0, 0, 0, 0, 700] * weeks)
    found = projection.projected(period=JUNE, used=700 * min(weeks, 2), days=known, now=now)
    assert found
    assert found.likely > 700 * min(weeks, 2)


def test_a_burst_of_one_day_does_not_go_on() -> None:
    now = JUNE.start + 10 * DAY
    calm = projection.projected(period=JUNE, used=1_000, days=days_before(now, [100] * 40), now=now)
    burst = projection.projected(
        period=JUNE, used=5_900, days=days_before(now, [*[100] * 35, 5_000, *[100] * 4]), now=now
    )
    assert calm
    assert burst
    assert calm.likely == 3_000
    rest = burst.likely - 5_900
    assert 2_000 <= rest < 2 * 2_000 + 500  # the mean of 40 days says that such days happen; the line would say 11,800
    assert burst.high - burst.likely > calm.high - calm.likely


def test_a_level_that_changed_for_good_is_followed() -> None:
    now = JUNE.start + 15 * DAY
    found = projection.projected(period=JUNE, used=15 * 300, days=days_before(now, [100] * 41 + [300] * 15), now=now)
    assert found
    assert found.likely == pytest.approx(9_000, rel=0.05)


def test_a_tenant_that_began_in_mid_period_is_not_thinned_by_the_days_before() -> None:
    now = JUNE.start + 20 * DAY
    found = projection.projected(period=JUNE, used=500, days=days_before(now, [100] * 5), now=now)
    line = projection.straight_line(period=JUNE, used=500, full_days=[], now=now)
    assert found
    assert line
    assert (found.likely, line.likely) == (1_500, 750)


def test_with_a_few_hours_to_go_by_it_is_the_straight_line() -> None:
    now = JUNE.start + 20 * DAY + 3 * HOUR
    found = projection.projected(period=JUNE, used=60, days=[Day(now - 3 * HOUR, 60, 10_800)], now=now)
    assert found == projection.straight_line(period=JUNE, used=60, full_days=[], now=now)


@pytest.mark.parametrize(("used", "elapsed"), [(49, 20 * DAY), (5_000, 3 * DAY - timedelta(seconds=1))])
def test_nothing_is_said_too_early_or_of_too_few_calls(used: int, elapsed: timedelta) -> None:
    now = JUNE.start + elapsed
    known = days_before(now, [100] * 20)
    assert projection.projected(period=JUNE, used=used, days=known, now=now) is None
    assert projection.straight_line(period=JUNE, used=used, full_days=[], now=now) is None


def test_days_without_calls_count_and_days_that_were_refused_do_not() -> None:
    now = JUNE.start + 5 * DAY + 6 * HOUR
    units = {JUNE.start + DAY: 10, JUNE.start + 3 * DAY: 7}
    known = projection.known_days(
        units=units, since=JUNE.start + DAY + 6 * HOUR, now=now, unknown={JUNE.start + 4 * DAY}
    )
    assert known == [
        Day(JUNE.start + DAY, 10, 64_800), Day(JUNE.start + 2 * DAY, 0), Day(JUNE.start + 3 * DAY, 7),
        Day(JUNE.start + 5 * DAY, 0, 21_600),
    ]  # fmt: skip


def test_when_calls_run_out_follows_the_days_to_come() -> None:
    ahead = Projection(0, 0, 0, rest=(100, 0, 50))
    now = JUNE.start + 12 * HOUR
    assert ahead.reaches(50, now=now, end=JUNE.end) == now + 6 * HOUR
    assert ahead.reaches(125, now=now, end=JUNE.end) == JUNE.start + 2 * DAY + 12 * HOUR
    assert ahead.reaches(151, now=now, end=JUNE.end) is None


# -- what always holds ---------------------------------------------------------------------------------------------------

counts = st.one_of(st.integers(0, 300), st.integers(0, 10**9))


@st.composite
def situations(draw: st.DrawFn) -> tuple[Period, int, list[Day], datetime]:
    """A period of an anchor at any second, an instant in it, and up to nine weeks of days, some unknown."""
    anchor = ANCHOR + timedelta(seconds=draw(st.integers(0, 400 * 86_400)))
    period = periods.containing(anchor, anchor + timedelta(days=draw(st.integers(0, 90))))
    now = period.start + timedelta(seconds=draw(st.integers(period.seconds // 10 + 1, period.seconds)))
    known = days_before(now, draw(st.lists(counts, max_size=60)))
    if draw(st.booleans()) and known:
        known[-1] = Day(known[-1].start, draw(counts), known[-1].seconds)
    unknown = draw(st.sets(st.integers(0, 59), max_size=5))
    used = draw(st.integers(50, 10**10))
    return period, used, [day for place, day in enumerate(known) if place not in unknown], now


def at(situation: tuple[Period, int, list[Day], datetime]) -> Projection:
    period, used, known, now = situation
    found = projection.projected(period=period, used=used, days=known, now=now)
    assert found is not None
    return found


@given(situation=situations())
def test_low_likely_and_high_are_in_order_and_never_below_what_is_used(
    situation: tuple[Period, int, list[Day], datetime],
) -> None:
    found, used = at(situation), situation[1]
    assert used <= found.low <= found.likely <= found.high
    assert used + sum(found.rest) == found.likely
    assert all(units >= 0 for units in found.rest)
    assert all(isinstance(value, int) for value in (found.low, found.likely, found.high, *found.rest))


@given(situation=situations(), more=st.integers(0, 10**9))
def test_calls_already_made_are_added_as_they_are(
    situation: tuple[Period, int, list[Day], datetime], more: int
) -> None:
    period, used, known, now = situation
    if sum(day.seconds for day in known) < projection.LEAST_SECONDS:
        known = days_before(now, [10] * 3)
    one, other = at((period, used, known, now)), at((period, used + more, known, now))
    assert other.likely == one.likely + more
    assert other.rest == one.rest


@given(situation=situations(), factor=st.integers(2, 9))
def test_more_calls_on_every_day_never_make_less(
    situation: tuple[Period, int, list[Day], datetime], factor: int
) -> None:
    period, used, known, now = situation
    many = [Day(day.start, day.units * factor, day.seconds) for day in known]
    one, other = at(situation), at((period, used * factor, many, now))
    assert other.likely >= one.likely
    assert abs(other.likely - factor * one.likely) <= max(factor, one.likely * factor // 200)


@given(situation=situations(), seconds=st.integers(0, 86_400))
def test_time_that_passes_without_a_call_never_raises_it(
    situation: tuple[Period, int, list[Day], datetime], seconds: int
) -> None:
    period, used, known, now = situation
    later = min(now + timedelta(seconds=seconds), period.end)
    if sum(day.seconds for day in known) < projection.LEAST_SECONDS:
        known = days_before(now, [10] * 3)
    assert (
        at((period, used, known, later)).likely
        <= at(situation if known is situation[2] else (period, used, known, now)).likely
    )


@given(situation=situations())
def test_at_the_end_it_is_what_was_used(situation: tuple[Period, int, list[Day], datetime]) -> None:
    period, used, known, _ = situation
    found = at((period, used, known, period.end))
    assert (found.low, found.likely, found.high, sum(found.rest)) == (used, used, used, 0)


@given(situation=situations(), limit=st.integers(0, 10**11))
def test_a_limit_bounds_it(situation: tuple[Period, int, list[Day], datetime], limit: int) -> None:
    found, used = at(situation), situation[1]
    bound = max(limit, used)
    capped = found.capped(bound)
    assert (capped.low, capped.likely, capped.high) == tuple(
        min(bound, value) for value in (found.low, found.likely, found.high)
    )
    assert used + sum(capped.rest) == capped.likely
    assert found.capped(None) == found


@given(situation=situations())
def test_money_is_in_the_same_order(situation: tuple[Period, int, list[Day], datetime]) -> None:
    found = at(situation)
    low, likely, high = (
        pricing.invoice(terms=LAUNCH, quantity=units).total_minor for units in (found.low, found.likely, found.high)
    )
    assert low <= likely <= high


@given(situation=situations())
def test_the_straight_line_keeps_its_promises_too(situation: tuple[Period, int, list[Day], datetime]) -> None:
    period, used, known, now = situation
    found = projection.straight_line(period=period, used=used, full_days=[day.units for day in known], now=now)
    assert found is not None
    assert used <= found.low <= found.likely <= found.high
    assert used + sum(found.rest) == found.likely


# -- beside a straight line ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """How busy day n of a tenant is, over so many periods."""

    level: Callable[[int, Random], float]
    months: int = 6
    begins: int = 0
    quiet_weekends: bool = True
    tolerance: Decimal = Decimal(1)  # of the straight line's error


KINDS = {
    "flat": Kind(lambda day, random: 1),
    "flat, every day alike": Kind(lambda day, random: 1, quiet_weekends=False),
    "growing 5 % a month": Kind(lambda day, random: 1.05 ** (day / 30)),
    "growing 30 % a month": Kind(lambda day, random: 1.3 ** (day / 30)),
    "shrinking 20 % a month": Kind(lambda day, random: 0.8 ** (day / 30)),
    "bursts of a day": Kind(lambda day, random: 12 if random.random() < 0.06 else 1),
    "bursts of any size": Kind(lambda day, random: random.paretovariate(1.6), months=14, quiet_weekends=False),
    "a batch a month": Kind(lambda day, random: 15 if day % 30 == 20 else 1, quiet_weekends=False),
    "a batch a week": Kind(lambda day, random: 9 if day % 7 == 2 else 1, quiet_weekends=False),
    "uneven": Kind(lambda day, random: math.exp(random.gauss(0, 0.5))),
    "stopped": Kind(lambda day, random: 1 if day < 100 else 0),
    "freshly started in mid-period": Kind(lambda day, random: 1, months=1, begins=8),
    "freshly started late": Kind(lambda day, random: 1, months=1, begins=17),
    "freshly started with the period": Kind(lambda day, random: 1, months=1),
    "freshly started, growing": Kind(lambda day, random: 1 + day / 10, months=1),
    # Of a few days without a pattern nothing beats the mean, which is what the straight line is.
    "freshly started, alike": Kind(lambda day, random: 1, months=1, quiet_weekends=False, tolerance=Decimal("1.03")),
    "freshly started, bursts": Kind(
        lambda day, random: random.paretovariate(1.6), months=1, quiet_weekends=False, tolerance=Decimal("1.03")
    ),
}  # fmt: skip


def recorded(kind: Kind, seed: int) -> backtest.History:
    random = Random(seed)
    anchor = ANCHOR + random.randrange(28) * DAY
    told = periods.last(anchor, periods.containing(anchor, periods.months_after(anchor, kind.months - 1)), kind.months)
    units = {}
    for number in range(kind.begins, (told[-1].end - anchor).days):
        day = anchor + number * DAY
        mean = 1_000 * kind.level(number, random) * (0.3 if kind.quiet_weekends and day.weekday() >= 5 else 1)
        units[day] = max(0, round(random.gauss(mean, 0.06 * mean)))
    return backtest.History.of_days(units=units, periods=told, since=anchor)


@pytest.mark.parametrize("name", KINDS)
def test_it_is_no_worse_than_a_straight_line(name: str) -> None:
    kind = KINDS[name]
    seeds = 12 if kind.months == 1 else 3
    score = backtest.total([backtest.score(recorded(kind, seed)) for seed in range(seeds)])
    assert score.cut_points > 50
    assert score.error_percent <= score.line_error_percent * kind.tolerance, score


def test_it_beats_the_straight_line_on_the_demos_history() -> None:
    now = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
    frame = history.frame(now=now)
    scores = {told.slug: backtest.score(demo(told, frame)) for told in story.TENANTS}
    for slug, score in scores.items():
        assert score.error_percent < score.line_error_percent, (slug, score)
    overall = backtest.total(scores.values())
    assert overall.cut_points > 1_000
    assert overall.error_percent < overall.line_error_percent * Decimal("0.8")
    assert 65 < overall.inside_percent < 95


def demo(told: story.TenantStory, frame: history.Frame) -> backtest.History:
    units: dict[datetime, int] = {}
    refused: dict[datetime, int] = {}
    for cell in history.cells(story=told, frame=frame):
        day = periods.day_of(datetime.fromtimestamp(cell.hour, UTC))
        units[day] = units.get(day, 0) + cell.billable
        refused[day] = refused.get(day, 0) + cell.refused
    return backtest.History.of_days(
        units=units,
        periods=frame.periods[:-1],
        since=frame.anchor,
        unknown={day for day, calls in refused.items() if calls > units[day]},
    )
