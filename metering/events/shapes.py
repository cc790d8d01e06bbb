"""What an event looks like on the wire: CloudEvents 1.0 in JSON, or plain JSON. Pure: bytes in, events and faults out.

CloudEvents: github.com/cloudevents/spec, "JSON Event Format" 1.0, structured and batch. What is metered stands in `data`; without a
capability there the event's `type` names it. Plain JSON has the same members at its top level, and no others.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from metering.calls import CAPABILITY, MAX_COST

STRUCTURED, BATCH, PLAIN = "application/cloudevents+json", "application/cloudevents-batch+json", "application/json"
MAX_EVENTS = 1000
LONGEST_NAME = 255
MAX_LATENCY_MS = 2_000_000  # the ledger keeps microseconds in 32 bits
OUTCOMES = {"billable": HTTPStatus.OK.value, "failed": HTTPStatus.INTERNAL_SERVER_ERROR.value}
METERED = frozenset({"capability", "quantity", "outcome", "status", "latency_ms", "admit"})
PLAIN_MEMBERS = METERED | {"id", "source", "occurred_at"}


@dataclass(frozen=True, slots=True)
class Event:
    """One use of a capability, as its sender tells it. `source` and `id` together name it for ever."""

    source: str
    id: str
    capability: str
    units: int = 1
    status: int = HTTPStatus.OK.value
    latency_us: int | None = None  # None: not known
    occurred_at: datetime | None = None  # None: when it is received
    admit: bool = False  # whether the limits decide


@dataclass(frozen=True, slots=True)
class Fault:
    """An entry that is no event, and why; its id where that can be read."""

    id: str | None
    why: str


class Unreadable(Exception):
    """The body as a whole cannot be read."""


class TooMany(Unreadable):
    """More events than one request may carry."""


class Wrong(Exception):
    """One entry is not valid."""


def read(body: bytes, *, content_type: str, source: str) -> tuple[list[Event | Fault], bool]:
    """The events of a request in their order, and whether it was a single one. `source`: of plain events that name none.

    Raises Unreadable for what is no JSON or has another shape than its content type says.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise Unreadable("The body is not JSON.") from None
    is_list = isinstance(document, list)
    if (content_type == BATCH and not is_list) or (content_type == STRUCTURED and is_list):
        raise Unreadable(f"{STRUCTURED} is one event, {BATCH} a list of them.")
    entries = document if is_list else [document]
    if len(entries) > MAX_EVENTS:
        raise TooMany(f"A request carries at most {MAX_EVENTS:,} events; this one has {len(entries):,}.")
    is_cloud = content_type in {STRUCTURED, BATCH}
    return [_entry(entry, is_cloud=is_cloud, source=source) for entry in entries], not is_list


def _entry(entry: Any, *, is_cloud: bool, source: str) -> Event | Fault:
    try:
        if not isinstance(entry, Mapping):
            raise Wrong("An event is a JSON object.")
        return cloud_event(entry) if is_cloud or "specversion" in entry else plain_event(entry, source=source)
    except Wrong as wrong:
        name = entry.get("id") if isinstance(entry, Mapping) else None
        return Fault(name[:LONGEST_NAME] if isinstance(name, str) else None, str(wrong))


def cloud_event(entry: Mapping[str, Any]) -> Event:
    """A CloudEvent; attributes and data members that mean nothing here are left alone. Raises Wrong."""
    if entry.get("specversion") != "1.0":
        raise Wrong("specversion: only 1.0 is read.")
    content = str(entry.get("datacontenttype") or PLAIN).partition(";")[0].strip().lower()
    data = entry.get("data", {})
    if content != PLAIN or not isinstance(data, Mapping):
        raise Wrong("data: it is a JSON object (datacontenttype application/json).")
    kind = _text(entry, "type")
    return Event(
        source=_text(entry, "source"),
        id=_text(entry, "id"),
        capability=_capability(data.get("capability", kind), "data.capability, else type"),
        occurred_at=_instant(entry.get("time"), "time"),
        **_measured(data),
    )


def plain_event(entry: Mapping[str, Any], *, source: str) -> Event:
    """An event without an envelope; a member that nobody reads is a mistake, so it is refused. Raises Wrong."""
    unknown = sorted(set(entry) - PLAIN_MEMBERS)
    if unknown:
        raise Wrong(f"{unknown[0]}: there is no such member. Known: {', '.join(sorted(PLAIN_MEMBERS))}.")
    return Event(
        source=_text(entry, "source") if "source" in entry else source,
        id=_text(entry, "id"),
        capability=_capability(entry.get("capability"), "capability"),
        occurred_at=_instant(entry.get("occurred_at"), "occurred_at"),
        **_measured(entry),
    )


def _measured(members: Mapping[str, Any]) -> dict[str, Any]:
    """quantity, outcome or status, latency_ms, admit."""
    return {
        "units": _whole(members.get("quantity", 1), "quantity", least=1, most=MAX_COST),
        "status": _status(members),
        "latency_us": _latency(members.get("latency_ms")),
        "admit": _flag(members.get("admit", False)),
    }


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value or len(value) > LONGEST_NAME or not value.isprintable():
        raise Wrong(f"{name}: it is a text of 1 to {LONGEST_NAME} printable characters.")
    return value


def _capability(value: Any, name: str) -> str:
    if not isinstance(value, str) or not CAPABILITY.fullmatch(value):
        raise Wrong(f"{name}: a capability is a name of at most 60 characters a-z, 0-9, '_', '.', '-'.")
    return value


def _whole(value: Any, name: str, *, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:  # a bool is an int, and no number
        raise Wrong(f"{name}: it is a whole number from {least:,} to {most:,}.")
    return int(value)


def _status(members: Mapping[str, Any]) -> int:
    outcome, status = members.get("outcome"), members.get("status")
    if status is not None:
        if outcome is not None:
            raise Wrong("outcome: give it or status, not both.")
        return _whole(status, "status", least=100, most=599)
    if outcome is None:
        return HTTPStatus.OK.value
    if not isinstance(outcome, str) or outcome not in OUTCOMES:
        raise Wrong(f"outcome: it is one of {', '.join(OUTCOMES)}.")
    return OUTCOMES[outcome]


def _latency(value: Any) -> int | None:
    if value is None:
        return None
    if type(value) not in {int, float} or not 0 <= value <= MAX_LATENCY_MS:
        raise Wrong(f"latency_ms: it is a number from 0 to {MAX_LATENCY_MS:,}.")
    microseconds: int = round(value * 1000)
    return microseconds


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Wrong("admit: it is true or false.")
    return value


def _instant(value: Any, name: str) -> datetime | None:
    if value is None:
        return None
    try:
        instant = datetime.fromisoformat(value)
        if instant.tzinfo is None:
            raise Wrong(f"{name}: it needs an offset from UTC, as in 2026-11-01T13:00:00Z.")
        return instant.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise Wrong(f"{name}: write it as 2026-11-01T13:00:00Z (RFC 3339).") from None
