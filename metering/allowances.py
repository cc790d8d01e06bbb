"""What metering must enforce, pushed down by billing. Enforced everywhere within a second: see `leases.py`."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connection, transaction
from django.db.models.functions import Now

from . import periods
from .models import Allowance, OnOutage, Policy


@dataclass(frozen=True, slots=True)
class Terms:
    """An allowance as billing states it. Calls per period; None: unlimited, or no hard limit."""

    label: str
    included: int | None
    hard_limit: int | None
    policy: Policy
    burst_per_second: int
    anchor: datetime
    on_outage: OnOutage = OnOutage.CLOSED


OPEN = """
INSERT INTO metering_quota (tenant_id, period_start, period_end, included, admits)
VALUES (%(tenant)s, %(start)s, %(end)s, %(included)s, %(admits)s)
ON CONFLICT (tenant_id, period_start) DO UPDATE SET included = EXCLUDED.included, admits = EXCLUDED.admits
"""


def push(*, tenant_id: UUID, terms: Terms, now: datetime) -> Allowance:
    """The tenant's allowance and its running period's quota are these, in one transaction; what was used stays."""
    with transaction.atomic():
        allowance, _ = Allowance.objects.update_or_create(
            tenant_id=tenant_id,
            defaults={
                "label": terms.label,
                "included": terms.included,
                "hard_limit": terms.hard_limit,
                "policy": terms.policy,
                "on_outage": terms.on_outage,
                "burst_per_second": terms.burst_per_second,
                "anchor": terms.anchor,
                "changed_at": Now(),  # database time: the processes that hold leases look for it by that clock
            },
        )
        open_period(allowance=allowance, instant=now)
    return allowance


def open_period(*, allowance: Allowance, instant: datetime) -> periods.Period:
    """The quota row of the period that holds the instant exists and carries the allowance's bounds."""
    period = periods.containing(allowance.anchor, instant)
    with connection.cursor() as cursor:
        cursor.execute(
            OPEN,
            {
                "tenant": allowance.tenant_id,
                "start": period.start,
                "end": period.end,
                "included": allowance.included,
                "admits": allowance.admits,
            },
        )
    return period
