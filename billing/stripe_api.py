"""The only door to Stripe: our types go in and come out, and what goes wrong is one of our errors.

Nothing is repeated here: a write takes an idempotency key, so that its caller may ask again without a second effect. Where
the answer is lost or unreadable it is StripeUnavailable, and whoever asked looks at what Stripe has now.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import stripe
from django.conf import settings

from . import stripe_objects as objects
from .errors import (
    AlreadyDelivered,
    BadSignature,
    CardRefused,
    NoSuchObject,
    SavedFailure,
    StripeError,
    StripeNotConfigured,
    StripeRefused,
    StripeUnavailable,
)
from .models import StripePrices
from .signatures import verified
from .stripe_objects import (
    Checkout,
    Event,
    InvoiceLine,
    Item,
    Meter,
    OpenInvoice,
    Preview,
    PreviewLine,
    Price,
    Product,
    Subscription,
    Tier,
)

__all__ = [
    "AlreadyDelivered", "BadSignature", "CardRefused", "Checkout", "Event", "InvoiceLine", "Item", "Meter", "NoSuchObject",
    "OpenInvoice", "Preview", "PreviewLine", "Price", "Product", "SavedFailure", "StripeError", "StripeNotConfigured",
    "StripeRefused", "StripeUnavailable", "Subscription", "Tier", "verified",
]  # fmt: skip

PAGE = 100
KEYS_AT_ONCE = 10  # lookup keys in one request: Stripe's limit
SECRET = re.compile(r"\b(?:sk|rk|pk|whsec)_[A-Za-z0-9_*]+")
KNOWN_IDENTIFIER = "already exists with identifier"


# -- The connection ------------------------------------------------------------------------------------------------------
def secret_key() -> str:
    """The key of this deployment's mode; raises StripeNotConfigured, naming the setting."""
    if problem := _key_problem():  # raised here, where no variable holds the key: a debug page shows variables
        raise StripeNotConfigured(problem)
    return str(settings.STRIPE_LIVE_SECRET_KEY if settings.STRIPE_LIVE_MODE else settings.STRIPE_TEST_SECRET_KEY)


def _key_problem() -> str:
    mode = "live" if settings.STRIPE_LIVE_MODE else "test"
    name = f"STRIPE_{mode.upper()}_SECRET_KEY"
    if not getattr(settings, name):
        return f"Stripe is not connected: set {name}."
    if not re.match(rf"(?:sk|rk)_{mode}_", getattr(settings, name)):
        return f"{name} is not a secret or restricted key of {mode} mode. Set another, or STRIPE_LIVE_MODE."
    return ""


def _client() -> stripe.StripeClient:
    """The client for the settings of this moment: a rotated key is used from the next request on."""
    return _client_of(
        secret_key(), settings.STRIPE_API_BASE, settings.STRIPE_API_VERSION, settings.STRIPE_TIMEOUT_SECONDS, os.getpid()
    )  # fmt: skip


@lru_cache(maxsize=4)
def _client_of(key: str, base: str, version: str, timeout: float, _pid: int) -> stripe.StripeClient:
    """`_pid`: a forked process does not share its parent's connections."""
    return stripe.StripeClient(
        key,
        stripe_version=version,
        base_addresses=_addresses(base),
        max_network_retries=0,
        http_client=stripe.RequestsClient(timeout=timeout),
    )


def _addresses(base: str) -> Any:
    """Where to ask: Stripe keeps meter event streams at a host of their own, a stand-in has one address for all."""
    if base == settings.STRIPE_REAL_API:
        return {}
    return {"api": base, "meter_events": base, "files": base, "connect": base}


def share_address() -> str:
    """dj-stripe, which asks by itself for objects that ours refer to, uses the same host; returns the key to give it."""
    stripe.api_base = settings.STRIPE_API_BASE
    return secret_key()


def _options(key: str) -> stripe.RequestOptions:
    return {"idempotency_key": key}


