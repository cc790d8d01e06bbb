"""What Stripe says of one customer, read outside any transaction and not yet applied."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from . import stripe_api
from .models import Account, PlanVersion, StripePrices
from .stripe_api import NoSuchObject, OpenInvoice, Subscription

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """A customer at Stripe at one instant. `version` is None where the prices are none of our catalogue."""

    at: datetime  # when the reading began: what it says is at least as new
    customer_id: str
    subscription: Subscription | None  # the one that is followed; None: there is no live one
    version: PlanVersion | None
    next_version: PlanVersion | None
    due_since: datetime | None


def take(*, account: Account, customer_id: str, at: datetime) -> Reading:
    """The customer's live subscription, its terms and what is unpaid. Raises StripeError."""
    followed = _followed(customer_id)
    if followed is None:
        return Reading(at, customer_id, None, None, None, _owes_since(customer_id))
    is_behind = followed.status in {"past_due", "unpaid"}
    due_since = _due_since(followed, stripe_api.open_invoices(customer_id)) if is_behind else None
    scheduled: Collection[str] = ()
    if followed.schedule_id:
        scheduled = stripe_api.scheduled_prices(followed.schedule_id, after=_period_start(followed))
    return Reading(
        at=at,
        customer_id=customer_id,
        subscription=followed,
        version=_version(account, followed.price_ids),
        next_version=_version(account, scheduled) if scheduled else None,
        due_since=due_since,
    )


def _followed(customer_id: str) -> Subscription | None:
    try:
        found = stripe_api.subscriptions_of(customer_id)
    except NoSuchObject:  # deleted at Stripe, and its subscriptions with it
        return None
    live = [one for one in found if one.is_live]
    if len(live) > 1:
        logger.error(
            "Customer %s has %s live subscriptions; the newest, %s, is followed. Cancel the others at Stripe and refund them: %s",
            customer_id, len(live), live[0].id, ", ".join(one.id for one in live[1:]),
        )  # fmt: skip
    return live[0] if live else None


def _period_start(subscription: Subscription) -> datetime:
    return min(item.period_start for item in subscription.items)


def _owes_since(customer_id: str) -> datetime | None:
    """Since when an invoice of a subscription that has ended is unpaid, though a payment was tried; None: nothing is owed."""
    try:
        invoices = stripe_api.open_invoices(customer_id)
    except NoSuchObject:
        return None
    return min((one.due_since for one in invoices if one.attempts and one.due_minor > 0), default=None)


def _due_since(subscription: Subscription, invoices: list[OpenInvoice]) -> datetime | None:
    """Since when a payment is missing: the oldest open invoice of the subscription that a payment was tried for."""
    ours = [invoice for invoice in invoices if invoice.subscription_id == subscription.id]
    tried = [invoice for invoice in ours if invoice.attempts]
    return min((invoice.due_since for invoice in tried or ours), default=None)


def _version(account: Account, price_ids: Collection[str]) -> PlanVersion | None:
    """The terms behind these prices; None, and logged, where they are not in the catalogue or another tenant's."""
    known = (
        StripePrices.objects.filter(fee_price_id__in=price_ids)
        .select_related("version__plan")
        .order_by("version_id")
        .first()
    )
    if known is None:
        logger.error(
            "Account %s is on prices that are not in the catalogue: %s. Its terms stay as they were. Put the subscription "
            "on prices of the catalogue, or run manage.py stripe_catalogue.",
            account.pk, ", ".join(sorted(price_ids)),
        )  # fmt: skip
        return None
    if known.version.tenant_id not in {None, account.pk}:
        logger.error("Account %s is on prices agreed with another tenant (%s). Its terms stay.", account.pk, known)
        return None
    return known.version
