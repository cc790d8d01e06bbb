"""From Stripe's subscription to what is enforced. Stripe's present state is the truth; events only say when to look.

`sync` may be called at any time, twice, late, in any order and by two workers at once: the account ends as the newest
reading says, whatever their clocks say. A worker that is killed in the middle has changed nothing.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction

from metering.periods import Period
from tenants import audit

from . import accounts, grace, plan_letters, readings, stripe_api
from .models import Account, Consent, PaymentState, PlanChange
from .readings import Reading
from .stripe_api import NoSuchObject, Subscription

logger = logging.getLogger(__name__)
ACTOR = "stripe"
FREE = "free"
READINGS = 5
CLOCKS_DIFFER = timedelta(minutes=5)
FOLLOWED = (
    "plan_version", "currency", "state", "subscription_id", "schedule_id", "anchor", "period_start", "period_end",
    "trial_ends_at", "cancels_at", "next_version", "past_due_since",
)  # fmt: skip


def sync_customer(*, customer_id: str, now: datetime) -> Account | None:
    """The account of this customer follows Stripe; None for a customer that is none of ours. Raises StripeError."""
    account = Account.objects.filter(customer_id=customer_id).first() or _adopted(customer_id)
    return None if account is None else sync(account_id=account.pk, now=now)


def _adopted(customer_id: str) -> Account | None:
    """The account that made this customer and was stopped before it could write that down."""
    try:
        tenant_id = UUID(stripe_api.tenant_of(customer_id) or "")
    except (NoSuchObject, ValueError):
        return None
    adopted = Account.objects.filter(pk=tenant_id, customer_id=None).update(customer_id=customer_id)
    return Account.objects.get(pk=tenant_id) if adopted else None


def sync(*, account_id: UUID, now: datetime) -> Account:
    """The account, its allowance and its open change say what Stripe says. Raises StripeError, and nothing changed then.

    Where another reading was written down while Stripe was asked, ours may be the older one, so Stripe is asked again. After
    some of that the others are left alone: the last of them has begun after us.
    """
    for _ in range(READINGS):
        account = Account.objects.get(pk=account_id)
        if not account.customer_id:
            break  # nothing of it is at Stripe
        reading = readings.take(account=account, customer_id=account.customer_id, at=now)
        followed = _written(account, reading)
        if followed is not None:
            return followed
    return account


def _written(known: Account, reading: Reading) -> Account | None:
    """The account after this reading; None when another was written down since it began."""
    with transaction.atomic():
        account = accounts.locked(known.pk)
        if (account.fetched_at, account.customer_id) != (known.fetched_at, reading.customer_id):
            return None
        account.fetched_at = _stamp(reading.at, known.fetched_at)
        _follow(account, reading)
    return account


def _stamp(at: datetime, before: datetime | None) -> datetime:
    """When the reading began, but later than the one before it: workers' clocks differ a little."""
    if before is None or not at <= before < at + CLOCKS_DIFFER:
        return at
    return before + timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Before:
    """What an account was before a reading, to tell what changed."""

    values: tuple[object, ...]
    version_id: int
    plan: str
    state: str
    subscription_id: str

    @classmethod
    def of(cls, account: Account) -> "Before":
        return cls(
            tuple(getattr(account, f"{name}_id" if name.endswith("version") else name) for name in FOLLOWED),
            account.plan_version_id,
            account.plan_version.plan.name,
            account.state,
            account.subscription_id or "",
        )


def _follow(account: Account, reading: Reading) -> None:
    before = Before.of(account)
    if reading.subscription is None:
        _end(account, reading)
    else:
        _copy(account, reading.subscription, reading)
    is_settled = _settle_change(account, reading)
    if reading.subscription is not None:
        period = _period(account, reading.subscription)
        account.period_start, account.period_end = period.start, period.end
    has_ended = _end_consents(account, reading.at)
    account.save(update_fields=[*FOLLOWED, "fetched_at"])
    if Before.of(account).values != before.values or is_settled or has_ended:
        accounts.push(account=account, now=reading.at)
        _tell(account, before)


def _end(account: Account, reading: Reading) -> None:
    """No subscription: the free plan, in the period that runs. What was agreed without a subscription stays.

    What the ended one still owes restricts nothing that is free to everybody (docs/decisions/0010).
    """
    if account.state != PaymentState.NONE:
        account.plan_version = accounts.public_version(plan_code=FREE)
    account.state = PaymentState.NONE
    account.subscription_id, account.schedule_id = None, ""
    account.trial_ends_at = account.cancels_at = account.next_version = None
    account.past_due_since = reading.due_since


