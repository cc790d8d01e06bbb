"""Stacked column charts: numbers in, coordinates out. Pure; the template `parts/chart.html` draws them.

Across, coordinates are per cent of the plot's width, so that one drawing fits every screen and its text keeps its size.
Down, they are pixels of a plot that is PLOT_HEIGHT high.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PLOT_HEIGHT = 180
MOST_SERIES = 6
MOST_TICKS = 4
MOST_LABELS = 12
COLUMN_SHARE = 0.76  # of its slot; the rest is air
OTHER = ""


@dataclass(frozen=True, slots=True)
class Series:
    """One colour of the chart. `group` is what it counts; OTHER holds all that have no colour of their own."""

    group: str
    style: str


@dataclass(frozen=True, slots=True)
class Stack:
    """One column's numbers, in the order of the series; `ghost` is what is still expected on top.

    `tick` is written below it, with `era` (the month of a day, the year of a month) where that changes.
    """

    label: str
    tick: str
    era: str
    values: tuple[int, ...]
    ghost: int = 0

    @property
    def total(self) -> int:
        return sum(self.values)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of one series (or the ghost) in a column."""

    style: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Column:
    """A drawn stack: its slot and boxes."""

    stack: Stack
    slot_x: float
    slot_width: float
    x: float
    width: float
    boxes: tuple[Box, ...]
    tick: str

    @property
    def middle(self) -> float:
        return self.slot_x + self.slot_width / 2


@dataclass(frozen=True, slots=True)
class Tick:
    """A horizontal grid line."""

    value: int
    y: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing. `line_y` is where the reference line lies, None without one that fits."""

    columns: tuple[Column, ...]
    ticks: tuple[Tick, ...]
    line_y: float | None
    height: int = PLOT_HEIGHT


def series_of(totals: Mapping[str, int]) -> tuple[Series, ...]:
    """The largest six groups, in the order of their names so that colours stay put, then Other."""
    largest = sorted(totals, key=lambda group: (-totals[group], group))
    own = [Series(group, f"s{place}") for place, group in enumerate(sorted(largest[:MOST_SERIES]), 1)]
    return tuple(own) if len(largest) <= MOST_SERIES else (*own, Series(OTHER, "s0"))


def values_of(numbers: Mapping[str, int], series: Sequence[Series]) -> tuple[int, ...]:
    """One number for each series; groups without a colour add up in Other."""
    own = {item.group for item in series}
    other = sum(number for group, number in numbers.items() if group not in own)
    return tuple(other if item.group == OTHER else numbers.get(item.group, 0) for item in series)


def tick_values(highest: int) -> list[int]:
    """Round numbers from 0 to at least the highest: steps of 1, 2 or 5 times a power of ten."""
    step, factors = 1, (2, 5, 10)
    while step * MOST_TICKS < highest:
        magnitude = 10 ** (len(str(step)) - 1)
        step = next(factor * magnitude for factor in factors if factor * magnitude > step)
    return [place * step for place in range(-(-max(highest, 1) // step) + 1)]


def stacked(stacks: Sequence[Stack], series: Sequence[Series], *, line: int | None = None) -> Chart:
    """The drawing of these columns; `line` is a value to mark across all of them."""
    values = tick_values(max((stack.total + stack.ghost for stack in stacks), default=0))
    top = values[-1]
    slot = 100 / max(len(stacks), 1)
    labels = tick_labels(stacks)
    return Chart(
        columns=tuple(
            _column(stack, series, top=top, slot_x=place * slot, slot=slot, tick=labels[place])
            for place, stack in enumerate(stacks)
        ),
        ticks=tuple(Tick(value, _y(value, top)) for value in values),
        line_y=_y(line, top) if line is not None and 0 < line <= top else None,
    )


def tick_labels(stacks: Sequence[Stack]) -> list[str]:
    """What is written below each column, empty where there is no room; a new era is named once."""
    every, era, labels = -(-len(stacks) // MOST_LABELS), "", []
    for place, stack in enumerate(stacks):
        if place % every:
            labels.append("")
            continue
        labels.append(stack.tick if stack.era == era else f"{stack.tick} {stack.era}")
        era = stack.era
    return labels


def _column(stack: Stack, series: Sequence[Series], *, top: int, slot_x: float, slot: float, tick: str) -> Column:
    boxes, below = [], 0
    pairs = [*zip((item.style for item in series), stack.values, strict=True), ("ghost", stack.ghost)]
    for style, value in pairs:
        if value:
            boxes.append(Box(style, _y(below + value, top), value * PLOT_HEIGHT / top))
        below += value
    width = slot * COLUMN_SHARE
    return Column(stack, slot_x, slot, slot_x + (slot - width) / 2, width, tuple(boxes), tick)


def _y(value: int, top: int) -> float:
    return PLOT_HEIGHT - value * PLOT_HEIGHT / top
