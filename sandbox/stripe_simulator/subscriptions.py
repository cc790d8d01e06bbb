"""Subscriptions: begun with their first invoice, shown, ended."""

from typing import Any

from . import (
    collection,
    coupons,
    customers,
    endings,
    invoice_items,
    invoices,
    lists,
    payment_methods,
    periods,
    prorations,
    standing,
    timers,
)
from .errors import Json, declined, refused
from .invoice_lines import check_currency, licensed, trial
from .parameters import BOOLEAN, CLEAR, INTEGER, METADATA, RANGE, TEXT, merged_metadata, one_of
from .routes import in_range, paged, route
from .subscription_items import (
    ITEM,
    PAYMENT,
    PRORATION,
    index_of,
    is_metered,
    new,
    price_for,
    quantity_for,
)
from .subscription_shape import blank
from .world import World

DAY = 86_400
INCOMPLETE_SECONDS = 23 * 3_600
BILLING_MODE: Json = {"type!": one_of("flexible"), "flexible": {"proration_discounts": one_of("included", "itemized")}}
TRIAL_SETTINGS: Json = {"end_behavior!": {"missing_payment_method!": one_of("cancel", "create_invoice", "pause")}}
COMMON: Json = {
    "automatic_tax": {"enabled!": BOOLEAN},
    "cancel_at": INTEGER,
    "cancel_at_period_end": BOOLEAN,
    "collection_method": invoices.METHODS,
    "days_until_due": INTEGER,
    "default_payment_method": TEXT,
    "description": TEXT,
    "discounts": (CLEAR, coupons.DISCOUNTS),
    "metadata": METADATA,
    "off_session": BOOLEAN,
    "payment_behavior": PAYMENT,
    "payment_settings": {
        "payment_method_types": [TEXT], "save_default_payment_method": one_of("off", "on_subscription"),
    },
    "proration_behavior": PRORATION,
    "trial_settings": TRIAL_SETTINGS,
}  # fmt: skip


@route(
    "POST",
    "/v1/subscriptions",
    {
        **COMMON,
        "backdate_start_date": INTEGER,
        "billing_cycle_anchor": INTEGER,
        "billing_mode": BILLING_MODE,
        "currency": TEXT,
        "customer!": TEXT,
        "items": [ITEM],
        "trial_end": (one_of("now"), INTEGER),
        "trial_period_days": INTEGER,
    },
)
def create(world: World, params: Json) -> Json:
    customer = customers.living(world, params["customer"], param="customer")
    subscription = begin(world, customer, params)
    if params.get("default_payment_method"):
        method = payment_methods.attach_to(
            world, params["default_payment_method"], customer["id"], param="default_payment_method"
        )
        subscription["default_payment_method"] = method["id"]
    return start(world, customer, subscription, params, is_on_session=not params.get("off_session", False))


def begin(world: World, customer: Json, params: Json) -> Json:
    """The subscription as it will be, not yet saved; raises StripeError."""
    if not params.get("billing_mode"):
        message = "This simulator bills in flexible mode only: pass billing_mode[type]=flexible."
        raise refused(message, param="billing_mode", code="parameter_missing")
    if not params.get("items"):
        raise refused("Missing required param: items.", param="items", code="parameter_missing")
    identifier = world.new_id("sub")
    chosen = [
        (price, quantity_for(price, given.get("quantity"), param=f"items[{n}]"), given.get("metadata") or {})
        for n, given in enumerate(params["items"])
        for price in [price_for(world, given, param=f"items[{n}]")]
    ]
    trial_end = _trial_end(world, params)
    anchor = trial_end or params.get("billing_cycle_anchor") or world.now
    since = _since(world, params)
    start_at, end_at = _first_period(world, chosen[0][0], anchor, trial_end, since)
    items = []
    for price, quantity, metadata in chosen:
        item = new(world, identifier, price, quantity, start_at, end_at)
        items.append({**item, "metadata": metadata, "_usage_from": max(start_at, since)})
    _check_items(items)
    currency = (params.get("currency") or items[0]["price"]["currency"]).lower()
    check_currency(items, currency)
    if customer["currency"] not in (None, currency):
        raise refused("You cannot combine currencies on a single customer.", param="currency")
    subscription = blank(world, identifier, customer, params, items, currency, anchor, trial_end)
    return {**subscription, "start_date": since}


