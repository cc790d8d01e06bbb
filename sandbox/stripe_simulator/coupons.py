"""Coupons, promotion codes, and the discounts that come from them."""

from decimal import Decimal
from typing import Any

from . import lists, periods
from .errors import Json, refused
from .parameters import BOOLEAN, INTEGER, METADATA, NUMBER, RANGE, TEXT, chosen, merged_metadata, one_of
from .rating import round_minor
from .routes import in_range, paged, route
from .world import World

COUPON: Json = {
    "amount_off": INTEGER,
    "applies_to": {"products": [TEXT]},
    "currency": TEXT,
    "duration": one_of("forever", "once", "repeating"),
    "duration_in_months": INTEGER,
    "id": TEXT,
    "max_redemptions": INTEGER,
    "metadata": METADATA,
    "name": TEXT,
    "percent_off": NUMBER,
    "redeem_by": INTEGER,
}
CODE: Json = {
    "active": BOOLEAN,
    "code": TEXT,
    "customer": TEXT,
    "expires_at": INTEGER,
    "max_redemptions": INTEGER,
    "metadata": METADATA,
    "promotion!": {"type!": one_of("coupon"), "coupon": TEXT},
    "restrictions": {
        "first_time_transaction": BOOLEAN,
        "minimum_amount": INTEGER,
        "minimum_amount_currency": TEXT,
    },
}
DISCOUNTS: list[Json] = [{"coupon": TEXT, "discount": TEXT, "promotion_code": TEXT}]


@route("POST", "/v1/coupons", COUPON)
def create(world: World, params: Json) -> Json:
    percent, amount = params.get("percent_off"), params.get("amount_off")
    if (percent is None) is (amount is None):
        raise refused("You must pass exactly one of `percent_off` and `amount_off`.")
    if percent is not None and not 0 < percent <= 100:  # noqa: PLR2004
        raise refused("Invalid percent_off: between 0 and 100.", param="percent_off")
    if amount is not None and (amount <= 0 or not params.get("currency")):
        raise refused("`amount_off` must be positive and needs a `currency`.", param="amount_off")
    duration = params.get("duration") or "once"
    if (duration == "repeating") is not bool(params.get("duration_in_months")):
        raise refused("`duration_in_months` goes with `duration=repeating`.", param="duration_in_months")
    coupon: Json = {
        "id": params.get("id") or world.new_id("co", 8)[3:],
        "object": "coupon",
        "amount_off": amount,
        "created": world.now,
        "currency": params.get("currency"),
        "duration": duration,
        "duration_in_months": params.get("duration_in_months"),
        "livemode": False,
        "max_redemptions": params.get("max_redemptions"),
        "metadata": params.get("metadata") or {},
        "name": params.get("name"),
        "percent_off": percent,
        "redeem_by": params.get("redeem_by"),
        "times_redeemed": 0,
        "valid": True,
        "_applies_to": params.get("applies_to"),
    }
    if world.store.get(coupon["id"]):
        raise refused(f"Coupon already exists: {coupon['id']}", param="id", code="resource_already_exists")
    return world.add(coupon, "coupon.created")


@route("GET", "/v1/coupons", paged({"created": RANGE}))
def coupons(world: World, params: Json) -> Json:
    found = (one for one in world.walk("coupon") if in_range(one["created"], params.get("created")))
    return lists.page(world, params, "/v1/coupons", found)


@route("GET", "/v1/coupons/{coupon}")
def coupon(world: World, params: Json, coupon: str) -> Json:
    return world.load("coupon", coupon)


@route("POST", "/v1/coupons/{coupon}", {"metadata": METADATA, "name": TEXT})
def update(world: World, params: Json, coupon: str) -> Json:
    found = world.load("coupon", coupon)
    fields = chosen(params, "name")
    if "metadata" in params:
        fields["metadata"] = merged_metadata(found["metadata"], params["metadata"])
    return world.change(found, "coupon.updated", **fields)


@route("DELETE", "/v1/coupons/{coupon}")
def delete(world: World, params: Json, coupon: str) -> Json:
    found = world.load("coupon", coupon)
    world.forget(coupon)
    world.emit("coupon.deleted", found)
    return {"id": coupon, "object": "coupon", "deleted": True}


@route("POST", "/v1/promotion_codes", CODE)
def create_code(world: World, params: Json) -> Json:
    given = params["promotion"].get("coupon")
    if not given:
        raise refused("Missing required param: promotion[coupon].", param="promotion[coupon]", code="parameter_missing")
    world.load("coupon", given, param="promotion[coupon]")
    code = params.get("code") or world.new_id("c", 8)[2:].upper()
    if any(one["active"] and one["code"].lower() == code.lower() for one in world.walk("promotion_code")):
        raise refused(f"An active promotion code with `code: {code}` already exists.", param="code")
    restrictions: Json = {
        "first_time_transaction": False, "minimum_amount": None, "minimum_amount_currency": None,
    }  # fmt: skip
    promotion_code = {
        "id": world.new_id("promo"),
        "object": "promotion_code",
        "active": params.get("active", True),
        "code": code,
        "created": world.now,
        "customer": params.get("customer"),
        "expires_at": params.get("expires_at"),
        "livemode": False,
        "max_redemptions": params.get("max_redemptions"),
        "metadata": params.get("metadata") or {},
        "promotion": {"type": "coupon", "coupon": given},
        "restrictions": {**restrictions, **(params.get("restrictions") or {})},
        "times_redeemed": 0,
    }
    return world.add(promotion_code, "promotion_code.created")


