"""Background work of metering. Each task may run twice or not at all; PostgreSQL says what is due."""

import logging
from datetime import timedelta

import redis
from celery import shared_task
from celery.signals import worker_process_shutdown
from django.conf import settings
from django.utils import timezone

from . import allowances, engine, invariants, partitions
from .database import Database
from .gateway import outcomes
from .models import Batch
from .reclaim import reclaim_everywhere

logger = logging.getLogger(__name__)
LOGGED = 20
HEARTBEAT = "meterhouse:heartbeat"


@worker_process_shutdown.connect
def leave_nothing_behind(**_: object) -> None:
    """A child of a prefork worker ends without Python's exit handlers: calls flushed, leases returned."""
    engine.stop()


@shared_task
def maintain_partitions() -> None:
    """Partitions exist ahead of time; days of the call log beyond CALL_LOG_DAYS are dropped."""
    now = timezone.now()
    partitions.ensure(calls_from=now, hours_from=now, now=now)
    partitions.drop_old_days(keep_from=now - timedelta(days=settings.CALL_LOG_DAYS))


@shared_task
def open_periods() -> None:
    """The quota rows of each tenant's running period and of one that begins within a day exist."""
    allowances.open_periods(now=timezone.now())


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
def check_invariants() -> None:
    """What must hold between ledger, rollups, quotas and leases holds, or an error names it."""
    for name, violations in invariants.broken().items():
        for violation in violations[:LOGGED]:
            whose = violation.tenant_id or "all"
            logger.error("Invariant '%s' is broken for tenant %s: %s", name, whose, violation.detail)


@shared_task
def adopt_spools() -> None:
    """Calls that processes of this machine left on disk when they ended are in the ledger."""
    engine.engine().adopt()


@shared_task
def settle_overdue_calls() -> None:
    """Calls of the gateway whose outcome nobody told in time count as served."""
    outcomes.settle_overdue()


@shared_task
def forget_batches() -> None:
    """Batch ids older than two days are gone: no flush is retried for that long."""
    Batch.objects.filter(committed_at__lt=timezone.now() - timedelta(days=2)).delete()


@shared_task
def heartbeat() -> None:
    """Beat, broker and worker are alive: `doctor` reads when this last ran."""
    redis.Redis.from_url(settings.REDIS_URL).set(HEARTBEAT, timezone.now().isoformat(), ex=3600)