def _since(world: World, params: Json) -> int:
    """When the subscription began: now, or at the earlier instant that the caller names."""
    since = params.get("backdate_start_date", world.now)
    if since > world.now:
        raise refused("Invalid backdate_start_date: must be in the past.", param="backdate_start_date")
    return int(since)


def _trial_end(world: World, params: Json) -> int | None:
    end = params.get("trial_end")
    if days := params.get("trial_period_days"):
        end = world.now + days * DAY
    if end in (None, "now"):
        return None
    if end <= world.now:
        raise refused("Invalid timestamp: must be an integer Unix timestamp in the future.", param="trial_end")
    return int(end)


def _first_period(world: World, price: Json, anchor: int, trial_end: int | None, since: int) -> tuple[int, int]:
    if trial_end:
        return world.now, trial_end
    recurring = price["recurring"]
    start, end = periods.around(anchor, recurring["interval"], recurring["interval_count"], world.now)
    return (max(start, since), end) if anchor > world.now else (start, end)


def _check_items(items: list[Json]) -> None:
    """All items recur alike, and no price is there twice."""
    cycles = {(one["price"]["recurring"]["interval"], one["price"]["recurring"]["interval_count"]) for one in items}
    if len(cycles) > 1:
        raise refused("This simulator needs all prices of a subscription to have the same interval.", param="items")
    prices = [one["price"]["id"] for one in items]
    if len(set(prices)) < len(prices):
        raise refused("A subscription cannot have two items with the same price.", param="items")


def start(world: World, customer: Json, subscription: Json, params: Json, *, is_on_session: bool) -> Json:
    """The subscription exists, its first invoice is final and has been tried once; raises StripeError (402)."""
    given = params.get("discounts") or []
    found = [coupons.redeem(world, one, customer=customer["id"], subscription=subscription["id"]) for one in given]
    subscription["discounts"] = [one["id"] for one in found]
    index_of(world, subscription)
    if not customer["currency"]:
        world.change(customer, None, currency=subscription["currency"])
    world.add(subscription, "customer.subscription.created")
    _set_ending(world, subscription, params)
    arrange(world, subscription)
    invoice = _first_invoice(world, customer, subscription, params)
    _take_first_payment(world, subscription, invoice, params, is_on_session=is_on_session)
    return subscription


def _set_ending(world: World, subscription: Json, params: Json) -> None:
    if params.get("cancel_at_period_end"):
        endings.schedule_end(
            world, subscription, at=subscription["items"]["data"][0]["current_period_end"], at_period_end=True
        )
    elif params.get("cancel_at"):
        endings.schedule_end(world, subscription, at=params["cancel_at"], at_period_end=False)


def arrange(world: World, subscription: Json) -> None:
    """The next renewal, and the notice before a trial's end, are due."""
    end_at = subscription["items"]["data"][0]["current_period_end"]
    timers.schedule(world, "renew", subscription["id"], end_at)
    trial_end = subscription["trial_end"]
    if trial_end and trial_end > world.now:
        timers.schedule(world, "trial_will_end", subscription["id"], max(world.now, trial_end - 3 * DAY))


@timers.action("trial_will_end")
def _trial_will_end(world: World, identifier: str) -> None:
    subscription = world.find("subscription", identifier)
    if subscription and subscription["status"] == "trialing":
        world.emit("customer.subscription.trial_will_end", subscription)


def first_lines(world: World, subscription: Json, *, prorates: bool) -> list[Json]:
    """What the first invoice charges: licensed items in advance, or the trial; a short first period in proportion."""
    rows: list[Json] = []
    for item in subscription["items"]["data"]:
        if is_metered(item):
            continue
        start_at, end_at = item["current_period_start"], item["current_period_end"]
        if subscription["trial_end"]:
            rows.append(trial(world, subscription, item, end_at))
        elif subscription["billing_cycle_anchor"] > world.now:
            rows += prorations.first_part(world, subscription, item) if prorates else []
        else:
            rows += licensed(world, subscription, item, start_at, end_at)
    return rows


