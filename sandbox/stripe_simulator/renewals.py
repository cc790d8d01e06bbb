"""What happens to a subscription at the end of a period, exactly at that second."""

from . import endings, invoice_items, invoices, periods, schedules, standing, subscriptions, timers
from .errors import Json
from .invoice_lines import licensed, usage
from .subscription_items import is_metered, usage_start
from .world import World

OPEN_STATUSES = {"active", "trialing", "past_due", "unpaid"}


@timers.action("renew", rank=2)
def _renew_later(world: World, identifier: str) -> None:
    subscription = world.find("subscription", identifier)
    if subscription is None or subscription["status"] in standing.ENDED:
        return
    if subscription["status"] == "incomplete":
        return
    renew(world, subscription)


@timers.action("cancel_at", rank=1)
def _cancel_later(world: World, identifier: str) -> None:
    """Ends before it would renew; the last usage still has its draft hour."""
    subscription = world.find("subscription", identifier)
    if subscription is None or subscription["cancel_at"] != world.now or subscription["status"] in standing.ENDED:
        return
    endings.final_invoice(world, subscription, until=world.now, finalizes_in=world.settings.draft_seconds)
    standing.end(world, subscription, reason=subscription["cancellation_details"]["reason"] or "cancellation_requested")


def renew(world: World, subscription: Json) -> None:
    """The old period's usage and the next period's licensed items are on a draft; the items' periods have moved.

    A phase of a schedule that begins at this second is applied in between.
    """
    now = world.now
    was_trialing = subscription["status"] == "trialing"
    begin_at = min(item["current_period_start"] for item in subscription["items"]["data"])
    rows = [] if was_trialing else _usage_of_period(world, subscription, now)
    if was_trialing:
        subscription["billing_cycle_anchor"] = subscription["trial_end"] = now
    before = {name: subscription[name] for name in ("items", "status", "latest_invoice")}
    before["items"] = {**before["items"], "data": [dict(one) for one in before["items"]["data"]]}
    is_over = schedules.apply_at_boundary(world, subscription)
    if is_over:
        endings.final_invoice(world, subscription, until=now, finalizes_in=world.settings.draft_seconds)
        standing.end(world, subscription, reason="cancellation_requested")
        return
    _move(subscription, now)
    for item in subscription["items"]["data"]:
        if not is_metered(item):
            rows += licensed(world, subscription, item, item["current_period_start"], item["current_period_end"])
    if was_trialing:
        subscription["status"] = "active"
    world.save(subscription)
    subscriptions.arrange(world, subscription)
    _draft(world, subscription, rows, begin_at)
    world.emit("customer.subscription.updated", subscription, previous=before)


def _usage_of_period(world: World, subscription: Json, until: int) -> list[Json]:
    rows: list[Json] = []
    for item in subscription["items"]["data"]:
        if is_metered(item):
            rows += usage(world, subscription, item, usage_start(item), until)
    return rows


def _move(subscription: Json, now: int) -> None:
    for item in subscription["items"]["data"]:
        recurring = item["price"]["recurring"]
        start, end = periods.around(
            subscription["billing_cycle_anchor"], recurring["interval"], recurring["interval_count"], now
        )
        item |= {"current_period_start": start, "current_period_end": end}


def _draft(world: World, subscription: Json, rows: list[Json], begin_at: int) -> None:
    customer = world.load("customer", subscription["customer"])
    waiting = invoice_items.pending(world, customer["id"], subscription["id"])
    rows = rows + invoice_items.as_lines(world, waiting)
    if not rows:
        return
    invoice = invoices.new(
        world, customer, subscription, reason="subscription_cycle", lines=rows, start=begin_at, end=world.now
    )
    finalizes_in = None if subscription["status"] == "unpaid" else world.settings.draft_seconds
    invoices.save_draft(world, invoice, finalizes_in=finalizes_in)
    invoice_items.bind(world, waiting, invoice["id"])
