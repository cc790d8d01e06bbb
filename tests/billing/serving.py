"""Calls in this thread, for tests inside `inline_metering()`."""

from django.utils import timezone

from metering import calls
from tenants.keys import Caller, cache


def serve(api_key: str, count: int) -> int:
    """Make this many calls; how many were admitted."""
    return serve_as(cache.verify(api_key, now=timezone.now()), count)


def serve_as(caller: Caller, count: int) -> int:
    """As `serve`, for a caller whose key was verified before: nothing but the engine asks the database."""
    admitted = 0
    for _ in range(count):
        call = calls.open_call(caller=caller, capability="storage")
        admitted += call.problem is None
        calls.close_call(call, status=200 if call.problem is None else 429, latency_us=1000)
    return admitted
