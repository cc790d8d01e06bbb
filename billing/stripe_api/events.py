"""Objects as they are, and events."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import stripe

from billing import stripe_objects as objects
from billing.stripe_objects import Event

from .connection import PAGE, asking, client, every, plain

RETRIEVE: dict[str, Callable[[stripe.StripeClient], Callable[[str], Any]]] = {
    "charge": lambda client: client.v1.charges.retrieve,
    "checkout.session": lambda client: client.v1.checkout.sessions.retrieve,
    "coupon": lambda client: client.v1.coupons.retrieve,
    "customer": lambda client: client.v1.customers.retrieve,
    "dispute": lambda client: client.v1.disputes.retrieve,
    "invoice": lambda client: client.v1.invoices.retrieve,
    "payment_intent": lambda client: client.v1.payment_intents.retrieve,
    "payment_method": lambda client: client.v1.payment_methods.retrieve,
    "price": lambda client: client.v1.prices.retrieve,
    "product": lambda client: client.v1.products.retrieve,
    "refund": lambda client: client.v1.refunds.retrieve,
    "setup_intent": lambda client: client.v1.setup_intents.retrieve,
    "subscription": lambda client: client.v1.subscriptions.retrieve,
    "subscription_schedule": lambda client: client.v1.subscription_schedules.retrieve,
}


def raw(kind: str, object_id: str) -> Any:
    """The object as Stripe's own type, for the mirror; `kind` as Stripe calls it. Raises LookupError for other kinds."""
    retrieve = RETRIEVE[kind]
    with asking():
        found = retrieve(client())(object_id)
        if kind == "invoice" and found["lines"]["has_more"]:  # the object itself has its first lines only
            lines = client().v1.invoices.line_items.list(object_id, {"limit": PAGE})
            found["lines"]["data"], found["lines"]["has_more"] = list(lines.auto_paging_iter()), False
        return found


def account_id() -> str:
    """The id of the Stripe account behind the key."""
    with asking():
        return str(plain(client().v1.accounts.retrieve_current())["id"])


def event(event_id: str) -> Event:
    """A snapshot event."""
    with asking():
        return objects.read_event(plain(client().v1.events.retrieve(event_id)))


def thin_event(event_id: str) -> Event:
    """A thin event, with its data."""
    with asking():
        return objects.read_thin_event(plain(client().v2.core.events.retrieve(event_id)))


def undelivered_events(*, since: datetime) -> Iterator[Event]:
    """Events that an endpoint has not taken yet, the newest first."""
    params: Any = {"delivery_success": False, "created": {"gte": int(since.timestamp())}, "limit": PAGE}
    with asking():
        page = client().v1.events.list(params)
        for body in every(page):
            yield objects.read_event(body)
