"""`/gate`: what proxies ask before each request, and `POST /gate/outcomes`: where they tell how it was answered.

Answered by the metering middleware before anything else of Django's stack runs: a decision takes a lease's unit and no page's work.
"""

import hmac
import json
from http import HTTPStatus
from time import perf_counter_ns
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from rest_framework import exceptions

from metering import calls
from metering.database import Unreachable
from tenants.authentication import REFUSED, check_scope, verified
from tenants.error_answers import plain_answer
from tenants.keys import Caller
from tenants.problems import Problem, ServiceUnavailable

from . import outcomes, paths
from .outcomes import Result, State, Told

GATE = "/gate"
AT = "/gate/at/"  # with the path that is asked for after it, as Envoy asks
OUTCOMES = "/gate/outcomes"
MAX_BYTES = 1024 * 1024
MAX_OUTCOMES = 1000
MAX_LATENCY_MS = 2_000_000
STATUSES = range(100, 600)
SECRET_REFUSED = "Send one of GATE_SECRETS as 'Authorization: Bearer ...'."  # noqa: S105 -- no secret


class GateMisconfigured(Problem):
    """The operator's to mend; the proxy answers its client with 500."""

    status_code = HTTPStatus.INTERNAL_SERVER_ERROR
    slug = "gate-misconfigured"
    title = "The gateway is not configured"


class NotMetered(Problem):
    status_code = HTTPStatus.FORBIDDEN
    slug = "path-not-served"
    title = "This path is not served"


def answer(request: HttpRequest) -> HttpResponse | None:
    """The gateway's answer, None where the request is not for the gateway."""
    path = request.path_info
    if path == GATE or path.startswith(AT):
        return _decide(request)
    return _outcomes(request) if path == OUTCOMES else None


# -- before the request ------------------------------------------------------------------------------------------------


