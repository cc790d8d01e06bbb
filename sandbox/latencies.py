"""How long the demo's calls took: log-normal with a slow tail, as single calls and as ready histograms."""

from bisect import bisect_left
from functools import cache
from math import exp, log
from random import Random
from statistics import NormalDist

from metering import histogram

POINTS_BITS = 12
POINTS = 1 << POINTS_BITS
TAIL_SHARE = 0.03
TAIL_FACTOR = 6
SLOW_FACTOR = 7  # during an incident
VARIANT_BITS = 4
MEDIAN_US = {"auth": 6_000, "database": 18_000, "storage": 40_000}
SPREAD = {"auth": 0.40, "database": 0.50, "storage": 0.65}


@cache
def quantiles_us(capability: str, *, is_slow: bool) -> tuple[int, ...]:
    """Equally likely latencies of one call, in ascending order."""
    median_us = MEDIAN_US[capability] * (SLOW_FACTOR if is_slow else 1)
    tail = round(POINTS * TAIL_SHARE)
    body = _log_normal(median_us, SPREAD[capability], POINTS - tail)
    return tuple(sorted(body + _log_normal(median_us * TAIL_FACTOR, 0.6, tail)))


def _log_normal(median_us: float, spread: float, count: int) -> list[int]:
    standard = NormalDist()
    return [round(exp(log(median_us) + spread * standard.inv_cdf((index + 0.5) / count))) for index in range(count)]


def draw_us(random: Random, points: tuple[int, ...]) -> int:
    """The latency of one call."""
    return points[random.getrandbits(POINTS_BITS)]


@cache
def counts(capability: str, calls: int, variant: int, *, is_slow: bool) -> tuple[int, str]:
    """The stored histogram of this many calls: its first bucket and PostgreSQL's text of the counts. 16 variants."""
    offset = (variant + 0.5) / (1 << VARIANT_BITS)
    found: dict[int, int] = {}
    before = 0
    for index, share in _shares_below(capability, is_slow=is_slow):
        until = int(share * calls + offset)
        if until > before:
            found[index] = until - before
            before = until
    trimmed = histogram.trimmed(found)
    return trimmed.start, "{" + ",".join(map(str, trimmed.counts)) + "}"


@cache
def _shares_below(capability: str, *, is_slow: bool) -> tuple[tuple[int, float], ...]:
    """For each bucket that the latencies reach, the share of calls in it or below."""
    points = quantiles_us(capability, is_slow=is_slow)
    reached = range(histogram.bucket(points[0]), histogram.bucket(points[-1]) + 1)
    return tuple((index, bisect_left(points, histogram.BOUNDS_US[index]) / POINTS) for index in reached)
