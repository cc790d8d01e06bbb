"""Previews: the invoice that would follow, without a trace of having been asked."""

from typing import Any

from . import changes, coupons, customers, invoice_items, invoices, periods, prorations, schedules, subscriptions
from .errors import Json, refused
from .invoice_lines import licensed, total_up, usage
from .parameters import BOOLEAN, CLEAR, INTEGER, TEXT, one_of
from .routes import route
from .subscription_items import PRORATION, is_metered, usage_start
from .world import World

DETAILS: Json = {
    "billing_cycle_anchor": (one_of("now", "unchanged"), INTEGER),
    "billing_mode": subscriptions.BILLING_MODE,
    "cancel_at": (CLEAR, INTEGER),
    "cancel_at_period_end": BOOLEAN,
    "cancel_now": BOOLEAN,
    "items": [changes.CHANGED_ITEM],
    "proration_behavior": PRORATION,
    "proration_date": INTEGER,
    "start_date": INTEGER,
    "trial_end": (one_of("now"), INTEGER),
}


@route(
    "POST",
    "/v1/invoices/create_preview",
    {
        "currency": TEXT,
        "customer": TEXT,
        "discounts": (CLEAR, coupons.DISCOUNTS),
        "preview_mode": one_of("next", "recurring"),
        "subscription": TEXT,
        "subscription_details": DETAILS,
    },
)
def create_preview(world: World, params: Json) -> Json:
    details = params.get("subscription_details") or {}
    with world.undone():
        if params.get("subscription"):
            subscription = world.load("subscription", params["subscription"], param="subscription")
            return _following(world, subscription, details, params)
        if not params.get("customer"):
            raise refused("You must pass `customer` or `subscription`.", param="customer", code="parameter_missing")
        customer = customers.living(world, params["customer"], param="customer")
        return _first(world, customer, details, params)


def _first(world: World, customer: Json, details: Json, params: Json) -> Json:
    """The invoice a new subscription would begin with."""
    given = {"billing_mode": {"type": "flexible"}, **details}
    if given.get("billing_cycle_anchor") in {"now", "unchanged"}:
        del given["billing_cycle_anchor"]
    if params.get("currency"):
        given["currency"] = params["currency"]
    subscription = subscriptions.begin(world, customer, given)
    _discount(world, subscription, params)
    lines = subscriptions.first_lines(world, subscription, prorates=details.get("proration_behavior") != "none")
    first = subscription["items"]["data"][0]
    invoice = _shown(world, customer, subscription, lines, first["current_period_start"], first["current_period_end"])
    invoice["parent"] = None
    for line in invoice["lines"]["data"]:
        line["subscription"] = line["parent"]["subscription_item_details"]["subscription"] = None
    return invoice


def _following(world: World, subscription: Json, details: Json, params: Json) -> Json:
    """The invoice the change would make at once, or the next one that the subscription gets."""
    _discount(world, subscription, params)
    customer = world.load("customer", subscription["customer"])
    waiting = invoice_items.pending(world, customer["id"], subscription["id"])
    if details.get("cancel_now"):
        return _final(world, customer, subscription, waiting, details)
    anchors_now = details.get("billing_cycle_anchor") == "now"
    change = None
    if details.get("items") or anchors_now:
        behavior = details.get("proration_behavior") or "create_prorations"
        change = prorations.plan(
            world, subscription, details.get("items") or [], at=details.get("proration_date") or world.now,
            is_prorated=behavior != "none", anchors_now=anchors_now,
        )  # fmt: skip
        subscription = {**subscription, "items": {**subscription["items"], "data": change.items}}
        waiting = waiting + change.rows
        if change.resets or behavior == "always_invoice":
            lines = changes.invoice_lines_now(world, subscription, change, waiting)
            return _shown(world, customer, subscription, lines, world.now, world.now)
    return _renewal(world, customer, subscription, waiting, details)


def _final(world: World, customer: Json, subscription: Json, waiting: list[Json], details: Json) -> Json:
    lines = invoice_items.as_lines(world, waiting)
    for item in subscription["items"]["data"]:
        if is_metered(item):
            lines += usage(world, subscription, item, usage_start(item), world.now)
        elif details.get("proration_behavior") != "none":
            part = prorations.part(world, subscription, item, at=details.get("proration_date") or world.now, sign=-1)
            lines += invoice_items.as_lines(world, [part])
    return _shown(world, customer, subscription, lines, world.now, world.now)


def _renewal(world: World, customer: Json, subscription: Json, waiting: list[Json], details: Json) -> Json:
    """Usage so far, the next period's licensed items and what waits."""
    first = subscription["items"]["data"][0]
    start, end = first["current_period_start"], first["current_period_end"]
    lines: list[Json] = []
    if subscription["status"] != "trialing":
        for item in subscription["items"]["data"]:
            if is_metered(item):
                lines += usage(world, subscription, item, usage_start(item), end)
    if not _ends(subscription, details):
        lines += _next_period(world, subscription, end)
    lines += invoice_items.as_lines(world, waiting)
    if not lines:
        raise refused("No upcoming invoices for customer", code="invoice_upcoming_none")
    invoice = _shown(world, customer, subscription, lines, start, end)
    invoice["created"] = end
    invoice["next_payment_attempt"] = end + world.settings.draft_seconds
    return invoice


def _ends(subscription: Json, details: Json) -> bool:
    if "cancel_at_period_end" in details:
        return bool(details["cancel_at_period_end"])
    return bool(subscription["cancel_at_period_end"])


def _next_period(world: World, subscription: Json, start: int) -> list[Json]:
    """Licensed items after this period; those of a schedule's phase if one begins then."""
    anchor = start if subscription["status"] == "trialing" else subscription["billing_cycle_anchor"]
    shifted: Json = {**subscription, "items": {**subscription["items"]}}
    phase = _phase_at(world, subscription, start)
    if phase:
        schedules.swap(world, shifted, phase)
    lines: list[Json] = []
    for item in shifted["items"]["data"]:
        recurring = item["price"]["recurring"]
        _, end = periods.around(anchor, recurring["interval"], recurring["interval_count"], start)
        if not is_metered(item):
            lines += licensed(world, shifted, item, start, end)
    return lines


def _phase_at(world: World, subscription: Json, moment: int) -> Json | None:
    schedule = world.find("subscription_schedule", subscription["schedule"]) if subscription["schedule"] else None
    return next((one for one in (schedule or {}).get("phases", []) if one["start_date"] == moment), None)


def _discount(world: World, subscription: Json, params: Json) -> None:
    if "discounts" in params:
        made = [
            coupons.redeem(world, one, customer=subscription["customer"], subscription=subscription["id"])["id"]
            for one in params["discounts"] or []
        ]
        subscription["discounts"] = made


def _shown(  # noqa: PLR0917
    world: World, customer: Json, subscription: Json, lines: list[Json], start: int, end: int
) -> Json:
    invoice: dict[str, Any] = invoices.new(
        world, customer, subscription, reason="upcoming", lines=lines, start=start, end=end
    )
    invoice["id"] = f"upcoming_{invoice['id']}"
    invoice["lines"]["url"] = f"/v1/invoices/{invoice['id']}/lines"
    total_up(world, invoice, customer["balance"])
    after = invoice["total"] + customer["balance"]
    invoice["ending_balance"] = min(0, after)
    return invoice
