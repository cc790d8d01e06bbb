"""The product's settings; each answer says which web worker gave it."""

import os
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from config.settings import *  # noqa: F403
from config.settings import MIDDLEWARE

WORKER_FIELD = "Benchmark-Worker"


def name_worker(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    def named(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response[WORKER_FIELD] = str(os.getpid())
        return response

    return named


MIDDLEWARE = ["benchmarks.named_settings.name_worker", *MIDDLEWARE]
