"""A small product API with three capabilities: what a team's own metered views look like.

`throttle_classes = [TierThrottle]` and `capability` are all that metering asks of a view.
"""

import time
from datetime import UTC
from http import HTTPStatus

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils import timezone
from django.utils.cache import get_conditional_response
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from metering.throttles import TierThrottle
from tenants import problems
from tenants.keys import Caller

from . import store

BODILESS = {HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED}
LOWEST_STATUS, HIGHEST_STATUS = 200, 599
LONGEST_DELAY_MS = 10_000


class TooLarge(problems.Problem):
    status_code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    slug = "too-large"
    title = "Body too large"


class LengthRequired(problems.Problem):
    status_code = HTTPStatus.LENGTH_REQUIRED
    slug = "length-required"
    title = "Content-Length required"
    default_detail = "Send the body with a Content-Length, not in chunks."


class ProductView(APIView):
    """A metered view of the product."""

    throttle_classes = [TierThrottle]
    required_scope = "calls"


class SessionView(ProductView):
    """Who the key speaks for. No SQL beyond authentication."""

    capability = "auth"

    def get(self, request: Request) -> Response:
        caller = _caller(request)
        return Response(
            {
                "tenant": caller.tenant_slug,
                "project": caller.project_id,
                "key": caller.prefix,
                "scopes": sorted(caller.scopes),
                "expires_at": caller.expires_at,
                "server_time": timezone.now().astimezone(UTC).isoformat().replace("+00:00", "Z"),
            }
        )


class RecordView(ProductView):
    """JSON documents, kept per project and read back as they were sent."""

    capability = "database"

    def get(self, request: Request, key: str) -> HttpResponse:
        store.check_key(key)
        return _json(store.record(caller=_caller(request), key=key).document)

    def put(self, request: Request, key: str) -> HttpResponse:
        store.check_key(key)
        body = _body(request, most=store.MAX_RECORD_BYTES)
        row, is_new = store.keep_record(caller=_caller(request), key=key, body=body, now=timezone.now())
        return _json(row.document, status=_kept_status(is_new=is_new))


class ObjectView(ProductView):
    """Raw bytes of any content type, kept per project."""

    capability = "storage"

    def get(self, request: Request, key: str) -> HttpResponseBase:
        store.check_key(key)
        found = store.stored_object(caller=_caller(request), key=key)
        response = HttpResponse(found.content, content_type=found.content_type)
        # A stored page must not run in our origin, whatever content type it claims.
        response["Content-Disposition"] = f'attachment; filename="{key}"'
        response["X-Content-Type-Options"] = "nosniff"
        response["Content-Security-Policy"] = "default-src 'none'; sandbox"
        response["ETag"] = found.etag
        return get_conditional_response(request._request, etag=found.etag, response=response) or response

    def put(self, request: Request, key: str) -> Response:
        store.check_key(key)
        content = _body(request, most=store.MAX_OBJECT_BYTES)
        content_type = request.META.get("CONTENT_TYPE") or ""
        row, is_new = store.keep_object(
            caller=_caller(request), key=key, content=content, content_type=content_type, now=timezone.now()
        )
        receipt = {"key": row.key, "bytes": len(content), "content_type": row.content_type, "etag": row.etag}
        return Response(receipt, status=_kept_status(is_new=is_new), headers={"ETag": row.etag})


class StatusView(ProductView):
    """Answers with the wanted status after the wanted delay, for trying out what is billed and how slow calls show."""

    @property
    def capability(self) -> str:
        return str(self.kwargs["capability"])

    def get(self, request: Request, capability: str, code: str) -> HttpResponse:
        status, delay_ms = _status(code), _delay_ms(request.GET.get("delay_ms", "0"))
        time.sleep(delay_ms / 1000)
        if status in BODILESS:
            return Response(status=status)
        if status < HTTPStatus.BAD_REQUEST:
            return Response({"capability": capability, "status": status, "delay_ms": delay_ms}, status=status)
        detail = f"This call asked for {status}."
        body = problems.document(status=status, slug="as-asked", title="As asked", detail=detail, delay_ms=delay_ms)
        return Response(body, status=status, content_type=problems.CONTENT_TYPE)


def _caller(request: Request) -> Caller:
    caller = request.auth
    assert isinstance(caller, Caller)
    return caller


def _body(request: Request, *, most: int) -> bytes:
    """The request's body; raises TooLarge before reading one that is larger than `most` bytes."""
    raw: HttpRequest = request._request
    if raw.META.get("HTTP_TRANSFER_ENCODING"):
        raise LengthRequired
    announced = raw.META.get("CONTENT_LENGTH") or "0"
    if not announced.isdecimal() or int(announced) > most:
        raise TooLarge(f"At most {most:,} bytes are kept under a key.", limit_bytes=most)
    return raw.body


def _json(document: str, *, status: int = HTTPStatus.OK) -> HttpResponse:
    return HttpResponse(document, status=status, content_type="application/json")


def _kept_status(*, is_new: bool) -> HTTPStatus:
    return HTTPStatus.CREATED if is_new else HTTPStatus.OK


def _status(code: str) -> int:
    status = _whole_number(code)
    if status is None or not LOWEST_STATUS <= status <= HIGHEST_STATUS:
        raise store.BadRequest(f"A status is a whole number from {LOWEST_STATUS} to {HIGHEST_STATUS}.")
    return status


def _delay_ms(text: str) -> int:
    delay_ms = _whole_number(text)
    if delay_ms is None or delay_ms > LONGEST_DELAY_MS:
        raise store.BadRequest(f"delay_ms is a whole number from 0 to {LONGEST_DELAY_MS:,}.")
    return delay_ms


def _whole_number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 6 else None  # noqa: PLR2004
