"""Pages of Stripe on which customers pay, leave a card, or change their details."""

from typing import Any
from uuid import UUID

import stripe

from billing import stripe_objects as objects
from billing.models import StripePrices
from billing.stripe_objects import Checkout

from .connection import PAGE, asking, client, options, plain
from .subscriptions import new_items


def create_checkout(
    *,
    customer_id: str,
    tenant_id: UUID,
    prices: StripePrices,
    currency: str,
    trial_days: int,
    success_url: str,
    cancel_url: str,
    key: str,
) -> Checkout:
    """A page on which the customer pays for these prices; the subscription exists once it has paid."""
    about = {"tenant_id": str(tenant_id)}
    subscription: dict[str, Any] = {"metadata": about, "billing_mode": {"type": "flexible"}}
    if trial_days:
        subscription["trial_period_days"] = trial_days
    params: Any = {
        "mode": "subscription",
        "customer": customer_id,
        "client_reference_id": str(tenant_id),
        "line_items": new_items(prices),
        "currency": currency,
        "allow_promotion_codes": True,
        "success_url": success_url,
        "cancel_url": cancel_url,
        "metadata": {**about, "version": str(prices.version_id), "currency": currency},
        "subscription_data": subscription,
    }
    with asking():
        return objects.read_checkout(plain(client().v1.checkout.sessions.create(params, options(key))))


def create_card_setup(*, customer_id: str, success_url: str, cancel_url: str, key: str) -> Checkout:
    """A page on which the customer leaves a card for later; nothing is charged."""
    params: Any = {
        "mode": "setup",
        "customer": customer_id,
        "payment_method_types": ["card"],
        "success_url": success_url,
        "cancel_url": cancel_url,
    }
    with asking():
        return objects.read_checkout(plain(client().v1.checkout.sessions.create(params, options(key))))


def checkout(checkout_id: str) -> Checkout:
    """The page's present state."""
    with asking():
        return objects.read_checkout(plain(client().v1.checkout.sessions.retrieve(checkout_id)))


def checkouts_of(customer_id: str) -> list[Checkout]:
    """The customer's latest pages, the newest first, whatever became of them."""
    with asking():
        page = client().v1.checkout.sessions.list({"customer": customer_id, "limit": PAGE})
        return [objects.read_checkout(plain(one)) for one in page.data]


def expire_checkout(checkout_id: str, *, key: str) -> None:
    """The page takes no payment any more; one that was paid or had expired stays as it is."""
    with asking():
        try:
            client().v1.checkout.sessions.expire(checkout_id, {}, options(key))
        except stripe.InvalidRequestError:
            if plain(client().v1.checkout.sessions.retrieve(checkout_id))["status"] == "open":
                raise


def create_portal(*, customer_id: str, return_url: str, flow: str = "") -> str:
    """The address of Stripe's page for cards, tax id and address; with `flow` it opens at that step."""
    params: Any = {"customer": customer_id, "return_url": return_url}
    if flow:
        params["flow_data"] = {"type": flow}
    with asking():
        return str(plain(client().v1.billing_portal.sessions.create(params))["url"])
