"""Records each metered call when its answer is known."""

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter_ns
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from . import calls
from .gateway import api as gateway


class MeteringMiddleware:
    """Outermost: its latency is what the caller waits for inside this process. Views that are not metered pass through.

    The gateway is answered here: nothing that follows in the stack concerns it.
    """

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self.is_async:
            return self._answer_async(request)
        if request.path_info.startswith(gateway.GATE) and (told := gateway.answer(request)) is not None:
            return told
        started = perf_counter_ns()
        try:
            response: HttpResponseBase = self.get_response(request)
        except BaseException:
            self._close(request, started, status=500)
            raise
        call = self._close(request, started, status=response.status_code)
        return response if call is None else _with_headers(response, call)

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        if request.path_info.startswith(gateway.GATE):
            told = await sync_to_async(gateway.answer)(request)
            if told is not None:
                return told
        started = perf_counter_ns()
        try:
            response: HttpResponseBase = await self.get_response(request)
        except BaseException:  # also the cancellation, when the client went away
            await self._close_in_thread(request, started, status=500)
            raise
        if not hasattr(request, "metered_call"):
            return response
        call = await self._close_in_thread(request, started, status=response.status_code)
        return response if call is None else _with_headers(response, call)

    async def _close_in_thread(self, request: HttpRequest, started: int, *, status: int) -> calls.MeteredCall | None:
        """As `_close`, without holding up the event loop.

        In the request's own thread: an admission that a cancelled view left behind there ends before. Shielded: a cancellation
        that comes now must not leave the call open.
        """
        return await asyncio.shield(sync_to_async(self._close)(request, started, status=status))

    @staticmethod
    def _close(request: HttpRequest, started: int, *, status: int) -> calls.MeteredCall | None:
        call: calls.MeteredCall | None = getattr(request, "metered_call", None)
        if call is not None:
            calls.close_call(call, status=status, latency_us=(perf_counter_ns() - started) // 1000)
        return call


def _with_headers(response: HttpResponseBase, call: calls.MeteredCall) -> HttpResponseBase:
    for name, value in calls.headers(call).items():
        response[name] = value
    return response