@route(
    "GET",
    "/v1/promotion_codes",
    paged({"active": BOOLEAN, "code": TEXT, "coupon": TEXT, "created": RANGE, "customer": TEXT}),
)
def codes(world: World, params: Json) -> Json:
    found = (
        one
        for one in world.walk("promotion_code")
        if all(params.get(name, one[name]) == one[name] for name in ("active", "customer"))
        and str(params.get("code") or one["code"]).lower() == one["code"].lower()
        and params.get("coupon", one["promotion"]["coupon"]) == one["promotion"]["coupon"]
        and in_range(one["created"], params.get("created"))
    )
    return lists.page(world, params, "/v1/promotion_codes", found)


@route("GET", "/v1/promotion_codes/{code}")
def code(world: World, params: Json, code: str) -> Json:
    return world.load("promotion_code", code)


@route("POST", "/v1/promotion_codes/{code}", {"active": BOOLEAN, "metadata": METADATA})
def update_code(world: World, params: Json, code: str) -> Json:
    found = world.load("promotion_code", code)
    fields = chosen(params, "active")
    if "metadata" in params:
        fields["metadata"] = merged_metadata(found["metadata"], params["metadata"])
    return world.change(found, "promotion_code.updated", **fields)


def typed_code(world: World, text: str, *, customer: str | None) -> Json:
    """The active promotion code a customer typed; raises StripeError when it does not serve them."""
    found = next((one for one in world.walk("promotion_code") if one["code"].lower() == text.strip().lower()), None)
    if found is None:
        raise refused("This promotion code is invalid.", param="promotion_code")
    _check_code(world, found, customer=customer)
    return found


def _check_code(world: World, found: Json, *, customer: str | None) -> None:
    limit, expiry = found["max_redemptions"], found["expires_at"]
    is_spent = (limit is not None and found["times_redeemed"] >= limit) or (expiry is not None and expiry <= world.now)
    if is_spent or not found["active"] or found["customer"] not in (None, customer):
        raise refused("This promotion code cannot be redeemed.", param="promotion_code")
    if found["restrictions"]["first_time_transaction"] and any(
        one["status"] == "paid" for one in (world.walk("invoice", customer=customer) if customer else ())
    ):
        raise refused("This promotion code is for new customers only.", param="promotion_code")


def redeem(world: World, given: Json, *, customer: str, subscription: str | None) -> Json:
    """A discount from `coupon`, `promotion_code` or `discount`; raises StripeError. Its redemptions are counted."""
    if given.get("discount"):
        return world.load("discount", given["discount"], param="discounts")
    code = None
    if given.get("promotion_code"):
        code = world.load("promotion_code", given["promotion_code"], param="discounts")
        _check_code(world, code, customer=customer)
        world.change(code, None, times_redeemed=code["times_redeemed"] + 1)
    coupon = world.load("coupon", code["promotion"]["coupon"] if code else given.get("coupon"), param="discounts")
    _count(world, coupon)
    discount = {
        "id": world.new_id("di"),
        "object": "discount",
        "checkout_session": None,
        "customer": customer,
        "end": _end(world, coupon),
        "invoice": None,
        "invoice_item": None,
        "promotion_code": code["id"] if code else None,
        "source": {"type": "coupon", "coupon": coupon["id"]},
        "start": world.now,
        "subscription": subscription,
        "subscription_item": None,
        "_is_spent": False,
    }
    return world.add(discount, "customer.discount.created" if subscription else None)


def _count(world: World, coupon: Json) -> None:
    limit = coupon["max_redemptions"]
    if not coupon["valid"] or (coupon["redeem_by"] is not None and coupon["redeem_by"] <= world.now):
        raise refused(f"Coupon expired: {coupon['id']}", param="discounts", code="coupon_expired")
    times = coupon["times_redeemed"] + 1
    world.change(coupon, None, times_redeemed=times, valid=limit is None or times < limit)


def _end(world: World, coupon: Json) -> int | None:
    if coupon["duration"] != "repeating":
        return None
    return periods.moved(world.now, "month", coupon["duration_in_months"])


def amounts_off(world: World, discount: Json, lines: list[Json], *, at: int) -> list[int]:
    """What the discount takes off each line's remaining amount; nothing once it is over."""
    coupon = world.find("coupon", discount["source"]["coupon"])
    is_over = discount["end"] is not None and discount["end"] <= at
    if coupon is None or is_over or discount["_is_spent"]:
        return [0] * len(lines)
    products = (coupon["_applies_to"] or {}).get("products")
    bases = [_base(line, products) for line in lines]
    if coupon["percent_off"] is not None:
        share = Decimal(str(coupon["percent_off"])) / 100
        return [round_minor(base * share) for base in bases]
    return _spread(coupon["amount_off"], bases)


def _base(line: Json, products: list[str] | None) -> int:
    already: int = sum(one["amount"] for one in line["discount_amounts"])
    details: Any = (line["pricing"] or {}).get("price_details") or {}
    if not line["discountable"] or (products and details.get("product") not in products):
        return 0
    return max(0, int(line["amount"]) - already)


def _spread(amount: int, bases: list[int]) -> list[int]:
    """A fixed amount over the lines in proportion, never more than they cost; the last one takes the rest."""
    total = sum(bases)
    left = min(amount, total)
    shares = [min(base, round_minor(Decimal(left) * base / total)) if total else 0 for base in bases]
    for index in reversed(range(len(shares))):
        gap = left - sum(shares)
        shares[index] = max(0, min(bases[index], shares[index] + gap))
    return shares


def use(world: World, discount: Json) -> None:
    """A discount that counts once has been used."""
    coupon = world.find("coupon", discount["source"]["coupon"])
    if coupon and coupon["duration"] == "once":
        world.change(discount, None, _is_spent=True)
