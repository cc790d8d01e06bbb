"""Thin events (v2): the notification names the object, the rest is fetched."""

from collections import defaultdict
from datetime import UTC, datetime

from .errors import Json, missing
from .parameters import TEXT
from .routes import route
from .world import World

MAX_SAMPLES = 5


def emit_error_report(world: World, meter: str | None, problems: list[Json]) -> Json:
    """`v1.billing.meter.error_report_triggered`, or `no_meter_found` when no meter is known."""
    by_code: dict[str, list[Json]] = defaultdict(list)
    for problem in problems:
        by_code[problem["code"]].append(problem)
    count = len(problems)
    event: Json = {
        "id": world.new_id("evt_test"),
        "object": "v2.core.event",
        "changes": None,
        "context": None,
        "created": _iso(world.clock.now()),
        "data": {
            "developer_message_summary": f"There {'is' if count == 1 else 'are'} {count} invalid event{'s'[: count > 1]}",
            "reason": {
                "error_count": count,
                "error_types": [_error_type(code, found) for code, found in by_code.items()],
            },
            "validation_end": _iso(world.clock.now()),
            "validation_start": _iso(problems[0]["at"]),
        },
        "livemode": False,
        "reason": None,
        "type": "v1.billing.meter.error_report_triggered" if meter else "v1.billing.meter.no_meter_found",
    }
    if meter:
        event["related_object"] = {"id": meter, "type": "billing.meter", "url": f"/v1/billing/meters/{meter}"}
    world.save(event)
    world.emitted(event)
    return event


def _error_type(code: str, found: list[Json]) -> Json:
    return {
        "code": code,
        "error_count": len(found),
        "sample_errors": [
            {"error_message": one["message"], "request": {"identifier": one["identifier"]}}
            for one in found[:MAX_SAMPLES]
        ],
    }


def notification(event: Json) -> Json:
    """What the webhook carries: the event without its data."""
    return {name: value for name, value in event.items() if name not in {"data", "changes"}}


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@route("GET", "/v2/core/events/{event}")
def retrieve(world: World, params: Json, event: str) -> Json:
    return world.load("v2.core.event", event)


@route("GET", "/v2/core/events", {"limit": TEXT, "object_id": TEXT})
def index(world: World, params: Json) -> Json:
    wanted = params.get("object_id")
    found = [
        one for one in world.walk("v2.core.event") if wanted in (None, (one.get("related_object") or {}).get("id"))
    ]
    if wanted and not found and world.store.get(wanted) is None:
        raise missing("object", wanted, param="object_id")
    return {"data": found[: int(params.get("limit") or 20)], "next_page_url": None, "previous_page_url": None}
