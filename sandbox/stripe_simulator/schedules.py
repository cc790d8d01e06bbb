"""Subscription schedules: phases that are applied at their second, most of them at a period's end."""

from typing import Any

from . import lists, periods, standing, timers
from .errors import Json, refused
from .parameters import BOOLEAN, INTEGER, METADATA, RANGE, TEXT, merged_metadata, one_of
from .routes import in_range, paged, route
from .subscription_items import PRORATION, index_of, new, price_for, quantity_for
from .world import World

PHASE: Json = {
    "billing_cycle_anchor": one_of("automatic", "phase_start"),
    "description": TEXT,
    "duration": {"interval!": one_of("day", "month", "week", "year"), "interval_count": INTEGER},
    "end_date": (one_of("now"), INTEGER),
    "items!": [{"metadata": METADATA, "price": TEXT, "quantity": INTEGER}],
    "metadata": METADATA,
    "proration_behavior": PRORATION,
    "start_date": (one_of("now"), INTEGER),
    "trial": BOOLEAN,
}
END = one_of("cancel", "release")


@route(
    "POST",
    "/v1/subscription_schedules",
    {"end_behavior": END, "from_subscription!": TEXT, "metadata": METADATA},
)
def create(world: World, params: Json) -> Json:
    subscription = world.load("subscription", params["from_subscription"], param="from_subscription")
    if subscription["schedule"]:
        message = "You cannot migrate a subscription that is already attached to a schedule:"
        raise refused(f"{message} {subscription['schedule']}", param="from_subscription")
    if subscription["status"] in standing.ENDED | {"incomplete"}:
        raise refused(
            "You cannot create a schedule from a subscription that is not running.", param="from_subscription"
        )
    first = subscription["items"]["data"][0]
    start, end = first["current_period_start"], first["current_period_end"]
    current = [
        {"price": one["price"]["id"], "quantity": one.get("quantity"), "metadata": one["metadata"]}
        for one in subscription["items"]["data"]
    ]
    schedule = _blank(world, subscription, params)
    schedule["phases"] = [_phase(world, subscription, {"items": current}, start, end, is_checked=False)]
    schedule["current_phase"] = {"start_date": start, "end_date": end}
    world.add(schedule, "subscription_schedule.created")
    world.change(subscription, "customer.subscription.updated", schedule=schedule["id"])
    _arrange(world, schedule)
    return schedule


def _blank(world: World, subscription: Json, params: Json) -> Json:
    return {
        "id": world.new_id("sub_sched"),
        "object": "subscription_schedule",
        "application": None,
        "billing_mode": subscription["billing_mode"],
        "canceled_at": None,
        "completed_at": None,
        "created": world.now,
        "current_phase": None,
        "customer": subscription["customer"],
        "default_settings": {
            "application_fee_percent": None,
            "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
            "billing_cycle_anchor": "automatic",
            "billing_thresholds": None,
            "collection_method": subscription["collection_method"],
            "default_payment_method": subscription["default_payment_method"],
            "description": None,
            "invoice_settings": {"account_tax_ids": None, "days_until_due": None, "issuer": {"type": "self"}},
            "on_behalf_of": None,
            "transfer_data": None,
        },
        "end_behavior": params.get("end_behavior") or "release",
        "livemode": False,
        "metadata": params.get("metadata") or {},
        "phases": [],
        "released_at": None,
        "released_subscription": None,
        "status": "active",
        "subscription": subscription["id"],
        "test_clock": None,
    }


def _phase(world: World, subscription: Json, given: Json, start: int, end: int, *, is_checked: bool = True) -> Json:
    items = []
    for number, wish in enumerate(given["items"]):
        param = f"phases[items][{number}]"
        price = price_for(world, wish, param=param) if is_checked else world.load("price", wish["price"])
        quantity = quantity_for(price, wish.get("quantity"), param=param)
        item: Json = {
            "billing_thresholds": None, "discounts": [], "metadata": wish.get("metadata") or {}, "plan": price["id"],
            "price": price["id"], "tax_rates": [],
        }  # fmt: skip
        items.append(item if quantity is None else {**item, "quantity": quantity})
    return {
        "add_invoice_items": [],
        "application_fee_percent": None,
        "billing_cycle_anchor": given.get("billing_cycle_anchor"),
        "billing_thresholds": None,
        "collection_method": None,
        "currency": subscription["currency"],
        "default_payment_method": None,
        "default_tax_rates": [],
        "description": given.get("description"),
        "discounts": [],
        "end_date": end,
        "invoice_settings": None,
        "items": items,
        "metadata": given.get("metadata") or {},
        "on_behalf_of": None,
        "proration_behavior": given.get("proration_behavior") or "create_prorations",
        "start_date": start,
        "transfer_data": None,
        "trial_end": None,
    }


