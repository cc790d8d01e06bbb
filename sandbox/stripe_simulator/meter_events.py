"""Usage as it arrives: what is refused at once, what is accepted, and what is found wrong only later."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil

from . import meters, oracle, timers
from .errors import Json, StripeError, missing, refused
from .parameters import ANYTHING, INTEGER, TEXT, one_of
from .routes import route
from .thin_events import emit_error_report
from .world import World

DAY = 86_400
OLDEST_SECONDS, NEWEST_SECONDS = 35 * DAY, 300
IDENTIFIER_SECONDS = DAY
MAX_IDENTIFIER, MAX_DIGITS = 100, 15
STREAM_BATCH, SESSION_SECONDS = 100, 900
COUNTED, CANCELLED, REJECTED = 0, 1, 2
EVENT: Json = {"event_name!": TEXT, "identifier": TEXT, "payload!": ANYTHING, "timestamp": INTEGER}
EVENT_V2: Json = {**EVENT, "timestamp": TEXT}


@dataclass(frozen=True, slots=True)
class Arrival:
    """One event as it was sent."""

    event_name: str
    identifier: str
    payload: Json
    at: int


@route("POST", "/v1/billing/meter_events", EVENT, is_serial=True)
def create(world: World, params: Json) -> Json:
    arrival = _arrival(world, params, params.get("timestamp"))
    _check_time(world, arrival)
    meter = meters.by_event_name(world, arrival.event_name)
    if meter is None:
        message = f'No active meter found for event name "{arrival.event_name}".'
        raise refused(message, param="event_name", code="resource_missing")
    _take(world, arrival, meter, is_synchronous=world.settings.meter_checks == "synchronous")
    return {
        "object": "billing.meter_event",
        "created": world.now,
        "event_name": arrival.event_name,
        "identifier": arrival.identifier,
        "livemode": False,
        "payload": arrival.payload,
        "timestamp": arrival.at,
    }


def _arrival(world: World, given: Json, at: int | None) -> Arrival:
    """Raises StripeError for a payload that is none and for an identifier that is too long or known."""
    identifier = given.get("identifier") or world.new_id("mtrevt", 32)
    payload = given["payload"]
    if not isinstance(payload, dict) or any(not isinstance(value, str) for value in payload.values()):
        raise refused("Invalid payload: must be a hash of strings.", param="payload")
    if len(identifier) > MAX_IDENTIFIER:
        raise refused(f"Invalid identifier: must be at most {MAX_IDENTIFIER} characters.", param="identifier")
    since = world.clock.now() - IDENTIFIER_SECONDS
    known = "SELECT 1 FROM meter_events WHERE identifier = ? AND arrived > ?"
    if world.store.db.execute(known, (identifier, since)).fetchone():
        raise refused(f"An event already exists with identifier {identifier}.")
    return Arrival(given["event_name"], identifier, payload, world.now if at is None else at)


def _check_time(world: World, arrival: Arrival) -> None:
    oldest, newest = world.now - OLDEST_SECONDS, world.now + NEWEST_SECONDS
    if arrival.at < oldest:
        message = "The event timestamp cannot be more than 35 days in past."
        message += f" Expected a timestamp greater than or equal to {oldest}."
        raise refused(message, param="timestamp", code="timestamp_too_far_in_past")
    if arrival.at > newest:
        message = "The event timestamp cannot be more than 5 minutes in the future."
        message += f" Expected a timestamp less than or equal to {newest}."
        raise refused(message, param="timestamp", code="timestamp_in_future")


def _take(world: World, arrival: Arrival, meter: Json, *, is_synchronous: bool) -> None:
    """The event counts, or it is set aside and reported later (or at once)."""
    problem = _problem(world, arrival, meter) or world.verdict(arrival.identifier, arrival.event_name)
    if problem and is_synchronous:
        raise refused(problem[1], param="payload", code=problem[0])
    if problem:
        set_aside(world, arrival, *problem, meter=meter["id"])
        return
    customer = arrival.payload[meter["customer_mapping"]["event_payload_key"]]
    value = int(arrival.payload[meter["value_settings"]["event_payload_key"]])
    _insert(world, arrival, customer=customer, value=value, fate=COUNTED)
    oracle.note(world, arrival.identifier, arrival.event_name, customer, value=value, at=arrival.at, fate="accepted")


def _insert(world: World, arrival: Arrival, *, customer: str, value: int, fate: int) -> None:
    now = world.clock.now()
    visible = now + world.settings.summary_delay_seconds
    world.store.db.execute(
        "INSERT INTO meter_events (identifier, event_name, customer, value, at, arrived, visible, is_cancelled)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (arrival.identifier, arrival.event_name, customer, value, arrival.at, now, visible, fate),
    )


def _problem(world: World, arrival: Arrival, meter: Json) -> tuple[str, str] | None:
    """Code and message of what validation finds, or None."""
    customer_key = meter["customer_mapping"]["event_payload_key"]
    value_key = meter["value_settings"]["event_payload_key"]
    customer, value = arrival.payload.get(customer_key), arrival.payload.get(value_key, "")
    if not customer:
        return "meter_event_no_customer_defined", f"Customer mapping key {customer_key} not found in payload."
    found = world.find("customer", customer)
    if found is None or found.get("deleted"):
        return "meter_event_customer_not_found", f"Customer with id {customer} not found."
    if not re.fullmatch(r"-?\d+", value):
        return "meter_event_invalid_value", f"Value '{value[:40]}' under key {value_key} is not a whole number."
    if len(value.lstrip("-")) > MAX_DIGITS:
        return "meter_event_value_too_many_digits", f"Value has more than {MAX_DIGITS} digits."
    return None


def set_aside(world: World, arrival: Arrival, code: str, message: str, *, meter: str | None) -> None:
    """The event will never be billed; an error report follows."""
    customer = next((value for value in arrival.payload.values() if value.startswith("cus_")), "")
    _insert(world, arrival, customer=customer, value=0, fate=REJECTED)
    value = arrival.payload.get("value", "0")
    oracle.note(
        world, arrival.identifier, arrival.event_name, customer, value=value, at=arrival.at, fate=f"rejected: {code}"
    )
    problem: Json = {
        "id": world.new_id("mtrerr"),
        "object": "link",
        "to": meter or "no_meter",
        "code": code,
        "message": message,
        "identifier": arrival.identifier,
        "at": world.now,
    }
    world.save(problem)
    due = ceil(world.clock.now() + world.settings.summary_delay_seconds)
    timers.schedule(world, "meter_errors", problem["to"], due)


@timers.action("meter_errors")
def _report(world: World, meter: str) -> None:
    problems = world.all("link", parent=meter, is_ascending=True)
    for problem in problems:
        world.forget(problem["id"])
    if problems:
        emit_error_report(world, None if meter == "no_meter" else meter, problems)


@route(
    "POST",
    "/v1/billing/meter_event_adjustments",
    {"cancel": {"identifier!": TEXT}, "event_name!": TEXT, "type!": one_of("cancel")},
)
def adjust(world: World, params: Json) -> Json:
    identifier = (params.get("cancel") or {}).get("identifier")
    if not identifier:
        raise refused("Missing required param: cancel.", param="cancel", code="parameter_missing")
    row = world.store.db.execute(
        "SELECT seq, event_name, customer, value, at, arrived, is_cancelled FROM meter_events WHERE identifier = ?"
        " ORDER BY seq DESC LIMIT 1",
        (identifier,),
    ).fetchone()
    if row is None or row[1] != params["event_name"] or row[6] == REJECTED:
        raise missing("meter event", identifier, param="cancel[identifier]")
    seq, name, customer, value, at, arrived, state = row
    if arrived <= world.clock.now() - IDENTIFIER_SECONDS:
        raise refused("A meter event can only be cancelled within 24 hours.", param="cancel[identifier]")
    if state == CANCELLED:
        raise refused("This meter event has already been cancelled.", param="cancel[identifier]")
    world.store.db.execute("UPDATE meter_events SET is_cancelled = ? WHERE seq = ?", (CANCELLED, seq))
    oracle.note(world, identifier, name, customer, value=-value, at=at, fate="cancelled")
    return {
        "object": "billing.meter_event_adjustment",
        "cancel": {"identifier": identifier},
        "event_name": name,
        "livemode": False,
        "status": "pending",
        "type": "cancel",
    }


@route("POST", "/v2/billing/meter_events", EVENT_V2, is_serial=True)
def create_v2(world: World, params: Json) -> Json:
    at = _moment(params.get("timestamp"))
    made = create(world, {**params, "timestamp": at})
    return {
        "object": "v2.billing.meter_event",
        "created": iso(made["created"]),
        "event_name": made["event_name"],
        "identifier": made["identifier"],
        "livemode": False,
        "payload": made["payload"],
        "timestamp": iso(made["timestamp"]),
    }


@route("POST", "/v2/billing/meter_event_session")
def create_session(world: World, params: Json) -> Json:
    session = {
        "id": world.new_id("mes_test"),
        "object": "v2.billing.meter_event_session",
        "authentication_token": world.new_id("token", 40),
        "created": iso(world.now),
        "expires_at": iso(world.now + SESSION_SECONDS),
        "livemode": False,
    }
    world.store.set(f"meter_session_{session['authentication_token']}", str(world.now + SESSION_SECONDS))
    return session


def is_session(world: World, token: str) -> bool:
    """Whether the token opens the meter event stream now."""
    expiry = world.store.setting(f"meter_session_{token}")
    return expiry is not None and int(expiry) > world.now


@route("POST", "/v2/billing/meter_event_stream", {"events!": [EVENT_V2]})
def stream(world: World, params: Json) -> Json:
    """All events are taken; everything but their shape is checked later."""
    if len(params["events"]) > STREAM_BATCH:
        raise refused(f"At most {STREAM_BATCH} events per request.", param="events")
    for given in params["events"]:
        _take_later(world, given)
    return {}


def _take_later(world: World, given: Json) -> None:
    try:
        arrival = _arrival(world, given, _moment(given.get("timestamp")))
    except StripeError:  # a known identifier: the first one counts
        return
    meter = meters.by_event_name(world, arrival.event_name)
    try:
        _check_time(world, arrival)
    except StripeError as error:
        set_aside(world, arrival, error.code or "", str(error), meter=meter["id"] if meter else None)
        return
    if meter:
        _take(world, arrival, meter, is_synchronous=False)
        return
    archived = meters.by_event_name(world, arrival.event_name, status="inactive")
    if archived:
        set_aside(world, arrival, "archived_meter", "The meter is archived.", meter=archived["id"])
    else:
        set_aside(world, arrival, "no_meter", f"No meter for {arrival.event_name}.", meter=None)


def _moment(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise refused(f"Invalid timestamp: {text[:40]}", param="timestamp") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
