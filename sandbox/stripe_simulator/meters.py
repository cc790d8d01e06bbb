"""Billing meters and their summaries, which show an event only a moment after it was accepted."""

from typing import Any

from . import lists
from .errors import Json, refused
from .parameters import INTEGER, TEXT, one_of
from .routes import paged, route
from .world import World

GROUPINGS = {"hour": 3_600, "day": 86_400}
MINUTE = 60


@route(
    "POST",
    "/v1/billing/meters",
    {
        "customer_mapping": {"event_payload_key!": TEXT, "type!": one_of("by_id")},
        "default_aggregation!": {"formula!": one_of("count", "last", "sum")},
        "display_name!": TEXT,
        "event_name!": TEXT,
        "event_time_window": one_of("day", "hour"),
        "value_settings": {"event_payload_key!": TEXT},
    },
)
def create(world: World, params: Json) -> Json:
    name = params["event_name"]
    if by_event_name(world, name):
        message = f"An active meter already exists with event name: {name}"
        raise refused(message, param="event_name", code="resource_already_exists")
    meter = {
        "id": world.new_id("mtr_test"),
        "object": "billing.meter",
        "created": world.now,
        "customer_mapping": params.get("customer_mapping")
        or {"event_payload_key": "stripe_customer_id", "type": "by_id"},
        "default_aggregation": params["default_aggregation"],
        "display_name": params["display_name"],
        "event_name": name,
        "event_time_window": params.get("event_time_window"),
        "livemode": False,
        "status": "active",
        "status_transitions": {"deactivated_at": None},
        "updated": world.now,
        "value_settings": params.get("value_settings") or {"event_payload_key": "value"},
    }
    return world.add(meter, "billing.meter.created")


def by_event_name(world: World, name: str, *, status: str = "active") -> Json | None:
    """The meter that counts these events."""
    return next(
        (one for one in world.all("billing.meter") if one["event_name"] == name and one["status"] == status), None
    )


@route("GET", "/v1/billing/meters", paged({"status": one_of("active", "inactive")}))
def index(world: World, params: Json) -> Json:
    wanted = params.get("status")
    found = (one for one in world.walk("billing.meter") if wanted in (None, one["status"]))
    return lists.page(world, params, "/v1/billing/meters", found)


@route("GET", "/v1/billing/meters/{meter}")
def retrieve(world: World, params: Json, meter: str) -> Json:
    return world.load("billing.meter", meter)


@route("POST", "/v1/billing/meters/{meter}", {"display_name": TEXT})
def update(world: World, params: Json, meter: str) -> Json:
    found = world.load("billing.meter", meter)
    name = params.get("display_name") or found["display_name"]
    return world.change(found, "billing.meter.updated", display_name=name, updated=world.now)


@route("POST", "/v1/billing/meters/{meter}/deactivate")
def deactivate(world: World, params: Json, meter: str) -> Json:
    found = world.load("billing.meter", meter)
    if found["status"] == "inactive":
        raise refused("This meter is already inactive.")
    transitions = {"deactivated_at": world.now}
    return world.change(found, "billing.meter.deactivated", status="inactive", status_transitions=transitions)


@route("POST", "/v1/billing/meters/{meter}/reactivate")
def reactivate(world: World, params: Json, meter: str) -> Json:
    found = world.load("billing.meter", meter)
    if found["status"] == "active" or by_event_name(world, found["event_name"]):
        raise refused("This meter, or another one with its event name, is active.")
    transitions = {"deactivated_at": None}
    return world.change(found, "billing.meter.reactivated", status="active", status_transitions=transitions)


@route(
    "GET",
    "/v1/billing/meters/{meter}/event_summaries",
    paged({
        "customer!": TEXT, "start_time!": INTEGER, "end_time!": INTEGER, "value_grouping_window": one_of("day", "hour"),
    }),
)  # fmt: skip
def summaries(world: World, params: Json, meter: str) -> Json:
    found = world.load("billing.meter", meter)
    start, end = params["start_time"], params["end_time"]
    world.load("customer", params["customer"], param="customer")
    for name, moment in (("start_time", start), ("end_time", end)):
        if moment % MINUTE:
            raise refused(f"`{name}` must be aligned with minute boundaries.", param=name)
    if end <= start:
        raise refused("`end_time` must be after `start_time`.", param="end_time")
    grouping = params.get("value_grouping_window")
    if grouping and (start % GROUPINGS[grouping] or end % GROUPINGS[grouping]):
        raise refused(f"`start_time` and `end_time` must be aligned with UTC {grouping}s.", param="start_time")
    rows = _grouped(world, found, params["customer"], start, end, GROUPINGS[grouping] if grouping else end - start)
    url = f"/v1/billing/meters/{meter}/event_summaries"
    return lists.page(world, params, url, rows)


def _grouped(world: World, meter: Json, customer: str, start: int, end: int, width: int) -> list[Json]:  # noqa: PLR0917
    """One summary per window, the latest first; windows without usage are left out when grouped."""
    rows = []
    for begin in range(start, end, width):
        until = min(end, begin + width)
        count, value = usage(world, meter, customer, begin, until)
        if count or width == end - start:
            rows.append(
                {
                    "id": f"mtrusg_test_{meter['id'][-6:]}{customer[-6:]}{begin}",
                    "object": "billing.meter_event_summary",
                    "aggregated_value": float(value),
                    "end_time": until,
                    "livemode": False,
                    "meter": meter["id"],
                    "start_time": begin,
                }
            )
    return rows[::-1]


def usage(world: World, meter: Json, customer: str, start: int, end: int) -> tuple[int, int]:
    """How many events are visible in [start, end), and their total by the meter's formula."""
    columns = {"sum": "COALESCE(SUM(value), 0)", "count": "COUNT(*)", "last": "0"}[
        meter["default_aggregation"]["formula"]
    ]
    where = (
        " FROM meter_events WHERE event_name = ? AND customer = ? AND at >= ? AND at < ?"
        " AND is_cancelled = 0 AND visible <= ?"
    )
    values: tuple[Any, ...] = (meter["event_name"], customer, start, end, world.clock.now())
    count, value = world.store.db.execute(f"SELECT COUNT(*), {columns}{where}", values).fetchone()
    if meter["default_aggregation"]["formula"] == "last" and count:
        (value,) = world.store.db.execute(f"SELECT value{where} ORDER BY at DESC, seq DESC LIMIT 1", values).fetchone()
    return int(count), int(value)


def total(world: World, meter_id: str, customer: str, start: int, end: int) -> int:
    """The visible usage of [start, end)."""
    meter = world.load("billing.meter", meter_id)
    return usage(world, meter, customer, start, end)[1]