@contextmanager
def _asking() -> Iterator[None]:
    """What happens inside ends well or in one of our errors, without the library's, which may quote what was sent."""
    try:
        yield
    except stripe.StripeError as error:
        raise _translated(error) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StripeUnavailable(
            f"Stripe's answer could not be read ({type(error).__name__}: {_safe(error)}). Check STRIPE_API_BASE and "
            "STRIPE_API_VERSION; it is tried again."
        ) from None


def _safe(text: object) -> str:
    """The text without anything that looks like a key or secret, in one line."""
    return " ".join(SECRET.sub("[removed]", str(text)).split())[:500]


def _translated(error: stripe.StripeError) -> StripeError:
    said = _safe(error.user_message or "no reason given")
    request = f" (request {_safe(error.request_id)})" if error.request_id else ""
    match error:
        case stripe.AuthenticationError() | stripe.PermissionError():
            name = "STRIPE_LIVE_SECRET_KEY" if settings.STRIPE_LIVE_MODE else "STRIPE_TEST_SECRET_KEY"
            return StripeNotConfigured(f"Stripe does not accept the key in {name} for this: {said}{request}")
        case stripe.CardError() | stripe.InvalidRequestError() | stripe.IdempotencyError():
            return _refusal(error, said, request)
        case stripe.RateLimitError():
            return StripeUnavailable(f"Stripe asks for fewer requests: {said}{request}")
        case stripe.APIConnectionError():
            return StripeUnavailable(
                f"Stripe cannot be reached, or gave no answer within {settings.STRIPE_TIMEOUT_SECONDS:g} s. It is tried "
                "again; if it lasts, check the network, STRIPE_API_BASE and status.stripe.com."
            )
    is_saved = {name.lower(): value for name, value in (error.headers or {}).items()}.get(
        "idempotent-replayed"
    ) == "true"
    kind = SavedFailure if is_saved else StripeUnavailable
    return kind(f"Stripe failed with HTTP {error.http_status or 'status unknown'}: {said}{request}")


def _refusal(error: stripe.StripeError, said: str, request: str) -> StripeRefused:
    code, param = str(error.code or ""), str(getattr(error, "param", None) or "")
    if isinstance(error, stripe.CardError):
        return CardRefused(said, code=code, param=param)
    if isinstance(error, stripe.IdempotencyError):
        said, code = f"Stripe knows this idempotency key with other parameters: {said}", "idempotency_error"
    kind = StripeRefused
    if code == "resource_missing":
        kind = NoSuchObject
    elif KNOWN_IDENTIFIER in said:
        kind = AlreadyDelivered
    return kind(f"{said}{request}", code=code, param=param)


def _plain(answer: Any) -> dict[str, Any]:
    """The answer as a dict; a body that is no object is unreadable."""
    plain: dict[str, Any] = answer.to_dict(for_json=True)
    return plain


def _all(page: Any) -> Iterator[dict[str, Any]]:
    """Every object of a list, page by page."""
    for one in page.auto_paging_iter():
        yield _plain(one)


# -- Customers -----------------------------------------------------------------------------------------------------------
def create_customer(*, tenant_id: UUID, name: str, email: str, key: str) -> str:
    """The tenant has a customer at Stripe; returns its id."""
    with _asking():
        made = _client().v1.customers.create(
            {"name": name, "email": email, "metadata": {"tenant_id": str(tenant_id)}}, _options(key)
        )
        return str(_plain(made)["id"])


def find_customer(*, tenant_id: UUID) -> str | None:
    """The tenant's customer that an earlier try made, the newest. Stripe's search may lag a minute behind."""
    with _asking():
        query = f"metadata['tenant_id']:'{tenant_id}'"
        found = [_plain(one) for one in _client().v1.customers.search({"query": query, "limit": PAGE}).data]
    alive = [one for one in found if not one.get("deleted")]
    return str(max(alive, key=lambda one: one["created"])["id"]) if alive else None