@route("GET", "/v1/subscription_schedules", paged({"created": RANGE, "customer": TEXT, "scheduled": BOOLEAN}))
def index(world: World, params: Json) -> Json:
    found = (
        one
        for one in world.walk("subscription_schedule", customer=params.get("customer"))
        if in_range(one["created"], params.get("created"))
        and (not params.get("scheduled") or one["status"] == "not_started")
    )
    return lists.page(world, params, "/v1/subscription_schedules", found)


@route("GET", "/v1/subscription_schedules/{schedule}")
def retrieve(world: World, params: Json, schedule: str) -> Json:
    return world.load("subscription_schedule", schedule)


@route(
    "POST",
    "/v1/subscription_schedules/{schedule}",
    {"end_behavior": END, "metadata": METADATA, "phases": [PHASE], "proration_behavior": PRORATION},
)
def update(world: World, params: Json, schedule: str) -> Json:
    found = _active(world, schedule)
    fields: Json = {}
    if "metadata" in params:
        fields["metadata"] = merged_metadata(found["metadata"], params["metadata"])
    if params.get("end_behavior"):
        fields["end_behavior"] = params["end_behavior"]
    if params.get("phases"):
        fields["phases"] = _phases(world, found, params["phases"])
        fields["current_phase"] = _current(world, fields["phases"])
    world.change(found, "subscription_schedule.updated", **fields)
    _arrange(world, found)
    return found


def _active(world: World, identifier: str) -> Json:
    schedule = world.load("subscription_schedule", identifier)
    if schedule["status"] != "active":
        message = f"You cannot update a subscription schedule that is {schedule['status']}."
        raise refused(message)
    return schedule


def _phases(world: World, schedule: Json, given: list[Json]) -> list[Json]:
    """The phases with their dates; each begins where the one before it ends, and the running one stays."""
    subscription = world.load("subscription", schedule["subscription"])
    running = schedule["current_phase"]
    phases: list[Json] = []
    start = _date(world, given[0].get("start_date"), running["start_date"])
    if start != running["start_date"]:
        raise refused("The start date of the current phase cannot be changed.", param="phases[0][start_date]")
    for number, wish in enumerate(given):
        param = f"phases[{number}]"
        if _date(world, wish.get("start_date"), start) != start:
            raise refused("Phases must follow each other without a gap.", param=f"{param}[start_date]")
        end = _end(world, wish, start, param)
        if end <= start:
            raise refused("A phase must end after it starts.", param=f"{param}[end_date]")
        phases.append(_phase(world, subscription, wish, start, end, is_checked=number > 0))
        start = end
    if _current(world, phases) is None:
        raise refused("One of the phases must be running now.", param="phases")
    return phases


def _date(world: World, given: Any, default: int) -> int:
    return world.now if given == "now" else default if given is None else int(given)


def _end(world: World, wish: Json, start: int, param: str) -> int:
    if wish.get("end_date") is not None:
        return _date(world, wish["end_date"], start)
    if length := wish.get("duration"):
        return periods.moved(start, length["interval"], length.get("interval_count") or 1)
    recurring = price_for(world, wish["items"][0], param=f"{param}[items][0]")["recurring"]
    return periods.moved(start, recurring["interval"], recurring["interval_count"])


def _current(world: World, phases: list[Json]) -> Json | None:
    for phase in phases:
        if phase["start_date"] <= world.now < phase["end_date"]:
            return {"start_date": phase["start_date"], "end_date": phase["end_date"]}
    return None


def _arrange(world: World, schedule: Json) -> None:
    """The end of the running phase is due."""
    timers.cancel(world, "phase", schedule["id"])
    if schedule["status"] == "active" and schedule["current_phase"]:
        timers.schedule(world, "phase", schedule["id"], schedule["current_phase"]["end_date"])


