"""A Celery task that meters: what a worker of an adopter does."""

from celery import shared_task
from django.utils import timezone

from metering import calls
from tenants.keys import cache


@shared_task(name="tests.faults.jobs.make_calls")
def make_calls(key: str, count: int) -> int:
    """So many metered calls are made in the worker, one after the other."""
    caller = cache.verify(key, now=timezone.now())
    for _ in range(count):
        calls.close_call(calls.open_call(caller=caller, capability="jobs"), status=200, latency_us=1)
    return count
