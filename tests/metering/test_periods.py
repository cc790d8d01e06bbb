import calendar
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering import periods

INSTANTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def test_the_last_of_january_comes_back_in_march() -> None:
    anchor = datetime(2027, 1, 31, 12, tzinfo=UTC)
    starts = [periods.months_after(anchor, months) for months in range(4)]
    assert [start.day for start in starts] == [31, 28, 31, 30]


def test_a_leap_day_anchor() -> None:
    anchor = datetime(2028, 2, 29, tzinfo=UTC)
    assert periods.months_after(anchor, 12) == datetime(2029, 2, 28, tzinfo=UTC)
    assert periods.months_after(anchor, 48) == datetime(2032, 2, 29, tzinfo=UTC)


def independent_start(anchor: datetime, year: int, month: int) -> datetime:
    """The same rule said differently: the anchor's day, or the month's last."""
    day = anchor.day
    while True:
        try:
            return anchor.replace(year=year, month=month, day=day)
        except ValueError:
            day -= 1


@pytest.mark.parametrize("day", range(1, 32))
def test_periods_tile_a_century_for_every_anchor_day(day: int) -> None:
    anchor = datetime(2024, 1, day, 23, 59, 59, tzinfo=UTC)
    period = periods.containing(anchor, datetime(2000, 6, 15, tzinfo=UTC))
    while period.start.year < 2100:
        assert period.start == independent_start(anchor, period.start.year, period.start.month)
        following = periods.containing(anchor, period.end)
        assert following.start == period.end
        assert 28 <= (period.end - period.start).days <= 31
        period = following


@given(anchor=INSTANTS, instant=INSTANTS)
def test_every_instant_lies_in_exactly_its_period(anchor: datetime, instant: datetime) -> None:
    period = periods.containing(anchor, instant)
    assert instant in period
    assert period.end not in period
    assert periods.containing(anchor, period.start) == period
    assert periods.containing(anchor, period.end - timedelta(microseconds=1)) == period
    assert periods.previous(anchor, period).end == period.start


@given(anchor=INSTANTS, instant=INSTANTS)
def test_the_last_periods_end_with_this_one_and_touch(anchor: datetime, instant: datetime) -> None:
    current = periods.containing(anchor, instant)
    found = periods.last(anchor, current, 13)
    assert found[-1] == current
    assert all(before.end == after.start for before, after in pairwise(found))


def test_naive_datetimes_are_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        periods.containing(datetime(2027, 1, 1), datetime(2027, 1, 1, tzinfo=UTC))  # noqa: DTZ001


def test_days_of_a_period() -> None:
    period = periods.Period(datetime(2027, 2, 1, tzinfo=UTC), datetime(2027, 3, 1, tzinfo=UTC))
    assert len(list(periods.days(period))) == calendar.monthrange(2027, 2)[1] == period.days
