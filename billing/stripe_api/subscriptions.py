"""Subscriptions: begun, read, previewed, changed and ended."""

from datetime import datetime
from typing import Any
from uuid import UUID

import stripe

from billing import stripe_objects as objects
from billing.errors import StripeRefused
from billing.models import StripePrices
from billing.stripe_objects import Preview, Subscription

from .connection import PAGE, asking, client, every, options, plain
from .customers import card_of


def new_items(prices: StripePrices) -> list[dict[str, Any]]:
    """What a subscription under these prices is made of."""
    items: list[dict[str, Any]] = [{"price": prices.fee_price_id, "quantity": 1}]
    if prices.usage_price_id:
        items.append({"price": prices.usage_price_id})  # metered: a quantity is refused
    return items


def _replacing_items(subscription: Subscription, prices: StripePrices) -> list[dict[str, Any]]:
    return [*({"id": item.id, "deleted": True} for item in subscription.items), *new_items(prices)]


def subscriptions_of(customer_id: str) -> list[Subscription]:
    """All of the customer's subscriptions in any state, the newest first."""
    with asking():
        page = client().v1.subscriptions.list({"customer": customer_id, "status": "all", "limit": PAGE})
        found = [objects.read_subscription(body) for body in every(page)]
    return sorted(found, key=lambda one: (one.started_at, one.id), reverse=True)


def subscription(subscription_id: str) -> Subscription:
    with asking():
        return objects.read_subscription(plain(client().v1.subscriptions.retrieve(subscription_id)))


def subscribe(
    *,
    customer_id: str,
    tenant_id: UUID,
    prices: StripePrices,
    currency: str,
    anchor: datetime | None,
    backdated_to: datetime | None = None,
    key: str,
) -> Subscription:
    """The customer is subscribed and has paid, or CardRefused and nothing happened.

    `anchor` is a coming instant at which the next period begins; None: a month from now.
    """
    params: Any = {
        "customer": customer_id,
        "items": new_items(prices),
        "currency": currency,
        "metadata": {"tenant_id": str(tenant_id)},
        "billing_mode": {"type": "flexible"},
        "payment_behavior": "error_if_incomplete",
        "off_session": True,
    }
    if anchor:
        params["billing_cycle_anchor"] = int(anchor.timestamp())
    if backdated_to:
        params["backdate_start_date"] = int(backdated_to.timestamp())
    if card := card_of(customer_id):
        params["default_payment_method"] = card
    with asking():
        return objects.read_subscription(plain(client().v1.subscriptions.create(params, options(key))))


def preview_replacement(*, subscription: Subscription, prices: StripePrices, currency: str, at: datetime) -> Preview:
    """What Stripe would invoice at once for `replace_prices` at this instant."""
    params: Any = {
        "subscription": subscription.id,
        "currency": currency,
        "subscription_details": {
            "items": _replacing_items(subscription, prices),
            "proration_behavior": "always_invoice",
            "proration_date": int(at.timestamp()),
        },
    }
    return _preview(params, at)


def preview_next_invoice(*, subscription_id: str) -> Preview:
    """The invoice at the period's end, with the usage that Stripe has heard of so far."""
    return _preview({"subscription": subscription_id}, None)


def _preview(params: Any, at: datetime | None) -> Preview:
    with asking():
        answer = client().v1.invoices.create_preview(params)
        lines = [plain(line) for line in answer.lines.auto_paging_iter()]
        return objects.read_preview(plain(answer), lines, proration_at=at)


def replace_prices(
    *, subscription: Subscription, prices: StripePrices, currency: str, at: datetime, key: str
) -> Subscription:
    """The subscription is on these prices and the difference is paid, or CardRefused and nothing changed.

    Usage that was reported so far is invoiced under the old price. `at` is the instant of the preview that was agreed to.
    """
    if subscription.currency != currency:
        raise StripeRefused(f"The subscription is in {subscription.currency}: Stripe cannot change it to {currency}.")
    params: Any = {
        "items": _replacing_items(subscription, prices),
        "proration_behavior": "always_invoice",
        "payment_behavior": "error_if_incomplete",
        "proration_date": int(at.timestamp()),
        "off_session": True,
    }
    with asking():
        changed = client().v1.subscriptions.update(subscription.id, params, options(key))
        return objects.read_subscription(plain(changed))


def schedule_prices(*, subscription: Subscription, prices: StripePrices, currency: str, key: str) -> str:
    """From the period's end on the subscription is on these prices; returns the schedule's id."""
    if subscription.currency != currency:
        raise StripeRefused(f"The subscription is in {subscription.currency}: Stripe cannot change it to {currency}.")
    with asking():
        schedules = client().v1.subscription_schedules
        if subscription.schedule_id:
            made = schedules.retrieve(subscription.schedule_id)
        else:
            made = schedules.create({"from_subscription": subscription.id}, options(f"{key}-create"))
        body = plain(made)
        params: Any = {"end_behavior": "release", "phases": [_running_phase(body, subscription), _next_phase(prices)]}
        schedules.update(body["id"], params, options(f"{key}-phases"))
        return str(body["id"])


def _running_phase(schedule: dict[str, Any], subscription: Subscription) -> dict[str, Any]:
    """The phase that the subscription is in, as Stripe has it: it ends with the period."""
    known = schedule["phases"][0]
    phase: dict[str, Any] = {
        "items": [
            {"price": objects.id_of(item["price"]), **({"quantity": item["quantity"]} if item.get("quantity") else {})}
            for item in known["items"]
        ],
        "start_date": known["start_date"],
        "end_date": int(min(item.period_end for item in subscription.items).timestamp()),
    }
    if known.get("trial_end"):
        phase["trial_end"] = known["trial_end"]
    return phase


def _next_phase(prices: StripePrices) -> dict[str, Any]:
    return {
        "items": new_items(prices),
        "duration": {"interval": "month", "interval_count": 1},  # afterwards the schedule lets go of the subscription
        "proration_behavior": "none",
    }


def release_schedule(*, schedule_id: str, key: str) -> None:
    """The scheduled change does not happen; one that is over or was released stays as it is."""
    with asking():
        try:
            client().v1.subscription_schedules.release(schedule_id, {}, options(key))
        except stripe.InvalidRequestError:
            if plain(client().v1.subscription_schedules.retrieve(schedule_id))["status"] in {"active", "not_started"}:
                raise


def scheduled_prices(schedule_id: str, *, after: datetime) -> frozenset[str]:
    """The prices of the phase that begins after this instant; empty without one."""
    with asking():
        body = plain(client().v1.subscription_schedules.retrieve(schedule_id))
        if body["status"] not in {"active", "not_started"}:
            return frozenset()
        coming = [phase for phase in body["phases"] if phase["start_date"] > after.timestamp()]
        if not coming:
            return frozenset()
        first = min(coming, key=lambda phase: phase["start_date"])
        return frozenset(objects.id_of(item["price"]) for item in first["items"])


def set_cancels_at_period_end(*, subscription_id: str, cancels: bool, key: str) -> Subscription:
    """The subscription ends with its period, or goes on."""
    with asking():
        changed = client().v1.subscriptions.update(subscription_id, {"cancel_at_period_end": cancels}, options(key))
        return objects.read_subscription(plain(changed))
