"""What must hold between the ledger and Stripe (I1 and I2), as far as reports and the last summaries tell. Asks nobody outside.

Asked by `doctor` and every hour. A violation of I1 may charge a customer too much, so `enforce` stops reporting for that tenant.
"""

import logging
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import QuerySet

from metering.invariants import Violation

from . import stops
from .models import Account, Drift

logger = logging.getLogger(__name__)
Kind = Drift.Kind
LOGGED = 20
I1, I2 = "stripe at most ledger", "stripe equals ledger"

# What Stripe was told of a period against the period's units now. Corrections that came after the period's newest report are not
# sent yet; those that are on their way are pending reports.
MORE_THAN_LEDGER = """
WITH told AS (
    SELECT r.account_id, coalesce(b.start, r.period_start) AS period_start, sum(r.quantity) AS units, max(r.created_at) AS newest
    FROM billing_usagereport r LEFT JOIN billing_billedperiod b ON b.id = r.period_id
    WHERE (r.state IN ('sending', 'delivered', 'confirmed') OR (r.state = 'pending' AND r.quantity < 0)) {and_where}
    GROUP BY 1, 2
)
SELECT t.account_id, t.period_start, t.units, ledger.units FROM told t
CROSS JOIN LATERAL (
    SELECT coalesce(sum(h.units), 0) AS units FROM metering_usage_hour h
    WHERE h.tenant_id = t.account_id AND h.period_start = t.period_start
) AS ledger
CROSS JOIN LATERAL (
    SELECT coalesce(-sum(a.units), 0) AS units FROM metering_adjustment a
    WHERE a.tenant_id = t.account_id AND a.period_start = t.period_start AND a.units < 0 AND a.created_at > t.newest
) AS fresh
WHERE t.units > ledger.units + fresh.units AND NOT EXISTS (
    SELECT FROM billing_drift d
    WHERE d.account_id = t.account_id AND d.period_start = t.period_start AND d.acknowledged_by <> ''
) ORDER BY 1, 2
"""


def stripe_has_at_most_the_ledger(*, tenant_id: UUID | None = None) -> list[Violation]:
    """I1: Stripe was told of no period more than the ledger has, corrections that are not sent yet aside, and showed no more."""
    where = "AND r.account_id = %(tenant)s" if tenant_id is not None else ""
    with connection.cursor() as cursor:
        cursor.execute(MORE_THAN_LEDGER.format(and_where=where), {"tenant": tenant_id})
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return [
        Violation(tenant, f"period from {start:%Y-%m-%d %H:%M} (UTC): Stripe was told {units}, the ledger has {ledger}")
        for tenant, start, units, ledger in rows
    ] + [
        Violation(
            one.account_id,
            f"period from {one.period_start:%Y-%m-%d %H:%M} (UTC): Stripe shows {one.stripe}, the ledger had {one.ledger}",
        )
        for one in _not_accepted(tenant_id).filter(kind=Kind.DUPLICATED)
    ]  # fmt: skip


def stripe_equals_the_ledger_at_rest(*, tenant_id: UUID | None = None) -> list[Violation]:
    """I2: the last reconciliation left nothing unexplained or duplicated that nobody has accepted."""
    return [
        Violation(one.account_id, f"period from {one.period_start:%Y-%m-%d %H:%M} (UTC): {one.detail}")
        for one in _not_accepted(tenant_id)
    ]


def _not_accepted(tenant_id: UUID | None) -> QuerySet[Drift]:
    """What the last reconciliation could not explain, and no operator has accepted."""
    found = Drift.objects.filter(kind__in=[Kind.UNEXPLAINED, Kind.DUPLICATED], acknowledged_by="")
    found = found.order_by("account_id", "period_start")
    return found if tenant_id is None else found.filter(account_id=tenant_id)


def broken(*, tenant_id: UUID | None = None) -> dict[str, list[Violation]]:
    """What does not hold, by name; nothing when all is well."""
    found = {
        I1: stripe_has_at_most_the_ledger(tenant_id=tenant_id),
        I2: stripe_equals_the_ledger_at_rest(tenant_id=tenant_id),
    }
    return {name: violations for name, violations in found.items() if violations}


def enforce(*, now: datetime) -> int:
    """Whatever does not hold is an error in the log, and of who may be charged too much nothing more is sent; how many stops."""
    stopped = 0
    for name, violations in broken().items():
        for violation in violations[:LOGGED]:
            logger.error("Invariant '%s' is broken for tenant %s: %s", name, violation.tenant_id, violation.detail)
        if name == I1:
            stopped += sum(_stop(violation, now) for violation in violations)
    return stopped


def _stop(violation: Violation, now: datetime) -> bool:
    account = Account.objects.select_related("tenant").get(pk=violation.tenant_id)
    return stops.stop(account=account, why=f"Stripe may have more than the ledger: {violation.detail}", now=now)
