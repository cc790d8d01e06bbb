"""`POST /api/v1/events`: services that are no Django view tell what was used, one event or up to a thousand at a time."""

from collections import Counter
from typing import Any

from django.http import HttpRequest, UnreadablePostError
from rest_framework.exceptions import UnsupportedMediaType, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from metering import calls
from metering.throttles import ManagementThrottle
from tenants.keys import Caller
from tenants.problems import Problem, type_address

from . import ingest, shapes
from .ingest import Standing
from .recording import Result, State

MAX_BYTES = 1024 * 1024


class TooLarge(Problem):
    status_code = 413
    slug = "too-large"
    title = "Too large"


def _body(request: HttpRequest) -> bytes:
    """The body as it came; raises TooLarge, and Unreadable when the sender went away."""
    try:
        body = request.read(MAX_BYTES + 1)
    except UnreadablePostError:
        raise shapes.Unreadable("The body ended too early.") from None
    if len(body) > MAX_BYTES:
        raise TooLarge(f"A request carries at most {MAX_BYTES:,} bytes and {shapes.MAX_EVENTS:,} events.")
    return body


class EventsView(APIView):
    """Events as CloudEvents 1.0 in JSON (one or a batch) or as plain JSON (an object or a list). Scope `events:write`.

    Each is recorded once for ever, by tenant, source and id; sending again is harmless, and after a 5xx it is right. A list is
    answered with 200 and what became of each entry; a single event that is not valid with 400, one that a limit refuses with 429 or
    402. Not metered itself; its requests have the management API's burst limit.
    """

    throttle_classes = (ManagementThrottle,)
    required_scope = "events:write"

    def post(self, request: Request) -> Response:
        caller: Caller = request.auth  # type: ignore[assignment]
        content_type = (request.content_type or "").partition(";")[0].strip().lower()
        if content_type not in {shapes.STRUCTURED, shapes.BATCH, shapes.PLAIN}:
            raise UnsupportedMediaType(content_type or "without a type")
        try:
            events, is_single = shapes.read(_body(request._request), content_type=content_type, source=caller.prefix)
        except shapes.TooMany as error:
            raise TooLarge(str(error)) from None
        except shapes.Unreadable as error:
            raise ValidationError({"body": [str(error)]}) from None
        results, standing = ingest.record(caller=caller, events=events)
        return self._single(results[0], standing) if is_single else Response(document(results, standing))

    def _single(self, result: Result, standing: Standing) -> Response:
        if result.state is State.REJECTED:
            raise ValidationError({"event": [result.why]})
        refused = result.problem
        answer = self.handle_exception(refused) if refused is not None else Response(document([result], standing))
        if result.call is not None:
            for name, value in calls.headers(result.call).items():
                answer[name] = value
        return answer


def document(results: list[Result], standing: Standing) -> dict[str, Any]:
    """How many of each state, each entry in the order it came, and where the period stands."""
    counted = Counter(result.state for result in results)
    return {
        **{state.value: counted[state] for state in State},
        "limit": {"used": standing.used, "admits": standing.admits, "exceeded": standing.is_exceeded},
        "events": [_entry(result) for result in results],
    }


def _entry(result: Result) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": result.id, "status": result.state.value}
    if result.state in {State.ACCEPTED, State.DUPLICATE}:
        entry["call_id"] = result.call_id
    if result.why:
        entry["detail"] = result.why
    if result.problem is not None:
        entry |= {"type": type_address(result.problem.slug), "retry_after": result.problem.retry_after_seconds}
    return entry
