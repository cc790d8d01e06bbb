"""A tenant's story as numbers: calls by hour, key and capability. Pure and repeatable: same story and instant, same numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import floor, sqrt
from random import Random
from typing import NamedTuple, TypeVar

from metering import periods

from . import rhythm
from .story import DAYS_INTO_PERIOD, FIRST_MONTHS, INCIDENTS, Incident, Stream, TenantStory

HOUR = 3600
DAYS_IN_MONTH = 30.4
HOLIDAY_FACTOR = 0.6
UNEVENNESS = 0.09  # beyond what chance alone would give
RETRIES_WHEN_BLOCKED = 0.35  # calls that a blocked customer's programs still try
Number = TypeVar("Number", int, float)
Busy = tuple[int, int, Stream, Number]  # hour, key, stream, and how many calls


class Cell(NamedTuple):
    """One hour of one key and capability. `hour` is its beginning in seconds since the epoch."""

    hour: int
    key: int  # place in the story
    stream: Stream
    billable: int
    failed: int
    refused: int
    is_slow: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """The time that a history covers: from the anchor until now."""

    anchor: datetime
    period: periods.Period
    now: datetime

    @property
    def periods(self) -> list[periods.Period]:
        """Every period from the anchor's to the running one."""
        months = (self.period.start.year - self.anchor.year) * 12 + self.period.start.month - self.anchor.month
        return periods.last(self.anchor, self.period, months + 1)


def frame(*, now: datetime) -> Frame:
    """The running period began 21 days ago, and the anchor lies 13 or 14 whole months before that.

    Fourteen where the thirteenth month back is too short for the day: an anchor on the 28th would move the period.
    """
    start = periods.day_of(now) - timedelta(days=DAYS_INTO_PERIOD)
    for months in (FIRST_MONTHS, FIRST_MONTHS + 1):
        anchor = periods.months_after(start, -months)
        period = periods.containing(anchor, now)
        if period.start == start:
            return Frame(anchor, period, now)
    raise AssertionError("Of two months in a row one has 31 days, or is January.")


def cells(*, story: TenantStory, frame: Frame) -> list[Cell]:
    """The history by hour, oldest first, with exactly `story.used` billable calls in the running period."""
    random = Random(f"{story.slug} {frame.now:%Y-%m-%d}")
    expected = list(_expected(story, frame))
    first = frame.period.start.timestamp()
    scale = story.used / sum(busy for hour, _, _, busy in expected if hour >= first)
    noisy = [(hour, key, stream, _noisy(busy * scale, random)) for hour, key, stream, busy in expected]
    past = [row for row in noisy if row[0] < first]
    running = [row for row in noisy if row[0] >= first]
    correction = story.used / sum(calls for _, _, _, calls in running)
    slow = _slow_hours(frame)
    found = [_cell(row, slow, random) for row in (*_whole(past, 1.0), *_whole(running, correction))]
    found += _blocked(story, frame, random, scale)
    return [cell for cell in found if cell.billable or cell.failed or cell.refused]


def _whole(rows: list[Busy[float]], factor: float) -> Iterator[Busy[int]]:
    """The rows in whole calls. What rounding takes from one it gives to a later one, so the sum stays right."""
    exact, given = 0.0, 0
    for hour, key, stream, calls in rows:
        exact += calls * factor
        until = floor(exact + 1e-6)  # the sum of floats may end just below the whole number that it means
        yield hour, key, stream, until - given
        given = until


def _cell(row: Busy[int], slow: dict[tuple[int, str], Incident], random: Random) -> Cell:
    hour, key, stream, billable = row
    incident = slow.get((hour, stream.capability))
    failed_share = incident.failed_share if incident else stream.failed_share
    failed = int(billable * failed_share + random.random())
    refused = int(billable * stream.refused_share + random.random()) if stream.refused_share else 0
    return Cell(hour, key, stream, billable, failed, refused, incident is not None)


def _noisy(expected: float, random: Random) -> float:
    return max(0.0, random.gauss(expected, sqrt(expected) + UNEVENNESS * expected))


def _hours(start: datetime, end: datetime) -> Iterator[tuple[int, float]]:
    """Each hour that begins in [start, end), and how much of it lies before the end."""
    last = end.timestamp()
    for hour in range(int(start.timestamp()), int(last), HOUR):
        yield hour, min(1.0, (last - hour) / HOUR)


def _expected(story: TenantStory, frame: Frame) -> Iterator[Busy[float]]:
    """How busy each hour of each stream was, in no particular unit, up to where the tenant used up what it may use."""
    today = periods.day_of(frame.now)
    end = frame.now if story.blocked_days is None else today - timedelta(days=story.blocked_days) + timedelta(hours=17)
    levels: dict[int, float] = {}
    for hour, part in _hours(frame.anchor, end):
        day = hour // 86_400
        if day not in levels:
            levels[day] = _level(story, datetime.fromtimestamp(hour, UTC), today)
        yield from _busy(story, frame, hour, levels[day] * part)


def _busy(story: TenantStory, frame: Frame, hour: int, level: float) -> Iterator[Busy[float]]:
    for key, key_story in enumerate(story.keys):
        if hour < key_since(key_story.since_days, frame).timestamp():
            continue
        for stream in key_story.streams:
            yield hour, key, stream, level * stream.share * rhythm.weight(stream.rhythm, hour // HOUR)


def key_since(days: int, frame: Frame) -> datetime:
    """When a key of the story was issued."""
    return max(frame.anchor, periods.day_of(frame.now) - timedelta(days=days))


def _level(story: TenantStory, day: datetime, today: datetime) -> float:
    days_ago = (today - day).days if day < today else 0
    level: float = story.monthly_growth ** (-days_ago / DAYS_IN_MONTH)
    for episode in story.episodes:
        if episode.ends <= days_ago <= episode.begins:
            level *= episode.factor
    return level * (HOLIDAY_FACTOR if story.has_holidays and rhythm.is_holiday(day) else 1)


def _blocked(story: TenantStory, frame: Frame, random: Random, scale: float) -> Iterator[Cell]:
    """What a tenant that has used everything still tries: all of it refused."""
    if story.blocked_days is None:
        return
    begin = periods.day_of(frame.now) - timedelta(days=story.blocked_days) + timedelta(hours=17)
    for hour, part in _hours(begin, frame.now):
        for hour_, key, stream, weight in _busy(story, frame, hour, part * scale * RETRIES_WHEN_BLOCKED):
            refused = int(weight + random.random())
            yield Cell(hour_, key, stream, 0, 0, refused, is_slow=False)


def _slow_hours(frame: Frame) -> dict[tuple[int, str], Incident]:
    today = periods.day_of(frame.now)
    found = {}
    for incident in INCIDENTS:
        begin = today - timedelta(days=incident.days_ago) + timedelta(hours=incident.hour)
        for hour in range(incident.hours):
            found[int(begin.timestamp()) + hour * HOUR, incident.capability] = incident
    return found
