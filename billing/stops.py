"""Whose usage is not reported any more until an operator has looked: what cannot be explained may charge a customer wrongly."""

import logging
from datetime import datetime
from uuid import UUID

from django.db import IntegrityError, transaction

from tenants import audit

from .errors import BillingError
from .models import Account, Drift, ReportingStop

logger = logging.getLogger(__name__)
ACTOR = "reconciliation"


class SayWhy(BillingError):
    """A release needs a reason: it goes into the audit log."""


def is_stopped(account_id: UUID) -> bool:
    """Whether nothing of this tenant's usage may be sent to Stripe. Ask before each sending."""
    return ReportingStop.objects.filter(account_id=account_id, released_at=None).exists()


def stopped_ids() -> set[UUID]:
    """The accounts whose usage may not be sent."""
    return set(ReportingStop.objects.filter(released_at=None).values_list("account_id", flat=True))


def stopped_at(account_id: UUID) -> datetime | None:
    """Since when nothing is sent; None: it is sent."""
    stops = ReportingStop.objects.filter(account_id=account_id, released_at=None)
    return stops.values_list("stopped_at", flat=True).first()


def stop(*, account: Account, why: str, now: datetime) -> bool:
    """Nothing of the tenant's usage is sent from now on, and that is on record; False if it was so before."""
    try:
        with transaction.atomic():
            ReportingStop.objects.create(account=account, stopped_at=now, why=why)
            audit.record(
                tenant=account.tenant, actor=ACTOR, action="reporting.stopped", subject=account.tenant, why=why
            )
    except IntegrityError:
        return False
    logger.error("Reporting of tenant %s is stopped: %s", account.tenant.slug, why)
    return True


def release(*, account: Account, actor: str, reason: str, now: datetime) -> bool:
    """The tenant's usage is sent again, and what was found so far is accepted as it is; False if nothing was stopped or found.

    A difference that changes afterwards is found anew. Raises SayWhy.
    """
    if not reason.strip():
        raise SayWhy("Say why: a release needs a reason.")
    reason = reason.strip()[:500]
    with transaction.atomic():
        Account.objects.select_for_update().get(pk=account.pk)
        stopped = ReportingStop.objects.filter(account=account, released_at=None)
        released = stopped.update(released_at=now, released_by=actor[:254], reason=reason)
        open_ones = Drift.objects.filter(
            account=account, kind__in=[Drift.Kind.UNEXPLAINED, Drift.Kind.DUPLICATED], acknowledged_by=""
        )
        drifts = [f"{one.period_start:%Y-%m-%d}: {one.units:+,} {one.kind}" for one in open_ones]
        open_ones.update(acknowledged_by=actor[:254], acknowledged_at=now, reason=reason)
        if released or drifts:
            audit.record(
                tenant=account.tenant, actor=actor, action="reporting.released", subject=account.tenant, reason=reason,
                accepted=drifts,
            )  # fmt: skip
    return bool(released or drifts)
