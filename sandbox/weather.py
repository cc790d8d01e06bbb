"""Slow and failing regions, for the visitor who asked to see them: everything else about the pages is real."""

import time
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

COOKIE = "meterhouse_weather"
SLOW, FAILING = "slow", "failing"
LASTS_SECONDS = 60
DELAY_SECONDS = 2.5


def weather(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: swaps of a browser that asked for it come late, or fail, for a minute."""

    def answer(request: HttpRequest) -> HttpResponse:
        chosen = request.COOKIES.get(COOKIE) if "HX-Request" in request.headers else None
        if chosen == FAILING:
            return HttpResponse("This region fails, as you asked for.", status=503, content_type="text/plain")
        if chosen == SLOW:
            time.sleep(DELAY_SECONDS)
        return get_response(request)

    return answer
