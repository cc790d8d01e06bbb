"""What a caller sees while PostgreSQL is away: a 503 that says so and when to try again."""

import logging
from collections.abc import Callable

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from . import problems

logger = logging.getLogger(__name__)


class DatabaseOutageMiddleware:
    """Turns a lost database into 503 with Retry-After, for pages and programs alike; recovery needs nothing."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not isinstance(error, (OperationalError, InterfaceError)):
            return None
        logger.warning(
            "PostgreSQL is unreachable, answered 503: %s", str(error).splitlines()[0] if str(error) else error
        )
        response: HttpResponse
        if problems.wants_json(request):
            unavailable = problems.ServiceUnavailable
            response = problems.plain_response(
                status=503, slug=unavailable.slug, title=unavailable.title, detail=unavailable.default_detail
            )
        else:
            response = render(request, "503.html", status=503)
        response["Retry-After"] = "1"
        return response
