"""The stream of events: what adding one costs the service, and how many a second one worker drains into the ledger.

    uv run python -m benchmarks.stream [--events 100000]

A Valkey that writes nothing to disk, a PostgreSQL with fsync, one worker in this process; events with a time and a latency, all
names new, one XADD each without pipelining. Exits 1 when the books are wrong.
"""

import json
import statistics
import sys
import time
from datetime import UTC, datetime

from benchmarks import stage


def main() -> None:
    options = stage.options(__doc__, events=(100_000, 500))
    with stage.servers():
        from django.conf import settings  # noqa: PLC0415 -- only after the environment is set

        from metering.database import Database  # noqa: PLC0415
        from metering.events import stream  # noqa: PLC0415
        from tenants import keys  # noqa: PLC0415

        made = stage.tenant()
        scopes = frozenset({"events:write"})
        key, _ = keys.issue(project=made.key.project, name="events", actor="benchmark", scopes=scopes)
        source, shard = stream.client(settings.REDIS_URL), stream.shard_of(made.tenant.id)
        at, took = datetime.now(UTC).isoformat(), []
        for number in range(options.events):
            event = json.dumps({"id": f"{number}", "capability": "storage", "occurred_at": at, "latency_ms": 41.5})
            began = time.perf_counter_ns()
            source.xadd(shard, stream.fields(key_prefix=key.prefix, event=event))
            took.append((time.perf_counter_ns() - began) / 1000)
        database, recorded = Database(), 0
        began = time.perf_counter()
        while (drained := stream.drain(shard=shard, source=source, database=database)).entries:
            recorded += drained.recorded
        seconds = time.perf_counter() - began
        database.close()
        ways = statistics.quantiles(took, n=100)
        print("| events | XADD p50 us | p99 us | drained in s | events/s, one worker |")
        print("|---|---|---|---|---|")
        print(f"| {recorded:,} | {ways[49]:.0f} | {ways[98]:.0f} | {seconds:.1f} | {recorded / seconds:,.0f} |\n")
        is_right = stage.balance(options.events) and recorded == options.events
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
