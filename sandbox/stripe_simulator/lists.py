"""Lists with Stripe's cursors, and what `expand` puts in the place of ids."""

from collections.abc import Callable, Iterable
from typing import Any

from .errors import Json, missing, unreadable
from .world import World, listing, public

DEFAULT_LIMIT = 10
MAX_EXPANSIONS, MAX_DEPTH = 50, 4
# Fields that are only there when asked for: (object, field) -> value
INCLUDED: dict[tuple[str, str], Callable[[World, Json], Any]] = {}


def included(kind: str, name: str) -> Callable[[Callable[[World, Json], Any]], Callable[[World, Json], Any]]:
    """Register how a field that `expand` adds is made."""

    def register(make: Callable[[World, Json], Any]) -> Callable[[World, Json], Any]:
        INCLUDED[kind, name] = make
        return make

    return register


def page(world: World, params: Json, url: str, things: Iterable[Json]) -> Json:
    """The part of a newest-first list that `limit`, `starting_after` and `ending_before` ask for."""
    limit = params.get("limit") or DEFAULT_LIMIT
    after, before = params.get("starting_after"), params.get("ending_before")
    if before:
        return _page_before(before, limit, url, things)
    found: list[Json] = []
    is_reached = after is None
    for thing in things:
        if is_reached:
            found.append(thing)
            if len(found) > limit:
                break
        elif thing["id"] == after:
            is_reached = True
    if not is_reached:
        raise missing("object", str(after), param="starting_after")
    return listing(url, found[:limit], has_more=len(found) > limit)


def _page_before(before: str, limit: int, url: str, things: Iterable[Json]) -> Json:
    newer: list[Json] = []
    for thing in things:
        if thing["id"] == before:
            return listing(url, newer[-limit:], has_more=len(newer) > limit)
        newer.append(thing)
    raise missing("object", before, param="ending_before")


def present(world: World, thing: Json, expand: list[str] | None) -> Json:
    """The object as the API shows it, with the expansions asked for; raises StripeError for those it cannot do."""
    if len(expand or ()) > MAX_EXPANSIONS:
        raise unreadable("You cannot expand more than 50 properties at once", param="expand", code=None)
    wishes = [path.split(".") for path in expand or ()]
    if any(len(keys) - (keys[0] == "data") > MAX_DEPTH for keys in wishes):
        raise unreadable("You cannot expand more than 4 levels of a property", param="expand", code=None)
    raw = thing
    for keys in wishes:
        raw = _expanded(world, raw, keys, ".".join(keys))
    shown: Json = public(raw)
    return shown


def _expanded(world: World, thing: Json, keys: list[str], path: str) -> Json:
    """A copy with one path of expansions done."""
    name, rest = keys[0], keys[1:]
    value = _value(world, thing, name, path)
    if isinstance(value, str):
        value = world.any(value) or value
    if rest:
        value = _below(world, value, rest, path)
    return {**thing, name: value}


def _below(world: World, value: Any, keys: list[str], path: str) -> Any:
    if isinstance(value, list):
        return [_below(world, one, keys, path) for one in value]
    if isinstance(value, dict):
        return _expanded(world, value, keys, path)
    return value


def _value(world: World, thing: Json, name: str, path: str) -> Any:
    if make := INCLUDED.get((thing.get("object", ""), name)):
        return make(world, thing)
    if f"_{name}" in thing:
        return thing[f"_{name}"]
    if name not in thing or isinstance(thing[name], (int, float)):
        raise unreadable(f"This property cannot be expanded ({path}).", param="expand", code=None)
    value = thing[name]
    if isinstance(value, list):
        return [_object(world, one) for one in value]
    return value


def _object(world: World, value: Any) -> Any:
    if isinstance(value, str):
        return world.any(value) or value
    return value
