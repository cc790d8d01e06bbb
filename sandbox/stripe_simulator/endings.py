"""How a subscription ends: at a time that is set, or now; with a last invoice or without."""

from . import collection, invoice_items, invoices, prorations, standing, timers
from .errors import Json, refused
from .invoice_lines import usage as usage_lines
from .parameters import BOOLEAN, TEXT
from .routes import route
from .subscription_items import is_metered, usage_start
from .world import World


def schedule_end(world: World, subscription: Json, *, at: int | None, at_period_end: bool) -> None:
    """It will end then; None takes that back."""
    subscription |= {
        "cancel_at": at,
        "cancel_at_period_end": at_period_end,
        "canceled_at": world.now if at else None,
        "cancellation_details": {
            **subscription["cancellation_details"], "reason": "cancellation_requested" if at else None,
        },
    }  # fmt: skip
    world.save(subscription)
    if at:
        timers.schedule(world, "cancel_at", subscription["id"], at)
    else:
        timers.cancel(world, "cancel_at", subscription["id"])


@route(
    "DELETE",
    "/v1/subscriptions/{subscription}",
    {
        "cancellation_details": {"comment": TEXT, "feedback": TEXT},
        "invoice_now": BOOLEAN,
        "prorate": BOOLEAN,
    },
)
def cancel(world: World, params: Json, subscription: str) -> Json:
    found = world.load("subscription", subscription)
    if found["status"] in standing.ENDED:
        raise refused(f"No such subscription: {subscription}", code="resource_missing", param="id")
    found["cancellation_details"] = {**found["cancellation_details"], **(params.get("cancellation_details") or {})}
    return end(world, found, invoice_now=params.get("invoice_now", False), prorate=params.get("prorate", False))


def end(world: World, subscription: Json, *, invoice_now: bool = False, prorate: bool = False) -> Json:
    """It is over now. With `invoice_now` the usage so far is invoiced, with `prorate` the unused time is credited."""
    if prorate:
        prorations.credit_all(world, subscription)
    if invoice_now:
        final_invoice(world, subscription, until=world.now)
    return standing.end(world, subscription, reason="cancellation_requested")


def final_invoice(world: World, subscription: Json, *, until: int, finalizes_in: int = 0) -> Json | None:
    """The usage since the last invoice and what still waits are invoiced."""
    rows: list[Json] = []
    for item in subscription["items"]["data"]:
        if is_metered(item) and subscription["status"] != "trialing":
            rows += usage_lines(world, subscription, item, usage_start(item), until)
    waiting = invoice_items.pending(world, subscription["customer"], subscription["id"])
    rows += invoice_items.as_lines(world, waiting)
    if not rows:
        return None
    customer = world.load("customer", subscription["customer"])
    begin_at = subscription["items"]["data"][0]["current_period_start"]
    invoice = invoices.new(
        world, customer, subscription, reason="subscription_cycle" if finalizes_in else "subscription_update",
        lines=rows, start=begin_at, end=until,
    )  # fmt: skip
    invoices.save_draft(world, invoice, finalizes_in=finalizes_in or world.settings.draft_seconds)
    invoice_items.bind(world, waiting, invoice["id"])
    if not finalizes_in:
        collection.finalize(world, invoice)
        collection.collect(world, invoice, is_on_session=False)
    return invoice
