"""When a product is used: the hours of a day and the days of a week (UTC). History and live traffic follow the same rhythms."""

from datetime import datetime
from enum import StrEnum
from math import exp

HOURS_OF_WEEK = 168
SATURDAY = 5
EPOCH_HOUR_OF_WEEK = 72  # 1 January 1970 was a Thursday; the week begins on Monday
CHRISTMAS, HOLIDAYS_BEGIN, HOLIDAYS_END = 12, 22, 4


class Rhythm(StrEnum):
    OFFICE = "office"  # working hours, quiet weekends
    EVENING = "evening"  # consumers: evenings, busier weekends
    NIGHTLY = "nightly"  # jobs that run after midnight
    STEADY = "steady"  # machines that poll


def _bell(hour: int, *, peak: float, width: float) -> float:
    distance = min(abs(hour - peak), 24 - abs(hour - peak))
    return exp(-((distance / width) ** 2) / 2)


def _raw(rhythm: Rhythm, hour: int, *, is_weekend: bool) -> float:
    match rhythm:
        case Rhythm.OFFICE:
            return (0.12 + _bell(hour, peak=13.5, width=3.6)) * (0.3 if is_weekend else 1)
        case Rhythm.EVENING:
            return 0.18 + _bell(hour, peak=19, width=4.2) * (1.3 if is_weekend else 1)
        case Rhythm.NIGHTLY:
            return 0.03 + (2.2, 4.0, 1.4)[hour - 1] * (0.6 if is_weekend else 1) if 1 <= hour <= 3 else 0.03  # noqa: PLR2004
        case Rhythm.STEADY:
            return 1 + 0.1 * _bell(hour, peak=15, width=5)


def _week(rhythm: Rhythm) -> tuple[float, ...]:
    raw = [_raw(rhythm, index % 24, is_weekend=index // 24 >= SATURDAY) for index in range(HOURS_OF_WEEK)]
    mean = sum(raw) / HOURS_OF_WEEK
    return tuple(weight / mean for weight in raw)


WEEKS = {rhythm: _week(rhythm) for rhythm in Rhythm}


def weight(rhythm: Rhythm, epoch_hour: int) -> float:
    """How busy this hour (hours since the epoch) is; 1 on average over a week."""
    return WEEKS[rhythm][(epoch_hour + EPOCH_HOUR_OF_WEEK) % HOURS_OF_WEEK]


def is_holiday(day: datetime) -> bool:
    """Whether the day lies in the quiet fortnight from 22 December to 4 January."""
    return (day.month == CHRISTMAS and day.day >= HOLIDAYS_BEGIN) or (day.month == 1 and day.day <= HOLIDAYS_END)
