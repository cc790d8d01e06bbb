"""Updates of a subscription: what is sold, when it ends, and the invoice that follows at once."""

from typing import Any

from . import collection, endings, invoice_items, invoices, prorations, renewals, standing, subscriptions, timers
from .errors import Json, declined, refused
from .invoice_lines import licensed
from .parameters import BOOLEAN, CLEAR, INTEGER, TEXT, one_of
from .routes import route
from .subscription_items import ITEM, index_of, is_metered
from .world import World

WATCHED = (
    "billing_cycle_anchor", "cancel_at", "cancel_at_period_end", "canceled_at", "collection_method",
    "default_payment_method", "description", "discounts", "items", "latest_invoice", "metadata", "schedule", "status",
    "trial_end",
)  # fmt: skip
CHANGED_ITEM: Json = {**ITEM, "clear_usage": BOOLEAN, "deleted": BOOLEAN, "id": TEXT}
FIELDS: Json = {
    **subscriptions.COMMON,
    "billing_cycle_anchor": one_of("now", "unchanged"),
    "cancel_at": (CLEAR, INTEGER),
    "items": [CHANGED_ITEM],
    "proration_date": INTEGER,
    "trial_end": (one_of("now"), INTEGER),
}


@route("POST", "/v1/subscriptions/{subscription}", FIELDS)
def update(world: World, params: Json, subscription: str) -> Json:
    found = world.load("subscription", subscription)
    apply(world, found, params)
    return found


def apply(world: World, subscription: Json, params: Json) -> None:
    """The subscription is as the parameters say, with one event; raises StripeError."""
    if subscription["status"] in standing.ENDED:
        raise refused("A canceled subscription can only update its cancellation_details and metadata.")
    before = _remembered(subscription)
    subscriptions.set_fields(world, subscription, params)
    _change_end(world, subscription, params)
    change = _planned(world, subscription, params)
    if change is not None:
        _put_items(world, subscription, change)
    _change_trial(world, subscription, params)
    world.save(subscription)
    if change is not None:
        _settle(world, subscription, change, params)
    _tell(world, subscription, before)


def _remembered(subscription: Json) -> Json:
    before = {name: subscription[name] for name in WATCHED}
    before["items"] = {**before["items"], "data": [dict(one) for one in before["items"]["data"]]}
    return before


def _tell(world: World, subscription: Json, before: Json) -> None:
    previous = {name: value for name, value in before.items() if subscription[name] != value}
    if previous:
        world.emit("customer.subscription.updated", subscription, previous=previous)


def _change_end(world: World, subscription: Json, params: Json) -> None:
    if "cancel_at_period_end" not in params and "cancel_at" not in params:
        return
    if subscription["schedule"]:
        message = f"The subscription is managed by the subscription schedule `{subscription['schedule']}`, and updating"
        raise refused(f"{message} any cancelation behavior directly is not allowed.")
    if params.get("cancel_at_period_end"):
        at = subscription["items"]["data"][0]["current_period_end"]
        endings.schedule_end(world, subscription, at=at, at_period_end=True)
    else:
        at = params.get("cancel_at")
        if at is not None and at <= world.now:
            raise refused("`cancel_at` must be in the future.", param="cancel_at")
        endings.schedule_end(world, subscription, at=at, at_period_end=False)


def _planned(world: World, subscription: Json, params: Json) -> prorations.Change | None:
    anchors_now = params.get("billing_cycle_anchor") == "now"
    if not params.get("items") and not anchors_now:
        return None
    at = params.get("proration_date") or world.now
    first = subscription["items"]["data"][0]
    if not first["current_period_start"] <= at <= first["current_period_end"]:
        raise refused("`proration_date` must be within the current period.", param="proration_date")
    is_prorated = (params.get("proration_behavior") or "create_prorations") != "none"
    given = params.get("items") or []
    return prorations.plan(world, subscription, given, at=at, is_prorated=is_prorated, anchors_now=anchors_now)


def _put_items(world: World, subscription: Json, change: prorations.Change) -> None:
    subscription["items"] = {**subscription["items"], "data": change.items}
    index_of(world, subscription)
    if change.resets:
        subscription["billing_cycle_anchor"] = world.now
        subscriptions.arrange(world, subscription)
        if subscription["cancel_at_period_end"]:
            at = change.items[0]["current_period_end"]
            endings.schedule_end(world, subscription, at=at, at_period_end=True)


def _change_trial(world: World, subscription: Json, params: Json) -> None:
    end: Any = params.get("trial_end")
    if end is None:
        return
    if end == "now":
        if subscription["status"] == "trialing":
            subscription["trial_end"] = world.now
            renewals.renew(world, subscription)
            invoice = world.find("invoice", subscription["latest_invoice"])
            if invoice and invoice["status"] == "draft":
                _collect(world, subscription, collection.finalize(world, invoice), params)
        return
    if end <= world.now:
        raise refused("Invalid timestamp: must be an integer Unix timestamp in the future.", param="trial_end")
    subscription |= {"trial_end": end, "billing_cycle_anchor": end, "status": "trialing"}
    subscription["trial_start"] = subscription["trial_start"] or world.now
    for item in subscription["items"]["data"]:
        item["current_period_end"] = end
    subscriptions.arrange(world, subscription)


def _settle(world: World, subscription: Json, change: prorations.Change, params: Json) -> None:
    """Prorations wait for the next invoice, or are invoiced and charged now."""
    for row in change.rows:
        world.add(row, "invoiceitem.created")
    if not change.resets and (params.get("proration_behavior") != "always_invoice" or not change.rows):
        return
    invoice = invoice_now(world, subscription, change)
    if invoice is not None:
        _collect(world, subscription, invoice, params)


def invoice_lines_now(world: World, subscription: Json, change: prorations.Change, waiting: list[Json]) -> list[Json]:
    """Lines of the invoice that a change makes: what waits, and a full period if a new one begins."""
    lines = invoice_items.as_lines(world, waiting)
    if change.resets and subscription["status"] != "trialing":
        for item in change.items:
            if not is_metered(item):
                start, end = item["current_period_start"], item["current_period_end"]
                lines += licensed(world, subscription, item, start, end)
    return lines


def invoice_now(world: World, subscription: Json, change: prorations.Change) -> Json | None:
    """A final invoice of the change; None if there is nothing on it."""
    customer = world.load("customer", subscription["customer"])
    waiting = invoice_items.pending(world, customer["id"], subscription["id"])
    lines = invoice_lines_now(world, subscription, change, waiting)
    if not lines:
        return None
    invoice = invoices.new(
        world, customer, subscription, reason="subscription_update", lines=lines, start=world.now, end=world.now
    )
    invoices.save_draft(world, invoice, finalizes_in=world.settings.draft_seconds)
    invoice_items.bind(world, waiting, invoice["id"])
    return collection.finalize(world, invoice)


def _collect(world: World, subscription: Json, invoice: Json, params: Json) -> None:
    behavior = params.get("payment_behavior") or "allow_incomplete"
    if invoice["status"] != "open":
        return
    if behavior == "default_incomplete":
        standing.after_failure(world, subscription)
        timers.schedule(world, "collect", invoice["id"], world.now + subscriptions.INCOMPLETE_SECONDS)
        return
    problem = collection.collect(world, invoice, is_on_session=not params.get("off_session", False))
    if problem and behavior == "error_if_incomplete":
        raise declined("Your card was declined.", decline_code=problem, keeps_effect=False)
