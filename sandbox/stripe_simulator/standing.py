"""What payments do to the subscription: active, past due, unpaid, canceled."""

from . import timers
from .errors import Json
from .world import World

ENDED = {"canceled", "incomplete_expired"}


def after_payment(world: World, subscription: Json) -> None:
    """The first payment starts it; when nothing that was tried is still open, it is active again."""
    status = subscription["status"]
    if status == "incomplete":
        timers.cancel(world, "expire_incomplete", subscription["id"])
        _start(world, subscription)
    elif status in {"past_due", "unpaid"} and not _overdue(world, subscription["id"]):
        world.change(subscription, "customer.subscription.updated", status="active")


def _start(world: World, subscription: Json) -> None:
    trial_end = subscription["trial_end"]
    is_trialing = trial_end is not None and trial_end > world.now
    world.change(subscription, "customer.subscription.updated", status="trialing" if is_trialing else "active")


def _overdue(world: World, subscription: str) -> bool:
    return any(
        invoice["status"] == "open" and invoice["attempted"] for invoice in world.walk("invoice", parent=subscription)
    )


def after_failure(world: World, subscription: Json) -> None:
    """A renewal that was not paid makes it past due; a first payment leaves it incomplete."""
    if subscription["status"] in {"active", "trialing"}:
        world.change(subscription, "customer.subscription.updated", status="past_due")


def after_last_retry(world: World, subscription: Json) -> None:
    """No further attempt follows: what the settings say happens."""
    if subscription["status"] != "past_due":
        return
    match world.settings.after_retries:
        case "unpaid":
            world.change(subscription, "customer.subscription.updated", status="unpaid")
        case "cancel":
            end(world, subscription, reason="payment_failed")
        case _:
            pass


def end(world: World, subscription: Json, *, reason: str, status: str = "canceled") -> Json:
    """It is over: no renewal, no schedule; open drafts stay as they are."""
    if subscription["status"] in ENDED:
        return subscription
    for name in ("renew", "cancel_at", "expire_incomplete", "trial_will_end"):
        timers.cancel(world, name, subscription["id"])
    subscription |= {
        "status": status,
        "ended_at": world.now,
        "canceled_at": subscription["canceled_at"] or world.now,
        "cancellation_details": {**subscription["cancellation_details"], "reason": reason},
    }
    schedule = world.find("subscription_schedule", subscription["schedule"]) if subscription["schedule"] else None
    subscription["schedule"] = None
    world.save(subscription)
    if schedule:
        timers.cancel(world, "phase", schedule["id"])
        world.change(schedule, "subscription_schedule.canceled", status="canceled", canceled_at=world.now)
    ended_by = "updated" if status == "incomplete_expired" else "deleted"
    world.emit(f"customer.subscription.{ended_by}", subscription)
    return subscription
