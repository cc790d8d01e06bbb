"""The price lab over a year of many tenants, and what rating one month of one tenant takes.

uv run python -m benchmarks.price_lab [--tenants 1000] [--months 12] [--ratings 20000]

The tenants have a month's units in each quota row, and no calls: that is all the lab reads. Exits 1 when a bound was passed.
"""

import random
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from benchmarks import stage

LAB_SECONDS, RATING_MS = 60, 5
DRAFT = """
name = "Draft"
fee_minor = 2900
included = 150_000
overage = "rate"
[[steps]]
up_to = 1_000_000
unit_price_minor = "0.02"
[[steps]]
up_to = 10_000_000
unit_price_minor = "0.01"
[[steps]]
unit_price_minor = "0.004"
"""
QUOTAS = """
INSERT INTO metering_quota (tenant_id, period_start, period_end, used)
SELECT a.tenant_id, p.period_start, p.period_end, floor(exp(random() * 14))::bigint
FROM billing_account a CROSS JOIN unnest(%s::timestamptz[], %s::timestamptz[]) AS p (period_start, period_end)
"""


def main() -> None:
    options = stage.options(__doc__, tenants=(1_000, 20), months=(12, 3), ratings=(20_000, 200))
    with stage.servers():
        stage.tenants_in_bulk(options.tenants)
        _give_a_past(options.months)
        lab_seconds, rows, queries = _lab(options.months)
        rating_ms = _ratings_ms(options.ratings)
    periods = sum(row.periods for row in rows)
    stage.print_table(
        ["what", "measured", "bound"],
        [
            [
                f"{len(rows):,} tenants, {periods:,} periods, {queries} queries",
                f"{lab_seconds:.2f} s",
                f"{LAB_SECONDS} s",
            ],
            ["of it, one tenant's period", f"{lab_seconds * 1000 / max(1, periods):.3f} ms", ""],
            ["rating a tenant's month, p50", f"{stage.percentile(rating_ms, 50):.4f} ms", f"{RATING_MS} ms"],
            ["rating a tenant's month, p99", f"{stage.percentile(rating_ms, 99):.4f} ms", f"{RATING_MS} ms"],
        ],
    )
    sys.exit(0 if lab_seconds < LAB_SECONDS and stage.percentile(rating_ms, 99) < RATING_MS else 1)


def _give_a_past(months: int) -> None:
    """Each tenant is on one of three plans and has whole periods with one to a million calls."""
    from django.db import connection  # noqa: PLC0415 -- only after the environment is set

    from billing import accounts  # noqa: PLC0415
    from billing.models import Account  # noqa: PLC0415
    from metering import periods  # noqa: PLC0415
    from tenants.models import Tenant  # noqa: PLC0415

    now = datetime.now(UTC)
    anchor = periods.months_after(periods.month_of(now), -months)
    plans = [accounts.public_version(plan_code=code) for code in ("free", "launch", "scale")]
    Account.objects.bulk_create(
        Account(tenant=tenant, plan_version=random.choice(plans), anchor=anchor) for tenant in Tenant.objects.all()
    )
    past = periods.last(anchor, periods.previous(anchor, periods.containing(anchor, now)), months)
    with connection.cursor() as cursor:
        cursor.execute(QUOTAS, [[one.start for one in past], [one.end for one in past]])
        cursor.execute("VACUUM ANALYZE metering_quota, billing_account")


def _lab(months: int) -> tuple[float, Any, int]:
    from django.db import connection  # noqa: PLC0415
    from django.test.utils import CaptureQueriesContext  # noqa: PLC0415

    from billing import draft_plans, price_lab  # noqa: PLC0415

    draft = draft_plans.read(DRAFT)
    with CaptureQueriesContext(connection) as queries:
        started = time.perf_counter()
        report = price_lab.run(draft=draft, months=months, now=datetime.now(UTC))
        seconds = time.perf_counter() - started
    return seconds, report.rows, len(queries)


def _ratings_ms(count: int) -> list[float]:
    """Under steps, a minimum and a limit in money: the dearest to rate."""
    from billing import pricing  # noqa: PLC0415

    steps = (
        *(pricing.Step(10**power, Decimal("0.02") / power) for power in range(3, 9)),
        pricing.Step(None, Decimal("0.001")),
    )
    terms = pricing.Terms("usd", 19_00, 1_000, Decimal(0), prices_overage=True, steps=steps, minimum_minor=5_00)
    found = []
    for _ in range(count):
        units = random.randrange(10 ** random.randint(1, 10))
        started = time.perf_counter()
        pricing.invoice(terms=terms, quantity=units, cap_minor=900_00)
        found.append((time.perf_counter() - started) * 1000)
    return sorted(found)


if __name__ == "__main__":
    main()
