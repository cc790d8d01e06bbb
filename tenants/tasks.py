"""Background work of tenants. Each task may run twice or not at all; PostgreSQL says what is due."""

from celery import shared_task
from django.utils import timezone

from . import deliveries, notices


@shared_task
def send_notices() -> None:
    """Mails that are due are with the mail server."""
    notices.send_due(now=timezone.now())


@shared_task
def deliver_webhooks() -> None:
    """Events that are new or due again are with the endpoints that listen."""
    deliveries.spread(now=timezone.now())
    deliveries.send_due()


@shared_task
def forget_events() -> None:
    """What the delivery log no longer shows is gone."""
    deliveries.forget_old(now=timezone.now())
