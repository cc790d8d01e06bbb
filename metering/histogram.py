"""Latency histograms with fixed logarithmic buckets, four to the octave, from 64 us to about 18 minutes.

A bucket's upper bound is 19 % above its lower one, and a percentile is read at the place inside the bucket that its rank
has (log-linear), so it is off by less than 19 % in the worst case and by a few per cent in practice. Fixed bounds make
histograms of any hours, keys and processes add up exactly. Stored trimmed: the first bucket's index and the counts.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

BUCKETS_PER_OCTAVE = 4
SMALLEST_US = 64
BUCKETS = 96
BOUNDS_US: tuple[float, ...] = tuple(SMALLEST_US * 2 ** (index / BUCKETS_PER_OCTAVE) for index in range(1, BUCKETS))


def bucket(latency_us: int) -> int:
    """Index of the bucket that holds this latency, 0 to 95."""
    return bisect_right(BOUNDS_US, latency_us)


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A histogram as it is stored: counts from bucket `start` on."""

    start: int
    counts: list[int]


def trimmed(counts: Mapping[int, int]) -> Trimmed:
    """The stored form of bucket -> count; an empty histogram is (0, [])."""
    if not counts:
        return Trimmed(0, [])
    start, end = min(counts), max(counts)
    return Trimmed(start, [counts.get(index, 0) for index in range(start, end + 1)])


def percentiles_us(counts: Iterable[tuple[int, int]], ranks: Sequence[int]) -> list[int | None]:
    """The latencies in microseconds below which these per cents of the calls lie; None without calls."""
    ordered = sorted((index, count) for index, count in counts if count)
    total = sum(count for _, count in ordered)
    return [_percentile_us(ordered, total, rank) if total else None for rank in ranks]


def _percentile_us(ordered: list[tuple[int, int]], total: int, rank: int) -> int:
    wanted = total * rank / 100
    seen = 0
    for index, count in ordered:
        if seen + count >= wanted:
            share = max(0.0, (wanted - seen) / count)
            return (
                round(SMALLEST_US * 2 ** ((index + share) / BUCKETS_PER_OCTAVE))
                if index
                else round(BOUNDS_US[0] * share)
            )
        seen += count
    raise AssertionError("A percentile lies within its histogram.")
