"""The product's addresses, and the session view under `peers/`: throttled by DRF, and logged by one INSERT a call."""

import time
from typing import Any

from django.db import connection
from django.urls import include, path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import UserRateThrottle

from sandbox.views import SessionView

CREATE_LOG = """
CREATE TABLE benchmark_request_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tenant_id uuid NOT NULL, api_key_id bigint NOT NULL, path text NOT NULL, method text NOT NULL, remote_addr text,
    status smallint NOT NULL, latency_us bigint NOT NULL);
CREATE INDEX ON benchmark_request_log (requested_at)
"""
INSERT_LOG = (
    "INSERT INTO benchmark_request_log (tenant_id, api_key_id, path, method, remote_addr, status, latency_us) "
    "VALUES (%s, %s, %s, %s, %s, %s, %s)"
)


class KeyThrottle(UserRateThrottle):
    """DRF's own throttle by API key, on Django's Redis cache.

    A window of one second is the cheapest there is for it: it reads and writes the times of all calls of the window.
    """

    rate = "1000000/s"

    def get_cache_key(self, request: Request, view: Any) -> str:
        return self.cache_format % {"scope": "key", "ident": request.auth.key_id}  # type: ignore[union-attr]


class LoggedSessionView(SessionView):
    """One row a call, written before the answer leaves: what the usual request log packages do, without their ORM."""

    throttle_classes: list[Any] = []

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Response:
        started = time.perf_counter_ns()
        response: Response = super().dispatch(request, *args, **kwargs)
        caller = self.request.auth
        with connection.cursor() as cursor:
            values = (request.path, request.method, request.META.get("REMOTE_ADDR"), response.status_code)
            latency_us = (time.perf_counter_ns() - started) // 1000
            cursor.execute(INSERT_LOG, (caller.tenant_id, caller.key_id, *values, latency_us))
        return response


urlpatterns = [
    path("peers/throttle/auth/session", SessionView.as_view(throttle_classes=[KeyThrottle])),
    path("peers/insert/auth/session", LoggedSessionView.as_view()),
    path("", include("config.urls")),
]
handler404 = "tenants.error_answers.not_found"
handler500 = "tenants.error_answers.server_error"
