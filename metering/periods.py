"""All calendar arithmetic. A period is the half-open UTC interval [start, end); it is always anchor + n months.

Counting from the anchor, never from the previous period, is what keeps 31 January -> 28 February -> 31 March from
drifting to the 28th for ever. Stripe computes billing cycles the same way (docs.stripe.com/billing/subscriptions/billing-cycle).
"""

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """[start, end) in UTC."""

    start: datetime
    end: datetime

    def __contains__(self, instant: datetime) -> bool:
        return self.start <= instant < self.end

    @property
    def seconds(self) -> int:
        return int((self.end - self.start).total_seconds())

    @property
    def days(self) -> int:
        """Calendar days that the period touches when it starts at midnight."""
        return -(-self.seconds // 86_400)


def months_after(anchor: datetime, months: int) -> datetime:
    """The anchor's day and time `months` later, or the last day of a shorter month."""
    count = anchor.year * 12 + anchor.month - 1 + months
    year, month = divmod(count, 12)
    day = min(anchor.day, calendar.monthrange(year, month + 1)[1])
    return anchor.replace(year=year, month=month + 1, day=day)


def containing(anchor: datetime, instant: datetime) -> Period:
    """The period of this anchor that the instant lies in; instants before the anchor count backwards."""
    if anchor.tzinfo is None or instant.tzinfo is None:
        raise ValueError("Periods need aware datetimes.")
    months = (instant.year - anchor.year) * 12 + instant.month - anchor.month
    if months_after(anchor, months) > instant:
        months -= 1
    return Period(months_after(anchor, months), months_after(anchor, months + 1))


def previous(anchor: datetime, period: Period, count: int = 1) -> Period:
    """The period `count` before this one."""
    months = (period.start.year - anchor.year) * 12 + period.start.month - anchor.month - count
    return Period(months_after(anchor, months), months_after(anchor, months + 1))


def last(anchor: datetime, period: Period, count: int) -> list[Period]:
    """`count` periods ending with this one, oldest first."""
    return [previous(anchor, period, back) for back in range(count - 1, -1, -1)]


def hour_of(instant: datetime) -> datetime:
    return instant.replace(minute=0, second=0, microsecond=0)


def hour_from(instant: datetime) -> datetime:
    """The first whole hour that does not begin before the instant."""
    hour = hour_of(instant)
    return hour if hour == instant else hour + timedelta(hours=1)


def day_of(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def month_of(instant: datetime) -> datetime:
    return day_of(instant).replace(day=1)


def days(period: Period) -> Iterator[datetime]:
    """The start of each UTC day that the period touches."""
    day = day_of(period.start)
    while day < period.end:
        yield day
        day += timedelta(days=1)
