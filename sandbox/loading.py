"""A history into the ledger: hours of the past by COPY, calls that are still in the call log through the recorder.

The recorder's own `commit` writes calls, usage hours and quota together, so they agree here as they do in service.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import groupby, islice
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from django.db import connection

from metering import ledger, periods, recorder

from . import latencies
from .history import HOUR, Cell, Frame

DAY = 86_400
LINES_AT_ONCE = 2_000
COPY_HOURS = """
COPY metering_usage_hour (tenant_id, hour, period_start, project_id, api_key_id, capability, billable, units, failed,
                          refused, latency_start, latency_counts) FROM STDIN
"""
CLOSE_PERIODS = """
INSERT INTO metering_quota (tenant_id, period_start, period_end, included, admits, used, failed, refused)
SELECT a.tenant_id, p.period_start, p.period_end, a.included,
       least(a.hard_limit, CASE WHEN a.policy = 'rate' THEN NULL ELSE a.included END),
       coalesce(h.used, 0), coalesce(h.failed, 0), coalesce(h.refused, 0)
FROM metering_allowance a
CROSS JOIN unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[]) AS p (period_start, period_end)
LEFT JOIN (SELECT period_start, sum(units) AS used, sum(failed) AS failed, sum(refused) AS refused
           FROM metering_usage_hour WHERE tenant_id = %(tenant)s GROUP BY period_start) h USING (period_start)
WHERE a.tenant_id = %(tenant)s
ON CONFLICT (tenant_id, period_start) DO UPDATE SET used = EXCLUDED.used, failed = EXCLUDED.failed, refused = EXCLUDED.refused
"""
MONTHS = """
INSERT INTO metering_usage_month
SELECT tenant_id, date_trunc('month', hour, 'UTC'), sum(billable), sum(units), sum(failed), sum(refused)
FROM metering_usage_hour WHERE tenant_id = %(tenant)s GROUP BY 1, 2
ON CONFLICT (tenant_id, month) DO UPDATE SET billable = EXCLUDED.billable, units = EXCLUDED.units, failed = EXCLUDED.failed,
                                             refused = EXCLUDED.refused
"""
STATUSES = {"auth": (200,), "database": (200, 200, 200, 201, 404), "storage": (200, 200, 200, 201)}
FAILURES = (500, 502, 503, 503)


class Answer(NamedTuple):
    outcome: str
    reason: str
    status: int


class Loader:
    """Loads one tenant's history. `keys` are the (project id, key id) of the story's keys, in its order."""

    def __init__(self, *, tenant_id: UUID, keys: list[tuple[int, int]], frame: Frame, seed: str) -> None:
        self._tenant_id = tenant_id
        self._keys = keys
        self._frame = frame
        self._random = Random(seed)

    def load_hours(self, cells: list[Cell]) -> None:
        """Usage hours and quota rows hold these cells, of which no single calls are kept."""
        lines = self._lines(cells)
        with connection.cursor() as cursor, cursor.copy(COPY_HOURS) as copy:
            while chunk := "".join(islice(lines, LINES_AT_ONCE)):  # PostgreSQL works on one while the next is made
                copy.write(chunk)

    def open_periods(self) -> None:
        """Each period of the frame has its quota row and each month its row; they carry the usage hours loaded so far."""
        covered = self._frame.periods
        parameters: dict[str, Any] = {
            "tenant": self._tenant_id,
            "starts": [period.start for period in covered],
            "ends": [period.end for period in covered],
        }
        with connection.cursor() as cursor:
            cursor.execute(CLOSE_PERIODS, parameters)
            cursor.execute(MONTHS, parameters)

    def load_calls(self, cells: list[Cell]) -> int:
        """Call log, usage hours and quota hold every call of these cells; returns how many. A batch for each day."""
        connection.ensure_connection()
        raw: psycopg.Connection[tuple[Any, ...]] = connection.connection
        loaded = 0
        days = [list(day) for _, day in groupby(cells, key=lambda cell: cell.hour // DAY)]
        with ThreadPoolExecutor(max_workers=1) as ahead:
            for entries in ahead.map(self._ordered, days):
                ledger.commit(raw, recorder.Batch(entries, {}))
                loaded += len(entries)
        return loaded

    def _ordered(self, cells: list[Cell]) -> tuple[recorder.Entry, ...]:
        return tuple(sorted(self.calls(cells), key=lambda entry: entry.occurred_at))

    def calls(self, cells: list[Cell]) -> Iterator[recorder.Entry]:
        """Single calls whose sum the cells are."""
        random = self._random
        for period, cell in self._by_period(cells):
            points = latencies.quantiles_us(cell.stream.capability, is_slow=cell.is_slow)
            for _ in range(cell.billable):
                answer = Answer("billable", "", random.choice(STATUSES[cell.stream.capability]))
                yield self._entry(cell, period, answer, latencies.draw_us(random, points))
            for _ in range(cell.failed):
                yield self._entry(
                    cell, period, Answer("failed", "", random.choice(FAILURES)), latencies.draw_us(random, points)
                )
            refusal = Answer("refused", "burst" if cell.billable else "quota", 429)
            for _ in range(cell.refused):
                yield self._entry(cell, period, refusal, random.randrange(400, 1600))

    def _entry(self, cell: Cell, period: periods.Period, answer: Answer, latency_us: int) -> recorder.Entry:
        random = self._random
        end = min(cell.hour + HOUR, self._frame.now.timestamp())
        occurred_at = cell.hour + random.random() * (end - cell.hour)
        project_id, key_id = self._keys[cell.key]
        return recorder.Entry(
            str(call_id(occurred_at, random)), self._tenant_id, project_id, key_id, cell.stream.capability, answer.outcome,
            answer.reason, answer.status, int(answer.outcome == "billable"), latency_us, occurred_at,
            period.start.timestamp(), period.end.timestamp(), None,
        )  # fmt: skip

    def _lines(self, cells: list[Cell]) -> Iterator[str]:
        """The cells in COPY's text format. The texts that repeat are made once."""
        owners = [f"\t{project_id}\t{key_id}\t" for project_id, key_id in self._keys]
        tenant, random = f"{self._tenant_id}\t", self._random
        for hour, same_hour in groupby(self._by_period(cells), key=lambda pair: pair[1].hour):
            found = list(same_hour)
            begin = f"{tenant}{_text(hour)}\t{found[0][0].start.isoformat()}"
            for _, cell in found:
                capability, calls = cell.stream.capability, cell.billable
                variant = random.getrandbits(latencies.VARIANT_BITS)
                start, counts = latencies.counts(capability, calls + cell.failed, variant, is_slow=cell.is_slow)
                yield (
                    f"{begin}{owners[cell.key]}{capability}\t{calls}\t{calls}\t{cell.failed}\t{cell.refused}\t"
                    f"{start}\t{counts}\n"
                )

    def _by_period(self, cells: list[Cell]) -> Iterator[tuple[periods.Period, Cell]]:
        """Each cell with the period that it lies in; periods of the demo begin at midnight, so no hour lies in two."""
        covered = iter(self._frame.periods)
        period = next(covered)
        end = period.end.timestamp()
        for cell in cells:
            while cell.hour >= end:
                period = next(covered)
                end = period.end.timestamp()
            yield period, cell


def _text(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat()


def call_id(occurred_at: float, random: Random) -> UUID:
    """As `recorder.call_id`, from repeatable chance."""
    chance = random.getrandbits(74)
    milliseconds = int(occurred_at * 1000)
    return UUID(int=(milliseconds << 80) | (0x7 << 76) | ((chance >> 62) << 64) | (0b10 << 62) | (chance & (2**62 - 1)))