def _decide(request: HttpRequest) -> HttpResponse:
    started = perf_counter_ns()
    try:
        header = request.META.get("HTTP_AUTHORIZATION", "")
        if not header:
            raise exceptions.NotAuthenticated(REFUSED)
        caller = verified(header)
        check_scope(caller, "calls")
        capability, cost = _asked(request)
        call = calls.open_call(caller=caller, capability=capability, cost=cost)
    except exceptions.APIException as error:
        return _refusal(error)
    if call.problem is not None:
        calls.close_call(call, status=call.problem.status_code, latency_us=(perf_counter_ns() - started) // 1000)
        return _refusal(call.problem, calls.headers(call))
    calls.hold_call(call)
    status = HTTPStatus.NO_CONTENT if request.path_info == GATE else HTTPStatus.OK  # Envoy takes nothing else for a yes
    admitted = HttpResponse(status=status, headers={**calls.headers(call), **_named(caller)})
    del admitted["Content-Type"]
    if status == HTTPStatus.OK:
        admitted["Content-Length"] = "0"  # else it would be sent in chunks
    return admitted


def _named(caller: Caller) -> dict[str, str]:
    return {
        "Meterhouse-Tenant": str(caller.tenant_id),
        "Meterhouse-Project": str(caller.project_id),
        "Meterhouse-Key": caller.prefix,
        "Cache-Control": "no-store",
    }


def _refusal(error: exceptions.APIException, headers: dict[str, str] | None = None) -> HttpResponse:
    """The problem, and once more in a field: nginx hands on the fields of this answer, never its body."""
    refused = plain_answer(error)
    for name, value in (headers or {}).items():
        refused[name] = value
    refused["Meterhouse-Problem"] = refused.content.decode()  # JSON in ASCII, on one line
    refused["Cache-Control"] = "no-store"
    return refused


def _asked(request: HttpRequest) -> tuple[str, int]:
    """Capability and cost. Where there is a path map it alone decides: what a client sends in a header means nothing then."""
    if settings.GATE["PATHS"]:
        at = request.path_info
        path = (
            at.removeprefix("/gate/at") if at != GATE else paths.path_of(request.META.get("HTTP_X_FORWARDED_URI", ""))
        )
        if not path:
            raise GateMisconfigured("The proxy must send the request's path as X-Forwarded-Uri.")
        rule = paths.rule_of(path)
        if rule is None:
            raise NotMetered("No capability is configured for this path.")
        return rule.capability, rule.cost
    capability = request.META.get("HTTP_METERHOUSE_CAPABILITY", "")
    cost = request.META.get("HTTP_METERHOUSE_COST", "1")
    if not calls.CAPABILITY.fullmatch(capability):
        raise GateMisconfigured(
            "The proxy must send Meterhouse-Capability, or GATE_PATHS name a capability for each path."
        )
    if not (cost.isascii() and cost.isdigit() and 1 <= int(cost[:10]) <= calls.MAX_COST):
        raise GateMisconfigured(f"Meterhouse-Cost is a whole number from 1 to {calls.MAX_COST:,}.")
    return capability, int(cost)


# -- after it ----------------------------------------------------------------------------------------------------------


class Invalid(Problem):
    status_code = HTTPStatus.BAD_REQUEST
    slug = "invalid-request"
    title = "Invalid request"


class TooLarge(Problem):
    status_code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    slug = "too-large"
    title = "Too large"


def _outcomes(request: HttpRequest) -> HttpResponse:
    try:
        if request.method != "POST":
            raise exceptions.MethodNotAllowed(request.method or "")
        _check_secret(request.META.get("HTTP_AUTHORIZATION", ""))
        told = [_told(entry) for entry in _entries(request)]
        settled = iter(outcomes.settle([one for one in told if isinstance(one, Told)]))
    except Unreachable:
        return plain_answer(ServiceUnavailable())
    except exceptions.APIException as error:
        return plain_answer(error)
    results = [next(settled) if isinstance(one, Told) else one for one in told]
    counts = {state.value: sum(one.state is state for one in results) for state in State}
    return JsonResponse({**counts, "outcomes": [_said(entry, one) for entry, one in zip(told, results, strict=True)]})


def _check_secret(header: str) -> None:
    scheme, _, secret = header.partition(" ")
    if not settings.GATE["SECRETS"]:
        raise exceptions.PermissionDenied("GATE_SECRETS is not set, so no outcomes are taken.")
    known = [hmac.compare_digest(secret.strip().encode(), one.encode()) for one in settings.GATE["SECRETS"]]
    if scheme.lower() != "bearer" or not any(known):
        raise exceptions.AuthenticationFailed(SECRET_REFUSED)


def _entries(request: HttpRequest) -> list[Any]:
    try:
        body = request.read(MAX_BYTES + 1)
    except UnreadablePostError:
        raise Invalid("The body ended too early.") from None
    if len(body) > MAX_BYTES:
        raise TooLarge(f"A request carries at most {MAX_BYTES:,} bytes and {MAX_OUTCOMES:,} outcomes.")
    try:
        entries = json.loads(body)
    except (ValueError, RecursionError):
        raise Invalid("The body is not JSON.") from None
    if not isinstance(entries, list):
        raise Invalid("The body is a list of outcomes.")
    if len(entries) > MAX_OUTCOMES:
        raise TooLarge(f"A request carries at most {MAX_OUTCOMES:,} outcomes.")
    return entries


def _told(entry: Any) -> Told | Result:
    """The entry, or why it is none."""
    if not isinstance(entry, dict):
        return Result(State.INVALID, "An outcome is an object.")
    status, latency = entry.get("status"), entry.get("latency_ms")
    try:
        call_id = UUID(entry["call_id"])
        tenant_id = UUID(entry["tenant"]) if entry.get("tenant") else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return Result(
            State.INVALID, "call_id: the Meterhouse-Call-Id of the gateway's answer; tenant: its Meterhouse-Tenant."
        )
    if type(status) is not int or status not in STATUSES:
        return Result(State.INVALID, "status: the HTTP status, 100 to 599.")
    if latency is not None and (type(latency) not in {int, float} or not 0 <= latency <= MAX_LATENCY_MS):
        return Result(State.INVALID, f"latency_ms: a number from 0 to {MAX_LATENCY_MS:,}, or nothing.")
    return Told(call_id, status, None if latency is None else round(latency * 1000), tenant_id)


def _said(told: Told | Result, result: Result) -> dict[str, Any]:
    said: dict[str, Any] = {
        "call_id": str(told.call_id) if isinstance(told, Told) else None,
        "status": result.state.value,
    }
    return said | ({"detail": result.why} if result.why else {})
