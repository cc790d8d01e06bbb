"""What is sold: meter, products and prices."""

from collections.abc import Sequence
from typing import Any

import stripe

from billing import stripe_objects as objects
from billing.stripe_objects import Meter, Price, Product, Tier

from .connection import PAGE, asking, client, every, options, plain

KEYS_AT_ONCE = 10  # lookup keys in one request: Stripe's limit


def find_meter(event_name: str) -> Meter | None:
    """The active meter of this event name."""
    with asking():
        page = client().v1.billing.meters.list({"status": "active", "limit": PAGE})
        found = [objects.read_meter(body) for body in every(page)]
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
    with asking():
        return objects.read_meter(plain(client().v1.billing.meters.create(params, options(key))))


def find_product(product_id: str) -> Product | None:
    with asking():
        try:
            return objects.read_product(plain(client().v1.products.retrieve(product_id)))
        except stripe.InvalidRequestError as error:
            if error.code == "resource_missing":
                return None
            raise


def create_product(*, product_id: str, name: str, key: str) -> Product:
    with asking():
        params: Any = {"id": product_id, "name": name}
        return objects.read_product(plain(client().v1.products.create(params, options(key))))


def find_prices(*, lookup_keys: Sequence[str]) -> dict[str, Price]:
    """The active prices with these lookup keys, by key, each with all its currencies."""
    found: dict[str, Price] = {}
    for start in range(0, len(lookup_keys), KEYS_AT_ONCE):
        params: Any = {
            "lookup_keys": list(lookup_keys[start : start + KEYS_AT_ONCE]), "active": True, "limit": PAGE,
            "expand": ["data.tiers", "data.currency_options"],
        }  # fmt: skip
        with asking():
            for body in every(client().v1.prices.list(params)):
                price = objects.read_price(_with_all_tiers(body))
                found[price.lookup_key] = price
    return found


def _with_all_tiers(price: dict[str, Any]) -> dict[str, Any]:
    """The price with the steps of its other currencies, which Stripe gives only when they are asked for by name."""
    others = sorted({*(price.get("currency_options") or {})} - {price["currency"]})
    if price.get("tiers") is None or not others:
        return price
    expand = ["tiers", "currency_options", *(f"currency_options.{currency}.tiers" for currency in others)]
    return plain(client().v1.prices.retrieve(price["id"], {"expand": expand}))


def is_subscribed_to(price_id: str) -> bool:
    """Whether any subscription that is not over is on the price."""
    with asking():
        return bool(client().v1.subscriptions.list({"price": price_id, "limit": 1}).data)


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
    with asking():
        return objects.read_price(plain(client().v1.prices.create(params, options(key))))


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