def _first_invoice(world: World, customer: Json, subscription: Json, params: Json) -> Json | None:
    rows = first_lines(world, subscription, prorates=params.get("proration_behavior") != "none")
    waiting = invoice_items.pending(world, customer["id"], subscription["id"])
    rows += invoice_items.as_lines(world, waiting)
    if not rows:
        return None
    invoice = invoices.new(
        world, customer, subscription, reason="subscription_create", lines=rows, start=world.now, end=world.now
    )
    invoices.save_draft(world, invoice, finalizes_in=world.settings.draft_seconds)
    invoice_items.bind(world, waiting, invoice["id"])
    return collection.finalize(world, invoice)


def _take_first_payment(
    world: World, subscription: Json, invoice: Json | None, params: Json, *, is_on_session: bool
) -> None:
    if invoice is None or invoice["status"] == "paid" or subscription["collection_method"] == "send_invoice":
        if subscription["status"] == "incomplete":
            standing.after_payment(world, subscription)
        return
    behavior = params.get("payment_behavior") or "allow_incomplete"
    if behavior != "default_incomplete":
        problem = collection.collect(world, invoice, is_on_session=is_on_session)
        if problem and behavior == "error_if_incomplete":
            raise declined("Your card was declined.", decline_code=problem, keeps_effect=False)
    if subscription["status"] == "incomplete":
        timers.schedule(world, "expire_incomplete", subscription["id"], world.now + INCOMPLETE_SECONDS)


@timers.action("expire_incomplete")
def _expire_incomplete(world: World, identifier: str) -> None:
    subscription = world.find("subscription", identifier)
    if subscription and subscription["status"] == "incomplete":
        invoice = world.find("invoice", subscription["latest_invoice"])
        if invoice and invoice["status"] == "open":
            collection.void_invoice(world, invoice)
        standing.end(world, subscription, reason="payment_failed", status="incomplete_expired")


@route(
    "GET",
    "/v1/subscriptions",
    paged({
        "collection_method": invoices.METHODS, "created": RANGE, "customer": TEXT, "price": TEXT,
        "status": one_of(
            "active", "all", "canceled", "ended", "incomplete", "incomplete_expired", "past_due", "paused", "trialing", "unpaid"
        ),
    }),
)  # fmt: skip
def index(world: World, params: Json) -> Json:
    found = (one for one in world.walk("subscription", customer=params.get("customer")) if _is_wanted(one, params))
    return lists.page(world, params, "/v1/subscriptions", found)


def _is_wanted(subscription: Json, params: Json) -> bool:
    status, wanted = subscription["status"], params.get("status")
    by_status = {"all": True, None: status != "canceled", "ended": status in standing.ENDED}.get(
        wanted, status == wanted
    )
    price = params.get("price")
    has_price = price is None or any(one["price"]["id"] == price for one in subscription["items"]["data"])
    method = params.get("collection_method", subscription["collection_method"])
    return bool(
        by_status
        and has_price
        and method == subscription["collection_method"]
        and in_range(subscription["created"], params.get("created"))
    )


@route("GET", "/v1/subscriptions/{subscription}")
def retrieve(world: World, params: Json, subscription: str) -> Json:
    return world.load("subscription", subscription)


def set_fields(world: World, subscription: Json, params: Json) -> None:
    """What an update sets without changing what is sold; raises StripeError."""
    names = ("collection_method", "days_until_due", "description", "trial_settings")
    fields: dict[str, Any] = {name: params[name] for name in names if name in params}
    if "metadata" in params:
        fields["metadata"] = merged_metadata(subscription["metadata"], params["metadata"])
    if params.get("default_payment_method"):
        method = payment_methods.attach_to(
            world, params["default_payment_method"], subscription["customer"], param="default_payment_method"
        )
        fields["default_payment_method"] = method["id"]
    if "payment_settings" in params:
        fields["payment_settings"] = {**subscription["payment_settings"], **params["payment_settings"]}
    if "discounts" in params:
        fields["discounts"] = [
            coupons.redeem(world, one, customer=subscription["customer"], subscription=subscription["id"])["id"]
            for one in params["discounts"] or []
        ]
    subscription |= fields
