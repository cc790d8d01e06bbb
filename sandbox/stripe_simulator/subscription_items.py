"""Items of a subscription: a price, a quantity, and a period of their own."""

from typing import Any

from . import catalogue, lists
from .errors import Json, missing, refused
from .parameters import BOOLEAN, DECIMAL, INTEGER, METADATA, TEXT, one_of
from .routes import paged, route
from .world import World

PRICE_DATA: Json = {
    "currency!": TEXT,
    "product!": TEXT,
    "recurring!": {"interval!": catalogue.INTERVAL, "interval_count": INTEGER},
    "unit_amount": INTEGER,
    "unit_amount_decimal": DECIMAL,
}
ITEM: Json = {"metadata": METADATA, "price": TEXT, "price_data": PRICE_DATA, "quantity": INTEGER}
PRORATION = one_of("always_invoice", "create_prorations", "none")
PAYMENT = one_of("allow_incomplete", "default_incomplete", "error_if_incomplete")


def price_for(world: World, given: Json, *, param: str) -> Json:
    """The price an item names, checked to be one that recurs; raises StripeError."""
    if data := given.get("price_data"):
        return catalogue.new_price(world, data)
    if not given.get("price"):
        raise refused(f"Missing required param: {param}[price].", param=f"{param}[price]", code="parameter_missing")
    price = world.load("price", given["price"], param=f"{param}[price]")
    if not price["active"]:
        raise refused(
            "The price specified is inactive. This field only accepts active prices.", param=f"{param}[price]"
        )
    if not price["recurring"]:
        message = (
            "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`."
        )
        raise refused(message, param=f"{param}[price]")
    return price


def quantity_for(price: Json, given: Any, *, param: str) -> int | None:
    """The quantity: none for a metered price, one unless said for a licensed one."""
    if price["recurring"]["usage_type"] == "metered":
        if given is not None:
            raise refused("You cannot set the quantity for metered prices.", param=f"{param}[quantity]")
        return None
    if given is not None and given < 0:
        raise refused("Invalid quantity: must be 0 or more.", param=f"{param}[quantity]")
    return 1 if given is None else given


def new(world: World, subscription: str, price: Json, quantity: int | None, start: int, end: int) -> Json:  # noqa: PLR0917
    """An item that begins now; metered usage counts from now on, at the price's first step."""
    item: Json = {
        "id": world.new_id("si", 14),
        "object": "subscription_item",
        "billed_until": None,
        "billing_thresholds": None,
        "created": world.now,
        "current_period_end": end,
        "current_period_start": start,
        "discounts": [],
        "metadata": {},
        "plan": plan_of(price),
        "price": price,
        "quantity": quantity,
        "subscription": subscription,
        "tax_rates": [],
        "_usage_from": world.now,
    }
    if quantity is None:
        del item["quantity"]
    return item


def plan_of(price: Json) -> Json:
    """The price in its old clothes, which Stripe still sends along."""
    recurring = price["recurring"]
    return {
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": price["billing_scheme"],
        "created": price["created"],
        "currency": price["currency"],
        "interval": recurring["interval"],
        "interval_count": recurring["interval_count"],
        "livemode": False,
        "metadata": price["metadata"],
        "meter": recurring["meter"],
        "nickname": price["nickname"],
        "product": price["product"],
        "tiers_mode": price["tiers_mode"],
        "transform_usage": price["transform_quantity"],
        "trial_period_days": None,
        "usage_type": recurring["usage_type"],
    }


def is_metered(item: Json) -> bool:
    return bool(item["price"]["recurring"]["usage_type"] == "metered")


def usage_start(item: Json) -> int:
    """From when the item's usage in this period counts."""
    return max(int(item["current_period_start"]), int(item["_usage_from"]))


def index_of(world: World, subscription: Json) -> None:
    """The subscription can be found by its items' ids."""
    for item in subscription["items"]["data"]:
        if world.find("item_of", item["id"]) is None:
            world.save({"id": item["id"], "object": "item_of", "to": subscription["id"]})


def subscription_of_item(world: World, item: str) -> tuple[Json, Json]:
    """Subscription and item; raises StripeError."""
    link = world.find("item_of", item)
    subscription = world.load("subscription", link["to"]) if link else None
    for one in (subscription or {}).get("items", {}).get("data", []):
        if one["id"] == item:
            return subscription or {}, one
    raise missing("subscription_item", item)


@route("GET", "/v1/subscription_items", paged({"subscription!": TEXT}))
def index(world: World, params: Json) -> Json:
    subscription = world.load("subscription", params["subscription"], param="subscription")
    return lists.page(world, params, "/v1/subscription_items", subscription["items"]["data"])


@route("GET", "/v1/subscription_items/{item}")
def retrieve(world: World, params: Json, item: str) -> Json:
    return subscription_of_item(world, item)[1]


CHANGE: Json = {"payment_behavior": PAYMENT, "proration_behavior": PRORATION, "proration_date": INTEGER}


@route("POST", "/v1/subscription_items", {**ITEM, **CHANGE, "subscription!": TEXT})
def create(world: World, params: Json) -> Json:
    from . import changes  # noqa: PLC0415  # a change is made of items

    subscription = world.load("subscription", params["subscription"], param="subscription")
    before = {one["id"] for one in subscription["items"]["data"]}
    changes.apply(world, subscription, {**_common(params), "items": [_item(params)]})
    found: Json = next(one for one in subscription["items"]["data"] if one["id"] not in before)
    return found


@route("POST", "/v1/subscription_items/{item}", {**ITEM, **CHANGE, "off_session": BOOLEAN})
def update(world: World, params: Json, item: str) -> Json:
    from . import changes  # noqa: PLC0415  # a change is made of items

    subscription, _ = subscription_of_item(world, item)
    changes.apply(world, subscription, {**_common(params), "items": [{"id": item, **_item(params)}]})
    return subscription_of_item(world, item)[1]


@route(
    "DELETE",
    "/v1/subscription_items/{item}",
    {"clear_usage": BOOLEAN, "payment_behavior": PAYMENT, "proration_behavior": PRORATION, "proration_date": INTEGER},
)
def delete(world: World, params: Json, item: str) -> Json:
    from . import changes  # noqa: PLC0415  # a change is made of items

    subscription, _ = subscription_of_item(world, item)
    changes.apply(world, subscription, {**_common(params), "items": [{"id": item, "deleted": True}]})
    return {"id": item, "object": "subscription_item", "deleted": True}


def _common(params: Json) -> Json:
    return {name: params[name] for name in CHANGE if name in params}


def _item(params: Json) -> Json:
    return {name: params[name] for name in ITEM if name in params}
