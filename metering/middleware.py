"""Records each metered call when its answer is known."""

from collections.abc import Callable
from time import perf_counter_ns

from django.http import HttpRequest, HttpResponse

from . import calls


class MeteringMiddleware:
    """Outermost: its latency is what the caller waits for inside this process. Views that are not metered pass through."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        started = perf_counter_ns()
        try:
            response = self.get_response(request)
        except BaseException:
            self._close(request, started, status=500)
            raise
        call = self._close(request, started, status=response.status_code)
        if call is not None:
            for name, value in calls.headers(call).items():
                response[name] = value
        return response

    @staticmethod
    def _close(request: HttpRequest, started: int, *, status: int) -> calls.MeteredCall | None:
        call: calls.MeteredCall | None = getattr(request, "metered_call", None)
        if call is not None:
            calls.close_call(call, status=status, latency_us=(perf_counter_ns() - started) // 1000)
        return call