def tenant_of(customer_id: str) -> str | None:
    """The tenant id that a customer names; None when it was deleted or names none."""
    with _asking():
        body = _plain(_client().v1.customers.retrieve(customer_id))
        return None if body.get("deleted") else (body.get("metadata") or {}).get("tenant_id")


def has_customer(customer_id: str) -> bool:
    """Whether Stripe has this customer: it was not deleted, and is not of another Stripe account."""
    with _asking():
        try:
            return not _plain(_client().v1.customers.retrieve(customer_id)).get("deleted")
        except stripe.InvalidRequestError as error:
            if error.code == "resource_missing":
                return False
            raise


def card_of(customer_id: str) -> str:
    """The payment method that an invoice is charged to: the customer's default, else the newest; empty without one."""
    with _asking():
        body = _plain(_client().v1.customers.retrieve(customer_id))
        default = objects.id_of((body.get("invoice_settings") or {}).get("default_payment_method"))
        if default or body.get("deleted"):
            return default
        known = [_plain(one) for one in _client().v1.customers.payment_methods.list(customer_id, {"limit": PAGE}).data]
        return str(max(known, key=lambda one: one["created"])["id"]) if known else ""


def give_card(*, customer_id: str, card: str, key: str) -> None:
    """The customer's invoices are charged to this payment method; in test mode one of Stripe's test cards, as `pm_card_visa`."""
    with _asking():
        attached = _plain(
            _client().v1.payment_methods.attach(card, {"customer": customer_id}, _options(f"{key}-attach"))
        )
        _client().v1.customers.update(
            customer_id, {"invoice_settings": {"default_payment_method": attached["id"]}}, _options(f"{key}-use")
        )


# -- Pages of Stripe -----------------------------------------------------------------------------------------------------
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
        "line_items": _new_items(prices),
        "currency": currency,
        "allow_promotion_codes": True,
        "success_url": success_url,
        "cancel_url": cancel_url,
        "metadata": {**about, "version": str(prices.version_id), "currency": currency},
        "subscription_data": subscription,
    }
    with _asking():
        return objects.read_checkout(_plain(_client().v1.checkout.sessions.create(params, _options(key))))


def create_card_setup(*, customer_id: str, success_url: str, cancel_url: str, key: str) -> Checkout:
    """A page on which the customer leaves a card for later; nothing is charged."""
    params: Any = {
        "mode": "setup",
        "customer": customer_id,
        "payment_method_types": ["card"],
        "success_url": success_url,
        "cancel_url": cancel_url,
    }
    with _asking():
        return objects.read_checkout(_plain(_client().v1.checkout.sessions.create(params, _options(key))))


def checkout(checkout_id: str) -> Checkout:
    """The page's present state."""
    with _asking():
        return objects.read_checkout(_plain(_client().v1.checkout.sessions.retrieve(checkout_id)))


def checkouts_of(customer_id: str) -> list[Checkout]:
    """The customer's latest pages, the newest first, whatever became of them."""
    with _asking():
        page = _client().v1.checkout.sessions.list({"customer": customer_id, "limit": PAGE})
        return [objects.read_checkout(_plain(one)) for one in page.data]


def expire_checkout(checkout_id: str, *, key: str) -> None:
    """The page takes no payment any more; one that was paid or had expired stays as it is."""
    with _asking():
        try:
            _client().v1.checkout.sessions.expire(checkout_id, {}, _options(key))
        except stripe.InvalidRequestError:
            if _plain(_client().v1.checkout.sessions.retrieve(checkout_id))["status"] == "open":
                raise


def create_portal(*, customer_id: str, return_url: str, flow: str = "") -> str:
    """The address of Stripe's page for cards, tax id and address; with `flow` it opens at that step."""
    params: Any = {"customer": customer_id, "return_url": return_url}
    if flow:
        params["flow_data"] = {"type": flow}
    with _asking():
        return str(_plain(_client().v1.billing_portal.sessions.create(params))["url"])


