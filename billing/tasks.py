"""Background work of billing. Each task may run twice or not at all; PostgreSQL and Stripe say what is due."""

import logging
from functools import lru_cache

import redis
from celery import shared_task
from django.conf import settings
from django.utils import timezone
from kombu.exceptions import KombuError, OperationalError
from redis.backoff import NoBackoff
from redis.retry import Retry

from . import (
    alerting,
    changes,
    charges,
    customers,
    ended_periods,
    grace,
    inbox,
    invariants,
    last_invoices,
    late_usage,
    reconcile,
    reporting,
    sweep,
    unseen_periods,
    upgrades,
)

logger = logging.getLogger(__name__)
BROKER_PATIENCE_SECONDS = 0.1


def queue_stripe_event(event_id: str) -> None:
    """The event is handled at once, or, when the broker is away, within seconds by `handle_due_stripe_events`."""
    try:
        _broker(settings.REDIS_URL).ping()  # kombu itself would try for six seconds, and Stripe waits for our answer
        handle_stripe_event.apply_async((event_id,), retry=False)
    except (redis.RedisError, KombuError, OperationalError, OSError) as error:
        logger.warning("Stripe event %s could not be queued and waits in the inbox: %s", event_id, error)


@lru_cache(maxsize=1)
def _broker(url: str) -> redis.Redis:
    limits = {"socket_timeout": BROKER_PATIENCE_SECONDS, "socket_connect_timeout": BROKER_PATIENCE_SECONDS}
    return redis.Redis.from_url(url, **limits, retry=Retry(NoBackoff(), 0))


@shared_task
def handle_stripe_event(event_id: str) -> None:
    """One event that has just come in."""
    inbox.handle(event_id=event_id, now=timezone.now())


@shared_task
def handle_due_stripe_events() -> None:
    """Events whose task was lost, whose worker was killed, or whose next attempt is due."""
    inbox.handle_due(now=timezone.now())


@shared_task
def catch_up_stripe_events() -> None:
    """Events that Stripe could not deliver."""
    inbox.catch_up(now=timezone.now())


@shared_task
def sweep_accounts() -> None:
    """Accounts whose events were lost altogether."""
    sweep.sweep(now=timezone.now())


@shared_task
def tell_customers() -> None:
    """Tenants whose name or billing address Stripe does not know yet."""
    customers.tell_due()


@shared_task
def restrict_overdue() -> None:
    """Accounts whose grace days are over."""
    grace.restrict_overdue(now=timezone.now())


@shared_task
def advance_changes() -> None:
    """Changes of plan that are under way, each by one step."""
    changes.advance_due(now=timezone.now())


@shared_task
def watch_upgrades() -> None:
    """Accounts for which the agreed upgrade has become the cheaper way."""
    upgrades.announce_due(now=timezone.now())


@shared_task
def make_usage_reports() -> None:
    """Hours that have closed, of every running period."""
    reporting.make_due(now=timezone.now())


@shared_task
def send_usage_reports() -> None:
    """What waits to be sent to Stripe's meter, and our own lines of invoices."""
    reporting.send_due(now=timezone.now())
    charges.add_due(now=timezone.now())


@shared_task
def confirm_usage_reports() -> None:
    """What was sent, held against what Stripe has counted."""
    reporting.confirm_due(now=timezone.now())


@shared_task
def bill_ended_periods() -> None:
    """Periods that have ended: the last usage onto their draft, until it is final."""
    ended_periods.bill_due(now=timezone.now())


@shared_task
def settle_late_usage() -> None:
    """What came after an invoice was final, and what waits for one that will not come."""
    late_usage.settle_due(now=timezone.now())
    last_invoices.gather_due(now=timezone.now())


@shared_task
def find_unseen_periods() -> None:
    """Periods that began and ended while nothing ran here."""
    unseen_periods.find(now=timezone.now())


@shared_task
def reconcile_usage() -> None:
    """Ledger, reports, Stripe and invoices of the periods that may still move."""
    reconcile.run(now=timezone.now(), back=reconcile.RECENT)


@shared_task
def check_billing_invariants() -> None:
    """What must hold between ledger and Stripe, as far as reports and the last reconciliation tell."""
    invariants.enforce(now=timezone.now())


@shared_task
def tell_alerts() -> None:
    """What has fired, by mail."""
    alerting.tell(now=timezone.now())


@shared_task
def watch_projections() -> None:
    """Alerts on what the running period's usage is heading for."""
    alerting.watch_projections(now=timezone.now())