def _copy(account: Account, subscription: Subscription, reading: Reading) -> None:
    if reading.version is not None:
        account.plan_version = reading.version
    account.subscription_id = subscription.id
    account.schedule_id = subscription.schedule_id if reading.next_version else ""
    account.next_version = reading.next_version
    account.currency = subscription.currency
    account.anchor = subscription.anchor
    account.trial_ends_at = subscription.trial_ends_at if subscription.status == "trialing" else None
    account.cancels_at = subscription.cancels_at
    account.state, account.past_due_since = _payment(account, subscription, reading)


def _payment(account: Account, subscription: Subscription, reading: Reading) -> tuple[PaymentState, datetime | None]:
    if subscription.status in {"trialing", "active"}:
        return PaymentState(subscription.status), None
    since = reading.due_since
    if since is None or since > reading.at:  # no invoice says, or Stripe's clock is ahead of ours: when we heard of it
        since = account.past_due_since or reading.at
    is_over = subscription.status != "past_due" or grace.end_of(since) <= reading.at  # unpaid: Stripe has given up
    return (PaymentState.RESTRICTED if is_over else PaymentState.PAST_DUE), since


def _period(account: Account, subscription: Subscription) -> Period:
    """The running period: of the items, or from the cut of the change that made them (docs/decisions/0007)."""
    start = min(item.period_start for item in subscription.items)
    end = min(item.period_end for item in subscription.items)
    if all(item.period_start <= item.created_at for item in subscription.items):  # they have not been renewed yet
        made = PlanChange.objects.filter(
            account=account, state=PlanChange.State.APPLIED, cut_at__lt=end, items__contains=[subscription.items[0].id]
        )
        change = made.order_by("-ended_at").first()
        if change is not None and change.cut_at is not None:
            start = change.cut_at
    return Period(start, end)


def _settle_change(account: Account, reading: Reading) -> bool:
    """An open change whose effect Stripe shows is applied, also when whoever asked Stripe was killed."""
    open_changes = PlanChange.objects.select_for_update().filter(account=account, state__in=PlanChange.OPEN_STATES)
    change = open_changes.first()
    if change is None or not _has_happened(change, account, reading.subscription):
        return False
    if reading.subscription is not None and change.kind in {PlanChange.Kind.UPGRADE, PlanChange.Kind.AUTOMATIC}:
        change.items = [item.id for item in reading.subscription.items]
        change.cut_at = change.cut_at or max(item.created_at for item in reading.subscription.items)
    change.state, change.ended_at = PlanChange.State.APPLIED, reading.at
    change.save(update_fields=["state", "ended_at", "items", "cut_at"])
    return True


def _has_happened(change: PlanChange, account: Account, subscription: Subscription | None) -> bool:
    match change.kind:
        case PlanChange.Kind.DOWNGRADE:
            return change.to_version_id in {account.plan_version_id, account.next_version_id}
        case PlanChange.Kind.CANCEL:
            return subscription is None or subscription.cancels_at is not None
        case PlanChange.Kind.REACTIVATE:
            is_plain = subscription is not None and subscription.cancels_at is None and account.next_version_id is None
            return is_plain and change.state == PlanChange.State.APPLYING
    return subscription is not None and account.plan_version_id == change.to_version_id


def _end_consents(account: Account, now: datetime) -> bool:
    """A consent to move on from a version holds only while the account is on it, in that currency."""
    ended = False
    for consent in Consent.objects.filter(account=account, ended_at=None).select_related("change"):
        if consent.from_version_id == account.plan_version_id and consent.currency == account.currency:
            continue
        change = getattr(consent, "change", None)
        is_used = change is not None and change.state == PlanChange.State.APPLIED
        consent.ended_at, consent.end = now, Consent.End.USED if is_used else Consent.End.OVERTAKEN
        consent.save(update_fields=["ended_at", "end"])
        ended = True
    return ended


def _tell(account: Account, before: Before) -> None:
    """What changed is on record, and the customer is told."""
    if account.plan_version_id != before.version_id:
        _record(account, "plan.changed", subject=str(account.plan_version), before=before.plan)
        if account.subscription_id:
            plan_letters.plan_began(account=account)
    if before.subscription_id and not account.subscription_id:
        plan_letters.subscription_ended(account=account, subscription_id=before.subscription_id, before=before.plan)
    if account.state != before.state:
        _record(account, "account.state", subject=account.state, before=before.state)
        if account.state == PaymentState.RESTRICTED:
            plan_letters.restricted(account=account)


def _record(account: Account, action: str, *, subject: str, before: str) -> None:
    subscription_id = account.subscription_id or ""
    audit.record(
        tenant=account.tenant, actor=ACTOR, action=action, subject=subject, before=before, subscription=subscription_id
    )
