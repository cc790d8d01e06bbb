"""Charts: numbers in, coordinates out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard import charts
from dashboard.charts import PLOT_HEIGHT, Series, Stack

SERIES = (Series("auth", "s1"), Series("storage", "s2"))
counts = st.integers(0, 10**12)


def stack(*values: int, ghost: int = 0, tick: str = "1", era: str = "Nov") -> Stack:
    return Stack("", tick, era, values, ghost)


@given(st.lists(st.tuples(counts, counts, counts), min_size=1, max_size=31))
def test_heights_add_up_to_the_total_and_stay_inside(rows: list[tuple[int, int, int]]) -> None:
    stacks = [stack(auth, storage, ghost=ghost) for auth, storage, ghost in rows]
    chart = charts.stacked(stacks, SERIES)
    top = chart.ticks[-1].value
    for drawn, given_stack in zip(chart.columns, stacks, strict=True):
        height = sum(box.height for box in drawn.boxes)
        assert height == pytest.approx((given_stack.total + given_stack.ghost) * PLOT_HEIGHT / top)
        assert height <= PLOT_HEIGHT + 1e-6
        assert all(box.y >= -1e-6 for box in drawn.boxes)


def test_boxes_stand_on_each_other() -> None:
    lower, upper, ghost = charts.stacked([stack(300, 200, ghost=100)], SERIES).columns[0].boxes
    assert lower.y + lower.height == pytest.approx(PLOT_HEIGHT)
    assert upper.y + upper.height == pytest.approx(lower.y)
    assert ghost.y + ghost.height == pytest.approx(upper.y)
    assert [box.style for box in (lower, upper, ghost)] == ["s1", "s2", "ghost"]


def test_columns_share_the_width() -> None:
    columns = charts.stacked([stack(1, 1)] * 30, SERIES).columns
    assert columns[0].slot_x == 0
    assert columns[-1].slot_x + columns[-1].slot_width == pytest.approx(100)
    assert all(column.x > column.slot_x for column in columns)


@given(st.integers(0, 10**13))
def test_ticks_are_few_round_and_reach_the_highest(highest: int) -> None:
    values = charts.tick_values(highest)
    step = values[1]
    assert values[0] == 0
    assert values[-1] >= highest
    assert values[-1] - step < max(highest, 1)
    assert len(values) <= charts.MOST_TICKS + 1
    assert str(step).rstrip("0") in {"1", "2", "5"}


def test_an_empty_chart_still_has_an_axis() -> None:
    chart = charts.stacked([stack(0, 0)], SERIES)
    assert [tick.value for tick in chart.ticks] == [0, 1]
    assert chart.columns[0].boxes == ()


def test_the_line_is_drawn_only_where_it_fits() -> None:
    assert charts.stacked([stack(60, 40)], SERIES, line=50).line_y == pytest.approx(PLOT_HEIGHT / 2)
    assert charts.stacked([stack(60, 40)], SERIES, line=1_000_000).line_y is None
    assert charts.stacked([stack(60, 40)], SERIES).line_y is None


def test_six_series_then_other() -> None:
    totals = {name: place for place, name in enumerate("abcdefgh")}
    series = charts.series_of(totals)
    assert [item.group for item in series] == ["c", "d", "e", "f", "g", "h", charts.OTHER]
    assert charts.values_of({"a": 3, "b": 4, "h": 9}, series) == (0, 0, 0, 0, 0, 9, 7)


def test_colours_stay_put_when_the_order_changes() -> None:
    assert charts.series_of({"auth": 1, "storage": 2}) == charts.series_of({"auth": 3, "storage": 2})


def test_a_month_is_named_where_it_begins() -> None:
    stacks = [stack(1, 1, tick=str(day), era=era) for day, era in ((29, "Nov"), (30, "Nov"), (1, "Dec"), (2, "Dec"))]
    assert charts.tick_labels(stacks) == ["29 Nov", "30", "1 Dec", "2"]


def test_a_month_that_begins_at_an_unlabelled_day_is_still_named() -> None:
    days = [(28 + n, "Nov") for n in range(3)] + [(n, "Dec") for n in range(1, 28)]
    labels = charts.tick_labels([stack(1, 1, tick=str(day), era=era) for day, era in days])
    assert sum(label.endswith("Dec") for label in labels) == 1
    assert sum(bool(label) for label in labels) <= charts.MOST_LABELS
