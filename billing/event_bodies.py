"""What a webhook must say before it is stored. Stripe signs what it sends; here it is read strictly all the same."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .errors import BillingError
from .models import StripeEvent

ID = re.compile(r"evt_\w{1,251}", re.ASCII)
TYPE = re.compile(r"[a-z0-9_.]{1,120}")
OBJECTS = {StripeEvent.Kind.SNAPSHOT: "event", StripeEvent.Kind.THIN: "v2.core.event"}
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # PostgreSQL's JSON holds neither NUL nor half a character
LONGEST_ID = 255
LATEST = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
MAX_DEPTH = 200  # Stripe's objects are not ten deep


class EventRefused(BillingError):
    """The event is not for us, and nothing was written."""


class Malformed(EventRefused):
    """It lacks what an event of this kind has."""


class WrongMode(EventRefused):
    """A live event where test ones are expected, or the other way round."""


class ForeignAccount(EventRefused):
    """It happened in another Stripe account."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """An event as it came in, with the fields that the inbox looks for."""

    id: str
    type: str
    created_at: datetime
    object_id: str
    customer_id: str
    is_live: bool
    body: dict[str, Any]


def read(*, kind: StripeEvent.Kind, body: Mapping[str, Any], is_live: bool) -> Incoming:
    """The event in this body; raises EventRefused when it is none, of another mode, or of another account."""
    _require(body.get("object") == OBJECTS[kind], f"'object' is not '{OBJECTS[kind]}'")
    if body.get("account") or body.get("context"):
        raise ForeignAccount("The event happened in another account.")
    mode = body.get("livemode")
    _require(isinstance(mode, bool), "'livemode' is missing")
    if mode != is_live:
        raise WrongMode("The event is of live mode." if mode else "The event is of test mode.")
    about = _about(kind, body)
    return Incoming(
        id=_matching(ID, body, "id"),
        type=_matching(TYPE, body, "type"),
        created_at=_created_at(kind, body.get("created")),
        object_id=_id(about.get("id")),
        customer_id=_id(about.get("id") if about.get("object") == "customer" else about.get("customer")),
        is_live=is_live,
        body=_storable(body, MAX_DEPTH),
    )


def _require(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise Malformed(f"This is no event of Stripe's: {otherwise}.")


def _about(kind: StripeEvent.Kind, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object that the event is about; a thin event may be about none."""
    if kind == StripeEvent.Kind.THIN:
        about = body.get("related_object") or {}
        _require(isinstance(about, Mapping), "'related_object' is no object")
        return {"id": about.get("id")}
    within = body.get("data")
    about = within.get("object") if isinstance(within, Mapping) else None
    _require(isinstance(about, Mapping), "'data.object' is missing")
    return about or {}


def _matching(pattern: re.Pattern[str], body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    _require(isinstance(value, str) and pattern.fullmatch(value) is not None, f"'{name}' is missing")
    return str(value)


def _created_at(kind: StripeEvent.Kind, value: Any) -> datetime:
    """Seconds since 1970 in a snapshot, ISO 8601 in a thin event."""
    if kind == StripeEvent.Kind.SNAPSHOT:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        _require(is_whole and 0 < value < LATEST, "'created' is missing")
        return datetime.fromtimestamp(value, UTC)
    try:
        at = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise Malformed("This is no event of Stripe's: 'created' is missing.") from None
    _require(at.tzinfo is not None and 0 < at.timestamp() < LATEST, "'created' is no instant")
    return at.astimezone(UTC)


def _id(value: Any) -> str:
    """An id, that of the expanded object, or nothing."""
    if isinstance(value, Mapping):
        value = value.get("id")
    if value is None:
        return ""
    _require(isinstance(value, str) and len(value) <= LONGEST_ID, "an id is none")
    return UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value)


def _storable(value: Any, depth: int) -> Any:
    """The same, as PostgreSQL's JSON can hold it."""
    _require(depth > 0, "it is nested too deeply")
    if isinstance(value, str):
        return UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, Mapping):
        return {_storable(name, depth - 1): _storable(inner, depth - 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_storable(inner, depth - 1) for inner in value]
    _require(not isinstance(value, float) or math.isfinite(value), "a number is none")
    return value
