"""Prices: licensed, and metered with graduated tiers."""

from decimal import Decimal
from typing import Any

from . import lists
from .errors import Json, refused, unreadable
from .parameters import (
    BOOLEAN,
    CLEAR,
    DECIMAL,
    INTEGER,
    METADATA,
    RANGE,
    TEXT,
    chosen,
    merged_metadata,
    one_of,
)
from .products import new_product
from .routes import in_range, paged, route
from .world import World

INTERVAL = one_of("day", "week", "month", "year")
TIERS: Json | list[Json] = [
    {
        "flat_amount": INTEGER,
        "flat_amount_decimal": DECIMAL,
        "unit_amount": INTEGER,
        "unit_amount_decimal": DECIMAL,
        "up_to!": (one_of("inf"), INTEGER),
    }
]
TAX_BEHAVIOR = one_of("exclusive", "inclusive", "unspecified")
AMOUNTS: Json = {"tax_behavior": TAX_BEHAVIOR, "tiers": TIERS, "unit_amount": INTEGER, "unit_amount_decimal": DECIMAL}
CURRENCY_OPTIONS = dict.fromkeys(("usd", "eur", "gbp", "chf", "sek", "dkk", "nok", "jpy", "cad", "aud"), AMOUNTS)
RECURRING: Json = {
    "interval!": INTERVAL,
    "interval_count": INTEGER,
    "meter": TEXT,
    "usage_type": one_of("licensed", "metered"),
}
PRICE_CREATE: Json = {
    **AMOUNTS,
    "active": BOOLEAN,
    "billing_scheme": one_of("per_unit", "tiered"),
    "currency!": TEXT,
    "currency_options": CURRENCY_OPTIONS,
    "lookup_key": TEXT,
    "metadata": METADATA,
    "nickname": TEXT,
    "product": TEXT,
    "product_data": {"id": TEXT, "name!": TEXT, "active": BOOLEAN, "metadata": METADATA, "unit_label": TEXT},
    "recurring": RECURRING,
    "tiers_mode": one_of("graduated", "volume"),
    "transfer_lookup_key": BOOLEAN,
    "transform_quantity": {"divide_by!": INTEGER, "round!": one_of("down", "up")},
}


@route("POST", "/v1/prices", PRICE_CREATE)
def create_price(world: World, params: Json) -> Json:
    return new_price(world, params)


def new_price(world: World, params: Json) -> Json:
    """A price, also one that is made inline (`price_data`)."""
    if data := params.get("product_data"):
        params = {**params, "product": new_product(world, data)["id"]}
    if not params.get("product"):
        raise unreadable("Missing required param: product.", param="product", code="parameter_missing")
    world.load("product", params["product"], param="product")
    currency = params["currency"].lower()
    amounts = _amounts(params)
    options = {code: _amounts({**params, **given}) for code, given in (params.get("currency_options") or {}).items()}
    price = {
        "id": world.new_id("price"),
        "object": "price",
        "active": params.get("active", True),
        "billing_scheme": params.get("billing_scheme") or "per_unit",
        "created": world.now,
        "currency": currency,
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": _lookup_key(world, params),
        "metadata": params.get("metadata") or {},
        "nickname": params.get("nickname"),
        "product": params["product"],
        "recurring": _recurring(world, params.get("recurring")),
        "tax_behavior": params.get("tax_behavior") or "unspecified",
        "tiers_mode": params.get("tiers_mode"),
        "transform_quantity": params.get("transform_quantity"),
        "type": "recurring" if params.get("recurring") else "one_time",
        "unit_amount": amounts["unit_amount"],
        "unit_amount_decimal": amounts["unit_amount_decimal"],
        "_tiers": amounts["_tiers"],
        "_currency_options": {currency: amounts, **options},
    }
    return world.add(price, "price.created")


def _amounts(given: Json) -> Json:
    """Unit amount or tiers of a price in one currency; raises StripeError where they do not fit the scheme."""
    tiers = given.get("tiers")
    if given.get("billing_scheme") == "tiered":
        if given.get("transform_quantity"):
            raise refused("You may only specify one of these parameters: transform_quantity, tiers.")
        if not tiers or not given.get("tiers_mode"):
            raise refused("`tiers` and `tiers_mode` are required when `billing_scheme=tiered`.", param="tiers")
        amounts: Json = {"unit_amount": None, "unit_amount_decimal": None, "_tiers": _tiers(tiers)}
    elif tiers:
        raise refused("`tiers` needs `billing_scheme=tiered`.", param="tiers")
    else:
        amounts = {**_unit(given, "unit_amount", required=True), "_tiers": None}
    return {**amounts, "custom_unit_amount": None, "tax_behavior": given.get("tax_behavior") or "unspecified"}


