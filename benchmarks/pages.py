"""How long the server takes for a page when there is much to read: ten million usage hours, thirteen months of the tenant's own.

uv run python -m benchmarks.pages [--rows 10000000] [--calls 2000000] [--keys 4] [--rounds 200]

The tenant on view has four keys (--keys) in two projects and three capabilities, each used in every hour since its anchor:
twelve rows an hour. The rest of the rows are other tenants'. A page is asked for in this process, through all of the
middleware, so what is measured is Python, SQL and the template, not the network. Each page is asked for a few times before.
Making the rows takes minutes and is not measured.
"""

import gzip
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from benchmarks import stage

MONTHS = 13
PROJECTS = 2
WARM_UP = 5
GOAL_MS, MOST_QUERIES = 60.0, 12
PAGES = (
    ("Overview", ""),
    ("Overview, the part that polls", ""),
    ("Usage", "usage"),
    ("Usage by key", "usage?group_by=key"),
    ("Trends", "trends"),
    ("Projected invoice", "invoice"),
    ("Calls", "calls"),
)
JUDGED = frozenset({"Overview", "Usage", "Trends"})
OWN_HOURS = """
INSERT INTO metering_usage_hour
SELECT %(tenant)s, hour, p.period_start, k.project_id, k.id, c.capability,
       n.calls, n.calls, n.calls / 200, n.calls / 500, 28, ARRAY[n.calls / 2, n.calls / 4, n.calls / 8, n.calls / 16, 1]
FROM generate_series(%(first)s::timestamptz, %(last)s::timestamptz, '1 hour') hour
JOIN unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[]) p (period_start, period_end)
  ON hour >= p.period_start AND hour < p.period_end
CROSS JOIN (SELECT id, project_id FROM tenants_apikey WHERE tenant_id = %(tenant)s) k
CROSS JOIN unnest(ARRAY['auth', 'database', 'storage']) c (capability)
CROSS JOIN LATERAL (SELECT 40 + (extract(epoch FROM hour)::bigint / 3600 * 7 + k.id * 13) %% 60 AS calls) n
"""
OTHERS_HOURS = """
INSERT INTO metering_usage_hour
SELECT md5('tenant ' || t)::uuid, hour, date_trunc('month', hour, 'UTC'), t, t, c.capability, 50, 50, 0, 0, 28, '{25,13,12}'
FROM generate_series(1, %(tenants)s) t
CROSS JOIN generate_series(%(first)s::timestamptz, %(last)s::timestamptz, '1 hour') hour
CROSS JOIN unnest(ARRAY['auth', 'database']) c (capability)
"""
# The rows go in without their index, which is built from all of them afterwards: about half the time.
KEY = "(tenant_id, hour, period_start, project_id, api_key_id, capability)"
WITHOUT_KEY = "ALTER TABLE metering_usage_hour DROP CONSTRAINT metering_usage_hour_pkey"
WITH_KEY = f"ALTER TABLE metering_usage_hour ADD CONSTRAINT metering_usage_hour_pkey PRIMARY KEY {KEY}"
CALLS = """
INSERT INTO metering_call
    (tenant_id, occurred_at, id, project_id, api_key_id, capability, outcome, status, units, latency_us, batch_id)
SELECT %(tenant)s, now() - n * %(step)s * interval '1 millisecond', gen_random_uuid(), k.project_id, k.id,
       (ARRAY['auth', 'database', 'storage'])[1 + n %% 3], 'billable', 200, 1, 5000 + n %% 90000, %(tenant)s
FROM generate_series(1, %(calls)s) n
JOIN (SELECT id, project_id, row_number() OVER (ORDER BY id) - 1 AS place FROM tenants_apikey WHERE tenant_id = %(tenant)s) k
  ON k.place = n %% %(keys)s
"""


class Measured(NamedTuple):
    """A page: sorted milliseconds of the server, its queries, its bytes plain and compressed."""

    milliseconds: list[float]
    queries: int
    size: int
    compressed: int


def main() -> None:
    options = stage.options(__doc__, rows=(10_000_000, 20_000), calls=(2_000_000, 2_000), keys=(4, 2), rounds=(200, 3))
    with stage.servers():
        owned, now = _tenant(options.keys), datetime.now(UTC)
        started = time.perf_counter()
        rows = _fill(owned, now, rows=options.rows, calls=options.calls, keys=options.keys)
        print(f"{rows:,} usage hours made in {time.perf_counter() - started:,.0f} s; not measured.\n", flush=True)
        found = {name: _measured(owned, name, page, options.rounds) for name, page in PAGES}
    _print(found)
    slow = [name for name in JUDGED if stage.percentile(found[name].milliseconds, 95) > GOAL_MS]
    greedy = [name for name, page in found.items() if page.queries > MOST_QUERIES]
    print(f"\nSlower than {GOAL_MS:.0f} ms at p95: {', '.join(sorted(slow)) or 'none of the three'}.", flush=True)
    sys.exit(1 if greedy or (slow and not options.quick) else 0)


