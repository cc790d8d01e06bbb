"""What metering must enforce, pushed down by billing. Enforced everywhere within a second: see `leases.py`."""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection, transaction
from django.db.models.functions import Now

from . import alerts, boundaries, periods, rebuild
from .models import Allowance, OnOutage, Policy, Recording

logger = logging.getLogger(__name__)


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
    restriction: str = ""  # a Restriction: every call is refused for this reason
    period: periods.Period | None = None  # the running period where it is known; without it the anchor predicts it


BOUNDS = """
UPDATE metering_quota SET included = %(included)s, admits = %(admits)s WHERE tenant_id = %(tenant)s AND period_end > %(now)s
"""
OPEN = "SELECT metering_open_period(%s, %s, %s, %s)"
OPEN_AHEAD = timedelta(days=1)


def push(*, tenant_id: UUID, terms: Terms, now: datetime) -> Allowance:
    """The tenant's allowance is this, and so are the quotas of its running and coming periods, in one transaction.

    What was used stays used. The running period changes only when `terms.period` or a new anchor says so.
    """
    with transaction.atomic():
        known = Allowance.objects.select_for_update().filter(pk=tenant_id).first()
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
                "restriction": terms.restriction,
                "anchor": terms.anchor,
                "changed_at": Now(),  # database time: the processes that hold leases look for it by that clock
            },
        )
        if known is None:
            alerts.put_defaults(tenant_id=tenant_id)
        rebuild.lock(tenant_id)  # all rows in order: a flush may hold two of them
        period = terms.period
        if period is None and known is not None and known.anchor != terms.anchor:
            period = periods.containing(terms.anchor, now)
        if period is not None:
            _learn(tenant_id, period, now)
        open_period(allowance=allowance, instant=now)
        with connection.cursor() as cursor:
            cursor.execute(
                BOUNDS,
                {"tenant": tenant_id, "now": now, "included": allowance.included, "admits": allowance.admits},
            )
    return allowance


def _learn(tenant_id: UUID, period: periods.Period, now: datetime) -> None:
    """As `boundaries.learn`; a boundary that cannot be drawn any more must not keep the limits from being enforced."""
    try:
        boundaries.learn(tenant_id=tenant_id, period=period, now=now)
    except boundaries.BoundaryTooOld as error:
        logger.error("Tenant %s keeps its periods: %s", tenant_id, error)


def open_period(*, allowance: Allowance, instant: datetime) -> None:
    """The period that holds the instant has a quota row; where none is known, as the anchor predicts."""
    period = periods.containing(allowance.anchor, instant)
    with connection.cursor() as cursor:
        cursor.execute(OPEN, [allowance.tenant_id, period.start, period.end, instant])


MISSING = """
SELECT tenant_id, anchor FROM metering_allowance a
WHERE tenant_id > %(after)s AND NOT EXISTS (
    SELECT FROM metering_quota q WHERE q.tenant_id = a.tenant_id AND q.period_start <= %(at)s AND q.period_end > %(at)s)
ORDER BY tenant_id LIMIT %(limit)s
"""
AT_ONCE = 500


def open_periods(*, now: datetime) -> int:
    """Every tenant's running period has a quota row, and so has the one that begins within a day; returns how many were missing.

    So no call pays for opening one. Early, late or twice is harmless: a call that finds none opens it.
    """
    return sum(_open_missing(instant) for instant in (now, now + OPEN_AHEAD))


def _open_missing(instant: datetime) -> int:
    opened, last = 0, UUID(int=0)
    with connection.cursor() as cursor:
        while True:
            cursor.execute(MISSING, {"after": last, "at": instant, "limit": AT_ONCE})
            missing = cursor.fetchall()
            if not missing:
                return opened
            predicted = [(tenant_id, periods.containing(anchor, instant)) for tenant_id, anchor in missing]
            cursor.executemany(OPEN, [(tenant_id, of.start, of.end, instant) for tenant_id, of in predicted])
            opened, last = opened + len(missing), missing[-1][0]
