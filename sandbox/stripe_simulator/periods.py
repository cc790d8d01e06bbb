"""Billing periods: anchor plus n intervals, so that 31 January is followed by 28 February and 31 March."""

import calendar
from datetime import UTC, datetime, timedelta

DAYS = {"day": 1, "week": 7}


def moved(anchor: int, interval: str, count: int) -> int:
    """The anchor moved by so many days, weeks, months or years; a day the month has not becomes its last."""
    start = datetime.fromtimestamp(anchor, UTC)
    if interval in DAYS:
        return int((start + timedelta(days=DAYS[interval] * count)).timestamp())
    months = start.year * 12 + start.month - 1 + count * (12 if interval == "year" else 1)
    year, month = divmod(months, 12)
    day = min(start.day, calendar.monthrange(year, month + 1)[1])
    return int(start.replace(year=year, month=month + 1, day=day).timestamp())


def around(anchor: int, interval: str, count: int, at: int) -> tuple[int, int]:
    """The period [start, end) that holds this moment."""
    length = {"day": 86_400, "week": 604_800, "month": 2_629_746, "year": 31_556_952}[interval] * count
    step = (at - anchor) // length - 1
    while moved(anchor, interval, (step + 1) * count) <= at:
        step += 1
    return moved(anchor, interval, step * count), moved(anchor, interval, (step + 1) * count)