# -- Subscriptions -------------------------------------------------------------------------------------------------------
def _new_items(prices: StripePrices) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = [{"price": prices.fee_price_id, "quantity": 1}]
    if prices.usage_price_id:
        items.append({"price": prices.usage_price_id})  # metered: a quantity is refused
    return items


def _replacing_items(subscription: Subscription, prices: StripePrices) -> list[dict[str, Any]]:
    return [*({"id": item.id, "deleted": True} for item in subscription.items), *_new_items(prices)]


def subscriptions_of(customer_id: str) -> list[Subscription]:
    """All of the customer's subscriptions in any state, the newest first."""
    with _asking():
        page = _client().v1.subscriptions.list({"customer": customer_id, "status": "all", "limit": PAGE})
        found = [objects.read_subscription(body) for body in _all(page)]
    return sorted(found, key=lambda one: (one.started_at, one.id), reverse=True)


def subscription(subscription_id: str) -> Subscription:
    with _asking():
        return objects.read_subscription(_plain(_client().v1.subscriptions.retrieve(subscription_id)))


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
        "items": _new_items(prices),
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
    with _asking():
        return objects.read_subscription(_plain(_client().v1.subscriptions.create(params, _options(key))))


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
    with _asking():
        answer = _client().v1.invoices.create_preview(params)
        lines = [_plain(line) for line in answer.lines.auto_paging_iter()]
        return objects.read_preview(_plain(answer), lines, proration_at=at)


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
    with _asking():
        changed = _client().v1.subscriptions.update(subscription.id, params, _options(key))
        return objects.read_subscription(_plain(changed))


def schedule_prices(*, subscription: Subscription, prices: StripePrices, currency: str, key: str) -> str:
    """From the period's end on the subscription is on these prices; returns the schedule's id."""
    if subscription.currency != currency:
        raise StripeRefused(f"The subscription is in {subscription.currency}: Stripe cannot change it to {currency}.")
    with _asking():
        schedules = _client().v1.subscription_schedules
        if subscription.schedule_id:
            made = schedules.retrieve(subscription.schedule_id)
        else:
            made = schedules.create({"from_subscription": subscription.id}, _options(f"{key}-create"))
        body = _plain(made)
        params: Any = {"end_behavior": "release", "phases": [_running_phase(body, subscription), _next_phase(prices)]}
        schedules.update(body["id"], params, _options(f"{key}-phases"))
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
        "items": _new_items(prices),
        "duration": {"interval": "month", "interval_count": 1},  # afterwards the schedule lets go of the subscription
        "proration_behavior": "none",
    }


def release_schedule(*, schedule_id: str, key: str) -> None:
    """The scheduled change does not happen; one that is over or was released stays as it is."""
    with _asking():
        try:
            _client().v1.subscription_schedules.release(schedule_id, {}, _options(key))
        except stripe.InvalidRequestError:
            if _plain(_client().v1.subscription_schedules.retrieve(schedule_id))["status"] in {"active", "not_started"}:
                raise


def scheduled_prices(schedule_id: str, *, after: datetime) -> frozenset[str]:
    """The prices of the phase that begins after this instant; empty without one."""
    with _asking():
        body = _plain(_client().v1.subscription_schedules.retrieve(schedule_id))
        if body["status"] not in {"active", "not_started"}:
            return frozenset()
        coming = [phase for phase in body["phases"] if phase["start_date"] > after.timestamp()]
        if not coming:
            return frozenset()
        first = min(coming, key=lambda phase: phase["start_date"])
        return frozenset(objects.id_of(item["price"]) for item in first["items"])


