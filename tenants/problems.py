"""Errors of the API as RFC 9457 problem details, the same shape everywhere."""

from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.http import HttpRequest, JsonResponse
from rest_framework import exceptions

CONTENT_TYPE = "application/problem+json"
CHALLENGE = 'Bearer realm="meterhouse"'  # every 401 carries it as WWW-Authenticate (RFC 6750)


class Problem(exceptions.APIException):
    """An error with a type of its own. `slug` ends the type's address, `extra` are further members (RFC 9457, 3.2)."""

    slug = "error"
    title = "Error"

    def __init__(self, detail: str | None = None, *, retry_after_seconds: int | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds
        self.extra = extra


class ServiceUnavailable(Problem):
    status_code = HTTPStatus.SERVICE_UNAVAILABLE
    slug = "unavailable"
    title = "Temporarily unavailable"
    default_detail = "The database cannot be reached. Nothing was counted or changed; try again."

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail, retry_after_seconds=1)


def type_address(slug: str) -> str:
    """Where the problem type is explained."""
    return f"{settings.PUBLIC_URL}/problems/{slug}"


def document(*, status: int, slug: str, title: str, detail: object, **extra: object) -> dict[str, object]:
    return {"type": type_address(slug), "title": title, "status": int(status), "detail": detail, **extra}


def plain_response(*, status: int, slug: str, title: str, detail: str, **extra: object) -> JsonResponse:
    """A problem outside DRF, for middleware and Django's own error pages."""
    body = document(status=status, slug=slug, title=title, detail=detail, **extra)
    return JsonResponse(body, status=status, content_type=CONTENT_TYPE)


def wants_json(request: HttpRequest) -> bool:
    """Whether the caller is a program: the APIs answer problems, the pages answer pages."""
    return request.path in {"/api", "/sandbox"} or request.path.startswith(
        ("/api/", "/sandbox/", "/gate", "/webhooks/", "/livez", "/readyz", "/metrics")
    )
