"""Liveness and readiness, for load balancers and for people with curl."""

import redis
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection
from django.http import HttpRequest, JsonResponse
from redis.backoff import NoBackoff
from redis.retry import Retry


def livez(request: HttpRequest) -> JsonResponse:
    """The process answers."""
    return JsonResponse({"status": "alive"})


def readyz(request: HttpRequest) -> JsonResponse:
    """200 while calls can be metered. Without Redis they still are: burst limits are open then, and the answer says so."""
    postgresql, broker = postgresql_problem(), redis_problem()
    body = {
        "status": "unavailable" if postgresql else "degraded" if broker else "ready",
        "postgresql": "unreachable" if postgresql else "ok",  # why is for operators: `manage.py doctor`
        "redis": "unreachable" if broker else "ok",
    }
    if broker:
        body["effect"] = "Quotas are exact; burst limits are open and background tasks wait until Redis is back."
    return JsonResponse(body, status=503 if postgresql else 200)


def postgresql_problem() -> str | None:
    """Why PostgreSQL cannot be used, in one line without secrets; None when it can."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except (OperationalError, InterfaceError) as error:
        return "unreachable: " + (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None


def redis_problem() -> str | None:
    """Why Redis cannot be used, in one line; None when it can."""
    timeout = 0.2
    try:
        client = redis.Redis.from_url(
            settings.REDIS_URL, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
        )
        with client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        return f"unreachable: {error}"
    return None
