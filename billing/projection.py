"""What a period will end with, at the present rate. Pure: counts and instants in, counts out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isqrt

from metering.periods import Period

DAY_SECONDS = 86_400
HIDDEN_SHARE = 10  # nothing is projected in the first tenth of a period
FEWEST_CALLS = 50


@dataclass(frozen=True, slots=True)
class Projection:
    """Units at the period's end. About eight in ten periods end between low and high."""

    low: int
    likely: int
    high: int

    def capped(self, limit: int | None) -> "Projection":
        """The same, when no more than `limit` units are admitted."""
        if limit is None:
            return self
        return Projection(min(self.low, limit), min(self.likely, limit), min(self.high, limit))


def straight_line(*, period: Period, used: int, full_days: Sequence[int], now: datetime) -> Projection | None:
    """Units at the period's end if the rest goes like the part so far; None when it is too early to say.

    `full_days` are the units of the period's completed days; their spread gives the range: the likely value plus or
    minus 1.28 standard deviations of a day times the square root of the days that remain, never below what was used.
    """
    elapsed = int((now - period.start).total_seconds())
    if elapsed * HIDDEN_SHARE < period.seconds or used < FEWEST_CALLS:
        return None
    remaining = max(0, period.seconds - elapsed)
    likely = used + used * remaining // elapsed
    spread = _spread(full_days, remaining)
    return Projection(max(used, likely - spread), likely, likely + spread)


def _spread(full_days: Sequence[int], remaining_seconds: int) -> int:
    if len(full_days) < 2:  # noqa: PLR2004 -- a deviation needs two
        return 0
    count, total = len(full_days), sum(full_days)
    variance = (count * sum(day * day for day in full_days) - total * total) // (count * (count - 1))
    return isqrt(variance * remaining_seconds // DAY_SECONDS) * 128 // 100
