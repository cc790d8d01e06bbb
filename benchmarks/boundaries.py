"""What a boundary that is learned late holds up: `boundaries.learn`, while the tenant's calls go on at full speed.

uv run python -m benchmarks.boundaries [--calls 100000] [--rounds 5]

A tenant has made so many calls, and another one as many; then it is learned that a period of it began amidst them, as a change of
plan does. One process admits and records the tenant's calls with two threads meanwhile. About 5 minutes.
"""

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks import stage

DAYS = 10
BATCH = 5_000
START_SECONDS, BEFORE_SECONDS, AFTER_SECONDS = 4.0, 1.0, 1.0
CAPABILITIES = ("auth", "database", "storage")


@dataclass(frozen=True, slots=True)
class Case:
    """Calls of so long a time up to now or to the last whole hour, and where the boundary lies among them."""

    name: str
    back: timedelta
    boundary: timedelta  # after the first of them; negative: before now
    until_now: bool = True


CASES = (
    Case(f"over {DAYS} days, from the first on", timedelta(days=DAYS), timedelta(minutes=6)),
    Case("within one hour, from its middle on", timedelta(hours=1), timedelta(minutes=30), until_now=False),
    Case("within the running hour, from a second ago on", timedelta(0), -timedelta(seconds=1)),
)


@dataclass(frozen=True, slots=True)
class Learned:
    """One boundary: how long it took to learn it, and what calls met from a second before until a second after."""

    seconds: float
    moved: int
    served: int
    refused: int
    longest_ms: float


def main() -> None:
    options = stage.options(__doc__, calls=(100_000, 300), rounds=(5, 1))
    answered, rows = 0, []
    with stage.servers():
        for case in CASES:
            for calls in sorted({options.calls // 5, options.calls}):
                found = [_learn(calls, case) for _ in range(options.rounds)]
                answered += sum(2 * calls + each.served for each in found)
                rows.append([case.name, f"{calls:,}", *_middles(found)])
        stage.print_table(
            [
                "calls",
                "so many",
                "moved",
                "learned in ms",
                "at most",
                "calls/s meanwhile",
                "longest call ms",
                "refused",
            ],
            rows,
        )
        is_balanced = stage.balance(answered)
    is_served = all(row[-1] == "0" for row in rows)
    sys.exit(0 if is_balanced and is_served else 1)


def _middles(found: list[Learned]) -> list[str]:
    seconds = [each.seconds for each in found]
    rates = [each.served / (BEFORE_SECONDS + each.seconds + AFTER_SECONDS) for each in found]
    return [
        f"{stage.median([each.moved for each in found]):,.0f}", f"{stage.median(seconds) * 1000:,.0f}",
        f"{max(seconds) * 1000:,.0f}", f"{stage.median(rates):,.0f}", f"{max(each.longest_ms for each in found):,.0f}",
        f"{sum(each.refused for each in found):,}",
    ]  # fmt: skip


def _learn(calls: int, case: Case) -> Learned:
    from django.db import transaction  # noqa: PLC0415 -- only after the environment is set

    from benchmarks import engine_runs  # noqa: PLC0415
    from metering import boundaries, periods  # noqa: PLC0415

    now = datetime.now(UTC)
    last = now if case.until_now else periods.hour_of(now)
    first = periods.hour_of(last - case.back)
    old = periods.containing(first - timedelta(days=3), now)
    made, other = (stage.tenant(anchor=first - timedelta(days=3)) for _ in range(2))
    for each in (made, other):
        _load(each, calls, first, last, old)
    tenancy = engine_runs.Tenancy(made.tenant.id, made.key.project_id, made.key.id, made.tenant.slug)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(max_workers=1) as pool:
        over, start_at = Path(folder) / "over", time.time() + START_SECONDS
        serving = pool.submit(stage.in_processes, 1, engine_runs.serve_until, tenancy, over, start_at)
        time.sleep(START_SECONDS + BEFORE_SECONDS)
        now = datetime.now(UTC)
        begin = (now if case.boundary < timedelta(0) else first) + case.boundary
        started = time.perf_counter()
        with transaction.atomic():
            boundaries.learn(tenant_id=made.tenant.id, period=periods.Period(begin, old.end), now=now)
            (moved,) = stage.row(
                "SELECT used FROM metering_quota WHERE tenant_id = %s AND period_start = %s", [made.tenant.id, begin]
            )
        seconds = time.perf_counter() - started
        time.sleep(AFTER_SECONDS)
        over.touch()
        (served,) = serving.result()
    return Learned(seconds, moved, served.calls, served.refused, served.longest_ms)


def _load(made: Any, calls: int, first: datetime, last: datetime, period: Any) -> None:
    """So many calls, evenly from the first instant to the last, are in the ledger."""
    import psycopg  # noqa: PLC0415 -- only after the environment is set

    from metering import ledger, partitions, recorder  # noqa: PLC0415
    from metering.database import conninfo  # noqa: PLC0415

    partitions.ensure(calls_from=first, hours_from=first, now=last)
    step = (last - first).total_seconds() / calls

    def entry(number: int) -> recorder.Entry:
        at = first.timestamp() + step * number
        return recorder.Entry(
            recorder.call_id(at), made.tenant.id, made.key.project_id, made.key.id, CAPABILITIES[number % len(CAPABILITIES)],
            "billable", "", 200, 1, 500 + number % 50_000, at, period.start.timestamp(), period.end.timestamp(), None,
        )  # fmt: skip

    with psycopg.connect(conninfo(), autocommit=True) as connection:
        for begin in range(0, calls, BATCH):
            entries = tuple(entry(number) for number in range(begin, min(begin + BATCH, calls)))
            ledger.commit(connection, recorder.Batch(entries, {}))


if __name__ == "__main__":
    main()
