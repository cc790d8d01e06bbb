"""What metering must enforce, pushed down by billing. Enforced everywhere within a second: see `leases.py`."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection, transaction
from django.db.models.functions import Now

from . import boundaries, periods
from .models import Allowance, OnOutage, Policy, Recording


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
    recording: Recording = Recording.BUFFERED
    period: periods.Period | None = None  # the running period where it is known; without it the anchor predicts it


BOUNDS = """
UPDATE metering_quota SET included = %(included)s, admits = %(admits)s WHERE tenant_id = %(tenant)s AND period_end > %(now)s
"""
OPEN_AHEAD = timedelta(days=1)


def push(*, tenant_id: UUID, terms: Terms, now: datetime) -> Allowance:
    """The tenant's allowance is this, and so are the quotas of its running and coming periods, in one transaction.

    What was used stays used. The running period changes only when `terms.period` or a new anchor says so.
    """
    with transaction.atomic():
        anchor = Allowance.objects.filter(pk=tenant_id).values_list("anchor", flat=True).first()
        allowance, _ = Allowance.objects.update_or_create(
            tenant_id=tenant_id,
            defaults={
                "label": terms.label,
                "included": terms.included,
                "hard_limit": terms.hard_limit,
                "policy": terms.policy,
                "on_outage": terms.on_outage,
                "recording": terms.recording,
                "burst_per_second": terms.burst_per_second,
                "anchor": terms.anchor,
                "changed_at": Now(),  # database time: the processes that hold leases look for it by that clock
            },
        )
        period = terms.period
        if period is None and anchor not in {None, terms.anchor}:
            period = periods.containing(terms.anchor, now)
        if period is not None:
            boundaries.learn(tenant_id=tenant_id, period=period, now=now)
        open_period(allowance=allowance, instant=now)
        with connection.cursor() as cursor:
            cursor.execute(
                BOUNDS,
                {"tenant": tenant_id, "now": now, "included": allowance.included, "admits": allowance.admits},
            )
    return allowance


def open_period(*, allowance: Allowance, instant: datetime) -> None:
    """The period that holds the instant has a quota row; where none is known, as the anchor predicts."""
    period = periods.containing(allowance.anchor, instant)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT metering_open_period(%s, %s, %s, %s)", [allowance.tenant_id, period.start, period.end, instant]
        )


ENDING = """
SELECT a.tenant_id FROM metering_allowance a
WHERE NOT EXISTS (
    SELECT FROM metering_quota q WHERE q.tenant_id = a.tenant_id AND q.period_start <= %(at)s AND q.period_end > %(at)s)
"""


def open_periods(*, now: datetime) -> int:
    """Every tenant's running period has a quota row, and so has the one that begins within a day; returns how many were missing.

    So no call pays for opening one. Early, late or twice is harmless: a call that finds none opens it.
    """
    opened = 0
    for instant in (now, now + OPEN_AHEAD):
        with connection.cursor() as cursor:
            cursor.execute(ENDING, {"at": instant})
            tenant_ids = [tenant_id for (tenant_id,) in cursor.fetchall()]
        for allowance in Allowance.objects.filter(pk__in=tenant_ids).iterator():
            open_period(allowance=allowance, instant=instant)
            opened += 1
    return opened
