"""The API: authentication, parameters, idempotency, faults, and one transaction around each effect and its events."""

import base64
import binascii
import json
import time
from collections import deque
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from . import forms, idempotency, parameters, routes
from .errors import Json, StripeError, broken, too_many, unauthorized, unreadable
from .faults import Faults, Rule
from .idempotency import InFlight, Saved
from .lists import present
from .messages import Answer, Request
from .meter_events import is_session
from .world import ACCOUNT_ID, API_VERSION, Origin, World

LOGGED_REQUESTS = 500
STREAM = "/v2/billing/meter_event_stream"
KNOWN_KEYS = 8  # of a key, in error messages


@dataclass(frozen=True)
class Logged:
    """One line of the request log; no secrets."""

    method: str
    path: str
    params: Json
    status: int
    idempotency_key: str | None
    request_id: str
    fault: str | None


@dataclass
class Call:
    """A request on its way through."""

    request: Request
    request_id: str
    key: str | None = None
    params: Json = field(default_factory=dict)
    raw: Json = field(default_factory=dict)
    fault: Rule | None = None
    is_replayed: bool = False

    def meets(self, kind: str) -> bool:
        return self.fault is not None and self.fault.kind == kind


@dataclass
class Api:
    """Answers requests under /v1 and /v2."""

    world: World
    faults: Faults
    keys: list[str]
    log: deque[Logged] = field(default_factory=lambda: deque(maxlen=LOGGED_REQUESTS))
    observers: list[Any] = field(default_factory=list)  # called with (request, params, status, body)
    _keys_in_flight: InFlight = field(default_factory=InFlight)
    _meters_in_flight: InFlight = field(default_factory=InFlight)

    def answer(self, request: Request) -> Answer:
        """The answer, faults included."""
        call = Call(request, self.world.new_id("req", 14), request.headers.get("idempotency-key") or None)
        named = f"{request.query} {request.body.decode(errors='replace')}"
        call.fault = self.faults.request(request.method, request.path, named)
        if call.meets("drop_before"):
            return self._logged(call, Answer(0, cut=True))
        saved = self._saved(call)
        return self._logged(call, self._spoiled(call, self._answer(call, saved)))

    def _saved(self, call: Call) -> Saved:
        """What happened: the status and body, and the effect is committed."""
        try:
            return self._run(call)
        except StripeError as error:
            body = json.dumps(error.body(call.request_id), indent=2)
            return Saved(error.status, body, call.request_id)

    def _run(self, call: Call) -> Saved:
        request = call.request
        self._authenticate(request)
        if call.meets("error_500_before"):
            raise broken()
        if call.meets("rate_limit_429"):
            raise too_many("Request rate limit exceeded. (simulated)", code="rate_limit")
        found = routes.find(request.method, request.path)
        if found is None:
            message = f"Unrecognized request URL ({request.method}: {request.path})."
            raise StripeError(message, status=HTTPStatus.NOT_FOUND, is_saved=False)
        route, named = found
        call.raw = _given(request)
        call.params = parameters.check(route.fields, call.raw)
        key = call.key if request.method == "POST" else None
        serial = _serial_name(call.params) if route.is_serial else None
        lock_timeout = too_many(
            "This object cannot be accessed right now because another API request is currently accessing it.",
            code="lock_timeout",
        )
        with (
            self._keys_in_flight.only_one(key, idempotency.in_use(key)),
            self._meters_in_flight.only_one(serial, lock_timeout),
        ):
            if call.fault and call.fault.kind == "timeout":  # meanwhile the key and the meter are in use
                time.sleep(call.fault.seconds)
            return self._once(call, route, named, key)

    def _once(self, call: Call, route: routes.Route, named: dict[str, str], key: str | None) -> Saved:
        """The saved answer of this key, or the effect and its answer, saved together."""
        world = self.world
        mark = idempotency.fingerprint(call.request.method, call.request.path, call.raw)
        with world.lock:
            world.clock.pin()
            world.origin = Origin(call.request_id, key)
            try:
                with world.transaction():
                    before = idempotency.saved(world, key, mark) if key else None
                if before:
                    call.is_replayed = True
                    return before
                return self._act(call, route, named, (key, mark))
            finally:
                world.origin = Origin()
                world.clock.unpin()
                world.wake()

    def _act(self, call: Call, route: routes.Route, named: dict[str, str], save_as: tuple[str | None, str]) -> Saved:
        world, (key, mark) = self.world, save_as
        try:
            with world.transaction():
                done = self._effect(call, route, named)
                if key:
                    idempotency.save(world, key, mark, done)
                if call.request.method != "GET":
                    world.clock.keep()
            return done
        except StripeError as error:
            refused = Saved(error.status, json.dumps(error.body(call.request_id), indent=2), call.request_id)
            if key and error.is_saved:
                with world.transaction():
                    idempotency.save(world, key, mark, refused)
            return refused

    def _effect(self, call: Call, route: routes.Route, named: dict[str, str]) -> Saved:
        """The route's function has run. A refusal that keeps its effect (a card that declined) is an answer too."""
        try:
            made = route.act(self.world, call.params, **named)
        except StripeError as error:
            if not error.keeps_effect:
                raise
            return Saved(error.status, json.dumps(error.body(call.request_id), indent=2), call.request_id)
        if call.meets("error_500_after"):
            return Saved(500, json.dumps(broken().body(call.request_id), indent=2), call.request_id)
        shown = present(self.world, made, call.params.get("expand"))
        return Saved(HTTPStatus.OK, json.dumps(shown, indent=2), call.request_id)

    def _authenticate(self, request: Request) -> None:
        """Raises StripeError unless one of the keys, or for the stream a session's token, is given."""
        given = _secret(request.headers.get("authorization", ""))
        if not given:
            message = "You did not provide an API key. You need to provide your API key in the Authorization header,"
            raise unauthorized(f"{message} using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').")
        if request.path == STREAM:
            with self.world.lock:
                is_known = is_session(self.world, given)
        else:
            is_known = given in self.keys
        if not is_known:
            raise unauthorized(f"Invalid API Key provided: {given[:KNOWN_KEYS]}{'*' * 8}{given[-4:]}")
        version = request.headers.get("stripe-version", API_VERSION)
        if version != API_VERSION:
            raise unreadable(f"Invalid Stripe API version: {version}; this is {API_VERSION}.", param=None, code=None)

    def _answer(self, call: Call, saved: Saved) -> Answer:
        headers = {
            "Request-Id": saved.request_id,
            "Stripe-Version": API_VERSION,
            "Stripe-Account": ACCOUNT_ID,
        }
        if call.key:
            headers["Idempotency-Key"] = call.key
        if call.is_replayed:
            headers |= {"Idempotent-Replayed": "true", "Original-Request": saved.request_id}
        if saved.status == HTTPStatus.TOO_MANY_REQUESTS:
            headers["Retry-After"] = "1"
        for observe in self.observers:
            observe(call.request, call.raw, saved.status, json.loads(saved.body))
        return Answer(saved.status, saved.body.encode(), headers=headers)

    def _spoiled(self, call: Call, answer: Answer) -> Answer:
        """What the fault makes of the answer after the effect."""
        match call.fault.kind if call.fault else None:
            case "drop_after":
                return Answer(answer.status, cut=True)
            case "garbage":
                return Answer(HTTPStatus.OK, b"<html>upstream hiccup \xff\xfe</html>", "text/html", answer.headers)
            case "slow_drip":
                seconds = call.fault.seconds if call.fault else 0.0
                return Answer(answer.status, answer.body, answer.content_type, answer.headers, drip_seconds=seconds)
            case _:
                return answer

    def _logged(self, call: Call, answer: Answer) -> Answer:
        fault = call.fault.kind if call.fault else None
        line = Logged(call.request.method, call.request.path, call.raw, answer.status, call.key, call.request_id, fault)
        self.log.appendleft(line)
        return answer


def _secret(header: str) -> str:
    """The key of a Bearer or Basic header, or nothing."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _given(request: Request) -> Json:
    """Parameters of the query and of the body; raises StripeError for a body that is not JSON where JSON is due."""
    given = forms.parse(request.query)
    if request.path.startswith("/v2/"):
        try:
            body = request.json()
        except ValueError:
            raise unreadable("The request body is not JSON.", param=None, code=None) from None
        return {**given, **body} if isinstance(body, dict) else given
    if request.body:
        given |= forms.parse(request.body.decode(errors="replace"))
    return given


def _serial_name(params: Json) -> str:
    """Customer and meter of a meter event."""
    payload = params.get("payload")
    customer = payload.get("stripe_customer_id") if isinstance(payload, dict) else None
    return f"{params.get('event_name')} {customer}"