def apply_at_boundary(world: World, subscription: Json) -> bool:
    """A phase that begins at this second has its items on the subscription; True if the subscription is to end."""
    schedule = world.find("subscription_schedule", subscription["schedule"]) if subscription["schedule"] else None
    if schedule is None or not schedule["current_phase"] or schedule["current_phase"]["end_date"] > world.now:
        return False
    return _advance(world, schedule, subscription, is_boundary=True)


@timers.action("phase", rank=4)
def _phase_later(world: World, identifier: str) -> None:
    """A phase that ends within a period."""
    schedule = world.find("subscription_schedule", identifier)
    if schedule is None or schedule["status"] != "active" or schedule["current_phase"]["end_date"] > world.now:
        return
    subscription = world.load("subscription", schedule["subscription"])
    if _advance(world, schedule, subscription, is_boundary=False):
        standing.end(world, subscription, reason="cancellation_requested")


def _advance(world: World, schedule: Json, subscription: Json, *, is_boundary: bool) -> bool:
    running = _current(world, schedule["phases"])
    if running is None:
        return _finish(world, schedule, subscription)
    phase = next(one for one in schedule["phases"] if one["start_date"] == running["start_date"])
    if is_boundary:
        swap(world, subscription, phase)
    else:
        _change(world, subscription, phase)
    world.change(schedule, "subscription_schedule.updated", current_phase=running)
    _arrange(world, schedule)
    return False


def _finish(world: World, schedule: Json, subscription: Json) -> bool:
    """After the last phase: released, or the subscription ends."""
    if schedule["end_behavior"] == "cancel":
        world.change(schedule, "subscription_schedule.completed", status="completed", completed_at=world.now)
        return True
    release_now(world, schedule, subscription)
    return False


def swap(world: World, subscription: Json, phase: Json) -> None:
    """Items of the phase; one whose price stays keeps its id, the others begin now."""
    held = {one["price"]["id"]: one for one in subscription["items"]["data"]}
    like = subscription["items"]["data"][0]
    items = []
    for wish in phase["items"]:
        price = world.load("price", wish["price"])
        item = held.get(wish["price"]) or new(
            world, subscription["id"], price, wish.get("quantity"), world.now, like["current_period_end"]
        )
        if wish.get("quantity") is not None:
            item["quantity"] = wish["quantity"]
        items.append({**item, "metadata": wish["metadata"] or item["metadata"]})
    subscription["items"] = {**subscription["items"], "data": items}
    subscription["metadata"] = merged_metadata(subscription["metadata"], phase["metadata"])
    index_of(world, subscription)
    world.save(subscription)


def _change(world: World, subscription: Json, phase: Json) -> None:
    from . import changes  # noqa: PLC0415  # within a period a phase is an update

    wanted = {one["price"]: one for one in phase["items"]}
    held = {one["price"]["id"]: one["id"] for one in subscription["items"]["data"]}
    items: list[Json] = [{"id": item, "deleted": True} for price, item in held.items() if price not in wanted]
    for price, wish in wanted.items():
        known = {"id": held[price]} if price in held else {}
        items.append({"price": price, **known, **({"quantity": wish["quantity"]} if "quantity" in wish else {})})
    changes.apply(world, subscription, {"items": items, "proration_behavior": phase["proration_behavior"]})


def release_now(world: World, schedule: Json, subscription: Json) -> None:
    """The subscription goes on without the schedule."""
    timers.cancel(world, "phase", schedule["id"])
    subscription["schedule"] = None
    world.save(subscription)
    world.change(
        schedule, "subscription_schedule.released", status="released", released_at=world.now, current_phase=None,
        released_subscription=subscription["id"], subscription=None,
    )  # fmt: skip


@route("POST", "/v1/subscription_schedules/{schedule}/release", {"preserve_cancel_date": BOOLEAN})
def release(world: World, params: Json, schedule: str) -> Json:
    found = _active(world, schedule)
    subscription = world.load("subscription", found["subscription"])
    release_now(world, found, subscription)
    world.emit("customer.subscription.updated", subscription, previous={"schedule": schedule})
    return found


@route("POST", "/v1/subscription_schedules/{schedule}/cancel", {"invoice_now": BOOLEAN, "prorate": BOOLEAN})
def cancel(world: World, params: Json, schedule: str) -> Json:
    from . import endings  # noqa: PLC0415  # a subscription's renewal asks its schedule

    found = _active(world, schedule)
    subscription = world.load("subscription", found["subscription"])
    endings.end(world, subscription, invoice_now=params.get("invoice_now", True), prorate=params.get("prorate", True))
    return found