def _tenant(count: int) -> Any:
    from billing import onboarding  # noqa: PLC0415
    from metering import periods  # noqa: PLC0415
    from tenants import directory, keys  # noqa: PLC0415

    now = datetime.now(UTC)
    anchor = periods.months_after(periods.day_of(now) - timedelta(days=20), -MONTHS)
    owned = onboarding.onboard(
        name="Acme", email="owner@acme.example", plan_code="scale", actor="benchmark", now=now, anchor=anchor
    )
    projects = [owned.key.project]
    projects += [
        directory.add_project(tenant=owned.tenant, name=f"Project {n}", actor="benchmark") for n in range(1, PROJECTS)
    ]
    for number in range(1, count):
        project = projects[number % PROJECTS]
        keys.issue(project=project, name=f"Key {number}", actor="benchmark", created_by=owned.user)
    return owned


def _fill(owned: Any, now: datetime, *, rows: int, calls: int, keys: int) -> int:
    """The rows are there, the quota and the months say the same, and the planner knows; returns how many there are."""
    from django.db import connection  # noqa: PLC0415

    from metering import partitions, periods  # noqa: PLC0415
    from sandbox import loading  # noqa: PLC0415

    anchor = owned.account.anchor
    partitions.ensure(calls_from=now - timedelta(days=7), hours_from=anchor, now=now)
    covered = periods.last(anchor, periods.containing(anchor, now), MONTHS + 1)
    hours = int((now - anchor) / timedelta(hours=1))
    parameters: dict[str, Any] = {
        "tenant": owned.tenant.pk, "first": anchor, "last": periods.hour_of(now), "keys": keys,
        "starts": [one.start for one in covered], "ends": [one.end for one in covered],
        "tenants": max(1, (rows - hours * keys * 3) // (hours * 2)),
        "calls": calls, "step": max(1, 6 * 86_400_000 // calls),
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("SET maintenance_work_mem = '512MB'")
        for sql in (WITHOUT_KEY, OWN_HOURS, OTHERS_HOURS, WITH_KEY, CALLS, loading.CLOSE_PERIODS, loading.MONTHS):
            cursor.execute(sql, parameters)
        cursor.execute("VACUUM ANALYZE metering_usage_hour, metering_call, metering_quota, metering_usage_month")
        cursor.execute("SELECT count(*) FROM metering_usage_hour")
        return int(cursor.fetchone()[0])


def _measured(owned: Any, name: str, page: str, rounds: int) -> Measured:
    from django.db import connection  # noqa: PLC0415
    from django.test import Client  # noqa: PLC0415
    from django.test.utils import CaptureQueriesContext  # noqa: PLC0415

    client = Client()
    client.force_login(owned.user)
    address = f"/t/{owned.tenant.slug}/{page}"
    headers = {"HX-Request": "true"} if "polls" in name else {}
    for _ in range(WARM_UP):
        answer = client.get(address, headers=headers)
        assert answer.status_code == 200, (address, answer.status_code)
    with CaptureQueriesContext(connection) as queries:
        client.get(address, headers=headers)
    asked = len(queries)  # each request forgets those before it
    milliseconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        answer = client.get(address, headers=headers)
        milliseconds.append((time.perf_counter() - started) * 1000)
    return Measured(sorted(milliseconds), asked, len(answer.content), len(gzip.compress(answer.content, 6)))


def _print(found: dict[str, Measured]) -> None:
    stage.print_table(
        ("page", "p50", "p95", "queries", "HTML", "compressed"),
        [
            (
                name, f"{stage.percentile(page.milliseconds, 50):.0f} ms", f"{stage.percentile(page.milliseconds, 95):.0f} ms",
                page.queries, f"{page.size / 1000:.0f} kB", f"{page.compressed / 1000:.0f} kB",
            )
            for name, page in found.items()
        ],
    )  # fmt: skip


if __name__ == "__main__":
    os.environ.setdefault("ALLOWED_HOSTS", "testserver,127.0.0.1")
    main()
