"""A Celery task that meters: what a worker of an adopter does."""

import os
from pathlib import Path

from celery import shared_task
from django.utils import timezone

from metering import calls
from tenants.keys import cache


@shared_task(name="tests.faults.jobs.make_calls")
def make_calls(key: str, count: int, folder: str) -> None:
    """So many metered calls are made in the worker, and their ids are lines of a file in the folder."""
    caller = cache.verify(key, now=timezone.now())
    with (Path(folder) / f"{os.getpid()}.ids").open("a") as ids:
        for _ in range(count):
            call = calls.open_call(caller=caller, capability="jobs")
            calls.close_call(call, status=200, latency_us=1)
            ids.write(f"{call.id}\n")
