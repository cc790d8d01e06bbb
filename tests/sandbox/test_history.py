"""The demo's history as numbers: whatever today is, the story is the same and adds up."""

from calendar import monthrange
from datetime import UTC, datetime, timedelta

import pytest

from metering import histogram
from sandbox import history, latencies
from sandbox.story import ACME, GLOBEX, INITECH, TENANTS, UMBRA, TenantStory

NOON = datetime(2026, 11, 24, 12, 34, 56, tzinfo=UTC)
INCLUDED = {"acme": 1_000_000, "initech": 100_000, "globex": 5_000}


@pytest.mark.parametrize("year", [2027, 2028])
def test_now_lies_seventy_per_cent_into_a_period_on_every_day_of_the_year(year: int) -> None:
    day = datetime(year, 1, 1, 9, 30, tzinfo=UTC)
    while day.year == year:
        frame = history.frame(now=day)
        begun = day.replace(hour=0, minute=0) - timedelta(days=21)
        assert frame.period.start == begun
        assert 0.66 < (day - begun) / (frame.period.end - begun) < 0.79
        assert 14 <= len(frame.periods) <= 15
        assert frame.periods[0].start == frame.anchor
        for period in frame.periods:
            assert period.start.day == min(begun.day, monthrange(period.start.year, period.start.month)[1])
        day += timedelta(days=1)


@pytest.mark.parametrize("told", TENANTS, ids=lambda told: told.slug)
@pytest.mark.parametrize("now", [NOON, datetime(2028, 3, 21, 0, 0, 3, tzinfo=UTC)])
def test_the_running_period_holds_exactly_what_the_story_says(told: TenantStory, now: datetime) -> None:
    frame = history.frame(now=now)
    cells = history.cells(story=told, frame=frame)
    assert sum(cell.billable for cell in cells if cell.hour >= frame.period.start.timestamp()) == told.used
    assert all(frame.anchor.timestamp() <= cell.hour <= now.timestamp() for cell in cells)
    assert [cell.hour for cell in cells] == sorted(cell.hour for cell in cells)


def test_the_same_instant_gives_the_same_history() -> None:
    frame = history.frame(now=NOON)
    assert history.cells(story=INITECH, frame=frame) == history.cells(story=INITECH, frame=frame)


def test_the_four_tenants_are_healthy_near_the_limit_over_it_and_blocked() -> None:
    assert round(ACME.used / INCLUDED["acme"], 1) == 0.6
    assert INITECH.used / INCLUDED["initech"] == 0.93
    assert GLOBEX.used == INCLUDED["globex"]
    assert (UMBRA.used, UMBRA.agreed.included) == (340_000, 300_000)


def test_a_blocked_tenant_is_refused_from_one_hour_on_and_served_until_then() -> None:
    cells = history.cells(story=GLOBEX, frame=history.frame(now=NOON))
    refused = [cell.hour for cell in cells if cell.refused]
    served = [cell.hour for cell in cells if cell.billable or cell.failed]
    assert max(served) < min(refused)
    assert max(refused) > NOON.timestamp() - 86_400


@pytest.mark.parametrize("today", [datetime(2027, 1, day, 8, tzinfo=UTC) for day in (1, 10)])
def test_no_earlier_period_of_the_free_plan_goes_over_its_included_calls(today: datetime) -> None:
    frame = history.frame(now=today)
    cells = history.cells(story=GLOBEX, frame=frame)
    for period in frame.periods:
        start, end = period.start.timestamp(), period.end.timestamp()
        assert sum(cell.billable for cell in cells if start <= cell.hour < end) <= INCLUDED["globex"]


@pytest.mark.parametrize("calls", [0, 1, 7, 500])
@pytest.mark.parametrize("capability", ["auth", "database", "storage"])
def test_a_ready_histogram_holds_every_call_and_has_the_median_of_its_capability(calls: int, capability: str) -> None:
    start, text = latencies.counts(capability, calls, 3, is_slow=False)
    counts = [int(count) for count in text.strip("{}").split(",") if count]
    assert sum(counts) == calls
    if calls == 500:
        [median_us] = histogram.percentiles_us(enumerate(counts, start), [50])
        assert median_us == pytest.approx(latencies.MEDIAN_US[capability], rel=0.1)