def _tiers(given: list[Json]) -> list[Json]:
    bounds = [tier["up_to"] for tier in given]
    if bounds[-1] != "inf" or "inf" in bounds[:-1] or bounds[:-1] != sorted(set(bounds[:-1])):
        raise refused("Tiers must be in order and the last one must have `up_to=inf`.", param="tiers")
    return [
        {
            **_unit(tier, "flat_amount"),
            **_unit(tier, "unit_amount"),
            "up_to": None if tier["up_to"] == "inf" else tier["up_to"],
        }
        for tier in given
    ]


def _unit(given: Json, name: str, *, required: bool = False) -> Json:
    """`unit_amount` and `unit_amount_decimal` (or the flat ones) from whichever was given."""
    whole, exact = given.get(name), given.get(f"{name}_decimal")
    if whole is not None and exact is not None:
        raise refused(f"You may only specify one of these parameters: {name}, {name}_decimal.", param=name)
    if whole is None and exact is None:
        if required:
            raise refused(f"You must specify one of these parameters: {name}, {name}_decimal.", param=name)
        return {name: None, f"{name}_decimal": None}
    if exact is None:
        return {name: whole, f"{name}_decimal": str(whole)}
    places = -min(0, int(Decimal(exact).as_tuple().exponent))
    if places > 12:  # noqa: PLR2004  # Stripe's limit
        raise refused("Invalid decimal: at most 12 decimal places.", param=f"{name}_decimal")
    return {name: int(Decimal(exact)) if places == 0 else None, f"{name}_decimal": exact}


def _recurring(world: World, given: Json | None) -> Json | None:
    if given is None:
        return None
    usage = given.get("usage_type") or "licensed"
    meter = given.get("meter")
    if usage == "metered" and not meter:
        message = "Prices with `recurring[usage_type]=metered` must be backed by a meter."
        raise refused(message, param="recurring[meter]")
    if meter and world.load("billing.meter", meter, param="recurring[meter]")["status"] != "active":
        raise refused(f"The meter {meter} is not active.", param="recurring[meter]")
    if meter and usage == "licensed":
        raise refused("A licensed price has no meter.", param="recurring[meter]")
    count = given.get("interval_count") or 1
    return {
        "interval": given["interval"],
        "interval_count": count,
        "meter": meter,
        "trial_period_days": None,
        "usage_type": usage,
    }


def _lookup_key(world: World, params: Json, *, own: str | None = None) -> Any:
    """The key, taken from the price that holds it only when `transfer_lookup_key` says so."""
    key = params.get("lookup_key")
    holder = next((one for one in world.all("price") if key and one["lookup_key"] == key and one["id"] != own), None)
    if holder:
        if not params.get("transfer_lookup_key"):
            message = f"A price (`{holder['id']}`) already uses that lookup key."
            raise refused(message, param="lookup_key", code="resource_already_exists")
        world.change(holder, "price.updated", lookup_key=None)
    return key


@route(
    "GET",
    "/v1/prices",
    paged({
        "active": BOOLEAN, "created": RANGE, "currency": TEXT, "lookup_keys": [TEXT], "product": TEXT,
        "recurring": {"interval": INTERVAL, "meter": TEXT, "usage_type": one_of("licensed", "metered")},
        "type": one_of("one_time", "recurring"),
    }),
)  # fmt: skip
def prices(world: World, params: Json) -> Json:
    found = (one for one in world.walk("price") if _is_wanted(one, params))
    return lists.page(world, params, "/v1/prices", found)


def _is_wanted(price: Json, params: Json) -> bool:
    plain = all(params.get(name, price[name]) == price[name] for name in ("active", "currency", "product", "type"))
    recurring = price["recurring"] or {}
    terms = all(recurring.get(name) == value for name, value in (params.get("recurring") or {}).items())
    keys = params.get("lookup_keys")
    return (
        plain
        and terms
        and in_range(price["created"], params.get("created"))
        and (not keys or price["lookup_key"] in keys)
    )


@route("GET", "/v1/prices/{price}")
def price(world: World, params: Json, price: str) -> Json:
    return world.load("price", price)


@route(
    "POST",
    "/v1/prices/{price}",
    {
        "active": BOOLEAN, "currency_options": (CLEAR, CURRENCY_OPTIONS), "lookup_key": TEXT, "metadata": METADATA,
        "nickname": TEXT, "tax_behavior": TAX_BEHAVIOR, "transfer_lookup_key": BOOLEAN,
    },
)  # fmt: skip
def update_price(world: World, params: Json, price: str) -> Json:
    found = world.load("price", price)
    fields = chosen(params, "active", "nickname", "tax_behavior")
    if "metadata" in params:
        fields["metadata"] = merged_metadata(found["metadata"], params["metadata"])
    if "lookup_key" in params:
        fields["lookup_key"] = _lookup_key(world, params, own=price)
    if given := params.get("currency_options"):
        scheme = {"billing_scheme": found["billing_scheme"], "tiers_mode": found["tiers_mode"]}
        added = {code: _amounts({**scheme, **amounts}) for code, amounts in given.items()}
        fields["_currency_options"] = {**found["_currency_options"], **added}
    return world.change(found, "price.updated", **fields)
