"""Grace: a failed payment leaves service on for some days, then calls are refused until it is paid."""

from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction

from tenants import audit

from . import accounts, plan_letters
from .models import Account, PaymentState


def ends_at(account: Account) -> datetime | None:
    """When calls are refused, or since when; None while nothing is past due."""
    if account.past_due_since is None or account.state == PaymentState.NONE:
        return None  # what an ended subscription owes restricts nothing
    return end_of(account.past_due_since)


def end_of(past_due_since: datetime) -> datetime:
    return past_due_since + timedelta(days=settings.BILLING["GRACE_DAYS"])


def restrict_overdue(*, now: datetime) -> int:
    """No account is past due beyond its grace days and still served; returns how many were restricted."""
    latest = now - timedelta(days=settings.BILLING["GRACE_DAYS"])
    overdue = Account.objects.filter(state=PaymentState.PAST_DUE, past_due_since__lte=latest)
    return sum(_restrict(account_id, latest, now) for account_id in list(overdue.values_list("pk", flat=True)))


def _restrict(account_id: UUID, latest: datetime, now: datetime) -> bool:
    with transaction.atomic():
        account = Account.objects.select_for_update().filter(pk=account_id).first()
        if account is None or account.state != PaymentState.PAST_DUE or (account.past_due_since or now) > latest:
            return False  # paid meanwhile
        account.state = PaymentState.RESTRICTED
        account.save(update_fields=["state"])
        audit.record(
            tenant=account.tenant,
            actor="grace",
            action="account.restricted",
            subject=str(account.subscription_id),
            past_due_since=str(account.past_due_since),
        )
        accounts.push(account=account, now=now)
        plan_letters.restricted(account=account)
    return True
