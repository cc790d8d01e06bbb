"""Background work of metering. Each task may run twice or not at all; PostgreSQL says what is due."""

from datetime import timedelta

import redis
from celery import shared_task
from django.conf import settings
from django.utils import timezone

from . import allowances, partitions
from .database import Database
from .models import Allowance, Batch
from .reclaim import reclaim_everywhere

HEARTBEAT = "meterhouse:heartbeat"


@shared_task
def maintain_partitions() -> None:
    """Partitions exist ahead of time; days of the call log beyond CALL_LOG_DAYS are dropped."""
    now = timezone.now()
    partitions.ensure(calls_from=now, hours_from=now, now=now)
    partitions.drop_old_days(keep_from=now - timedelta(days=settings.CALL_LOG_DAYS))


@shared_task
def open_periods() -> None:
    """The quota row of each tenant's running period exists; a call that comes first opens its own."""
    now = timezone.now()
    for allowance in Allowance.objects.iterator():
        allowances.open_period(allowance=allowance, instant=now)


@shared_task
def reclaim_dead() -> None:
    """Units that dead processes held are free again, also of tenants that do not call and of closed periods."""
    database = Database()
    try:
        with database.connection() as connection:
            reclaim_everywhere(connection)
    finally:
        database.close()


@shared_task
def forget_batches() -> None:
    """Batch ids older than two days are gone: no flush is retried for that long."""
    Batch.objects.filter(committed_at__lt=timezone.now() - timedelta(days=2)).delete()


@shared_task
def heartbeat() -> None:
    """Beat, broker and worker are alive: `doctor` reads when this last ran."""
    redis.Redis.from_url(settings.REDIS_URL).set(HEARTBEAT, timezone.now().isoformat(), ex=3600)