def set_cancels_at_period_end(*, subscription_id: str, cancels: bool, key: str) -> Subscription:
    """The subscription ends with its period, or goes on."""
    with _asking():
        changed = _client().v1.subscriptions.update(subscription_id, {"cancel_at_period_end": cancels}, _options(key))
        return objects.read_subscription(_plain(changed))


def open_invoices(customer_id: str) -> list[OpenInvoice]:
    """Invoices that wait for payment, the oldest first."""
    with _asking():
        page = _client().v1.invoices.list({"customer": customer_id, "status": "open", "limit": PAGE})
        found = [objects.read_open_invoice(body) for body in _all(page)]
    return sorted(found, key=lambda one: (one.created_at, one.id))


def invoice_lines(*, customer_id: str, since: datetime) -> list[InvoiceLine]:
    """The lines of the customer's invoices from then on, drafts among them; those of voided invoices count no more."""
    params: Any = {"customer": customer_id, "created": {"gte": int(since.timestamp())}, "limit": PAGE}
    found: list[InvoiceLine] = []
    with _asking():
        for invoice in _all(_client().v1.invoices.list(params)):
            if invoice["status"] != "void":
                found += [objects.read_invoice_line(invoice, line) for line in _lines_of(invoice)]
    return found


def _lines_of(invoice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All lines: an invoice in a list brings its first ten."""
    if invoice["lines"].get("has_more"):
        yield from _all(_client().v1.invoices.line_items.list(invoice["id"], {"limit": PAGE}))
    else:
        yield from invoice["lines"]["data"]


# -- Usage ---------------------------------------------------------------------------------------------------------------
def send_meter_event(*, identifier: str, customer_id: str, value: int, at: datetime, key: str | None = None) -> None:
    """Stripe has taken a quantity, counted at this instant. AlreadyDelivered: it had the identifier before."""
    params: Any = {
        "event_name": settings.BILLING["METER_EVENT_NAME"],
        "identifier": identifier,
        "timestamp": int(at.timestamp()),
        "payload": {"stripe_customer_id": customer_id, "value": str(value)},
    }
    with _asking():
        _client().v1.billing.meter_events.create(params, _options(key or identifier))


def meter_total(*, meter_id: str, customer_id: str, start: datetime, end: datetime) -> int:
    """What Stripe has counted from start to end, both on whole minutes. It lags behind the events by a while."""
    params: Any = {
        "customer": customer_id, "start_time": int(start.timestamp()), "end_time": int(end.timestamp()), "limit": PAGE,
    }  # fmt: skip
    with _asking():
        page = _client().v1.billing.meters.event_summaries.list(meter_id, params)
        return sum(int(body["aggregated_value"]) for body in _all(page))  # whole: only whole numbers are sent


# -- Catalogue -----------------------------------------------------------------------------------------------------------
def find_meter(event_name: str) -> Meter | None:
    """The active meter of this event name."""
    with _asking():
        page = _client().v1.billing.meters.list({"status": "active", "limit": PAGE})
        found = [objects.read_meter(body) for body in _all(page)]
    return next((meter for meter in found if meter.event_name == event_name), None)


def create_meter(*, event_name: str, name: str, key: str) -> Meter:
    """A meter sums the values of these events by customer."""
    params: Any = {
        "display_name": name,
        "event_name": event_name,
        "default_aggregation": {"formula": "sum"},
        "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
        "value_settings": {"event_payload_key": "value"},
    }
    with _asking():
        return objects.read_meter(_plain(_client().v1.billing.meters.create(params, _options(key))))


def find_product(product_id: str) -> Product | None:
    with _asking():
        try:
            return objects.read_product(_plain(_client().v1.products.retrieve(product_id)))
        except stripe.InvalidRequestError as error:
            if error.code == "resource_missing":
                return None
            raise


def create_product(*, product_id: str, name: str, key: str) -> Product:
    with _asking():
        params: Any = {"id": product_id, "name": name}
        return objects.read_product(_plain(_client().v1.products.create(params, _options(key))))


def find_prices(*, lookup_keys: Sequence[str]) -> dict[str, Price]:
    """The active prices with these lookup keys, by key, each with all its currencies."""
    found: dict[str, Price] = {}
    for start in range(0, len(lookup_keys), KEYS_AT_ONCE):
        params: Any = {
            "lookup_keys": list(lookup_keys[start : start + KEYS_AT_ONCE]), "active": True, "limit": PAGE,
            "expand": ["data.tiers", "data.currency_options"],
        }  # fmt: skip
        with _asking():
            for body in _all(_client().v1.prices.list(params)):
                price = objects.read_price(_with_all_tiers(body))
                found[price.lookup_key] = price
    return found


def _with_all_tiers(price: dict[str, Any]) -> dict[str, Any]:
    """The price with the steps of its other currencies, which Stripe gives only when they are asked for by name."""
    others = sorted({*(price.get("currency_options") or {})} - {price["currency"]})
    if price.get("tiers") is None or not others:
        return price
    expand = ["tiers", "currency_options", *(f"currency_options.{currency}.tiers" for currency in others)]
    return _plain(_client().v1.prices.retrieve(price["id"], {"expand": expand}))


def is_subscribed_to(price_id: str) -> bool:
    """Whether any subscription that is not over is on the price."""
    with _asking():
        return bool(_client().v1.subscriptions.list({"price": price_id, "limit": 1}).data)


def create_price(*, price: Price, currency: str, replaces: bool, key: str) -> Price:
    """The price exists; `price.id` is ignored. All its currencies are made with it; `replaces` takes the lookup key over."""
    params: Any = {
        "product": price.product_id,
        "currency": currency,
        "lookup_key": price.lookup_key,
        "transfer_lookup_key": replaces,
        "recurring": {"interval": "month", "usage_type": "metered" if price.meter_id else "licensed"},
        **_price_terms(price.terms[currency], is_tiered=bool(price.meter_id)),
    }
    if price.meter_id:
        params |= {"billing_scheme": "tiered", "tiers_mode": "graduated"}
        params["recurring"]["meter"] = price.meter_id
    others = {name: tiers for name, tiers in price.terms.items() if name != currency}
    if others:
        params["currency_options"] = {
            name: _price_terms(tiers, is_tiered=bool(price.meter_id)) for name, tiers in others.items()
        }
    with _asking():
        return objects.read_price(_plain(_client().v1.prices.create(params, _options(key))))


def _price_terms(tiers: Sequence[Tier], *, is_tiered: bool) -> dict[str, Any]:
    if not is_tiered:
        return {"unit_amount_decimal": format(tiers[0].unit_price_minor, "f")}
    return {
        "tiers": [
            {
                "up_to": "inf" if tier.up_to is None else tier.up_to,
                "unit_amount_decimal": format(tier.unit_price_minor, "f"),
            }
            for tier in tiers
        ]
    }


# -- Objects as they are, and events -------------------------------------------------------------------------------------
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
    with _asking():
        return retrieve(_client())(object_id)


def account_id() -> str:
    """The id of the Stripe account behind the key."""
    with _asking():
        return str(_plain(_client().v1.accounts.retrieve_current())["id"])


def event(event_id: str) -> Event:
    """A snapshot event."""
    with _asking():
        return objects.read_event(_plain(_client().v1.events.retrieve(event_id)))


def thin_event(event_id: str) -> Event:
    """A thin event, with its data."""
    with _asking():
        return objects.read_thin_event(_plain(_client().v2.core.events.retrieve(event_id)))


def undelivered_events(*, since: datetime) -> Iterator[Event]:
    """Events that an endpoint has not taken yet, the newest first."""
    params: Any = {"delivery_success": False, "created": {"gte": int(since.timestamp())}, "limit": PAGE}
    with _asking():
        page = _client().v1.events.list(params)
        for body in _all(page):
            yield objects.read_event(body)
