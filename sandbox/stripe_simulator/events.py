"""Events: what happened, and whether everybody was told."""

from . import lists
from .errors import Json, refused
from .parameters import BOOLEAN, RANGE, TEXT
from .routes import in_range, paged, route
from .world import World

MAX_TYPES = 20


@route("GET", "/v1/events", paged({"created": RANGE, "delivery_success": BOOLEAN, "type": TEXT, "types": [TEXT]}))
def index(world: World, params: Json) -> Json:
    kinds = params.get("types") or ([params["type"]] if params.get("type") else [])
    if len(kinds) > MAX_TYPES or (params.get("types") and params.get("type")):
        raise refused("Pass `type` or up to 20 `types`.", param="types")
    parent = kinds[0] if len(kinds) == 1 and "*" not in kinds[0] else None
    wanted = params.get("delivery_success")
    found = (
        shown(world, one)
        for one in world.walk("event", parent=parent)
        if matches(kinds or ["*"], one["type"])
        and in_range(one["created"], params.get("created"))
        and (wanted is None or is_delivered(world, one["id"]) is wanted)
    )
    return lists.page(world, params, "/v1/events", found)


@route("GET", "/v1/events/{event}")
def retrieve(world: World, params: Json, event: str) -> Json:
    return shown(world, world.load("event", event))


def matches(kinds: list[str], name: str) -> bool:
    """Whether an event type is among these; `invoice.*` and `*` are patterns."""
    return any(kind in ("*", name) or (kind.endswith(".*") and name.startswith(kind[:-1])) for kind in kinds)


def shown(world: World, event: Json) -> Json:
    """The event with the number of endpoints that have not confirmed it yet."""
    (count,) = world.store.db.execute(
        "SELECT COUNT(*) FROM deliveries WHERE event = ? AND state = 'pending'", (event["id"],)
    ).fetchone()
    return {**event, "pending_webhooks": count}


def is_delivered(world: World, event: str) -> bool:
    """Whether every endpoint it was for has confirmed it."""
    (count,) = world.store.db.execute(
        "SELECT COUNT(*) FROM deliveries WHERE event = ? AND state <> 'delivered'", (event,)
    ).fetchone()
    return bool(count == 0)
