from hypothesis import given
from hypothesis import strategies as st

from metering import histogram

LATENCIES = st.lists(st.integers(0, 2_000_000_000), min_size=1, max_size=200)


def counted(latencies: list[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for latency_us in latencies:
        index = histogram.bucket(latency_us)
        counts[index] = counts.get(index, 0) + 1
    return counts


def test_calls_of_120_ms_have_a_p95_near_120_ms() -> None:
    latencies = [120_300 + 13 * n for n in range(200)]
    (p95,) = histogram.percentiles_us(counted(latencies).items(), [95])
    assert p95 is not None
    assert 110_000 <= p95 <= 160_000


@given(latencies=st.lists(st.integers(100, 600_000_000), min_size=1, max_size=300), rank=st.sampled_from([50, 95, 99]))
def test_a_percentile_is_within_a_fifth_of_the_exact_one(latencies: list[int], rank: int) -> None:
    ordered = sorted(latencies)
    exact = ordered[max(0, -(-len(ordered) * rank // 100) - 1)]
    (read,) = histogram.percentiles_us(counted(latencies).items(), [rank])
    assert read is not None
    assert exact / 1.2 <= read <= exact * 1.2


@given(first=LATENCIES, second=LATENCIES)
def test_histograms_of_parts_add_up_to_the_whole(first: list[int], second: list[int]) -> None:
    parts, whole = counted(first), counted(first + second)
    for index, count in counted(second).items():
        parts[index] = parts.get(index, 0) + count
    assert parts == whole


@given(latencies=LATENCIES)
def test_the_stored_form_loses_nothing(latencies: list[int]) -> None:
    counts = counted(latencies)
    stored = histogram.trimmed(counts)
    assert {stored.start + place: count for place, count in enumerate(stored.counts) if count} == counts


def test_no_calls_have_no_percentile() -> None:
    assert histogram.percentiles_us([], [50, 95]) == [None, None]
    assert histogram.trimmed({}) == histogram.Trimmed(0, [])
