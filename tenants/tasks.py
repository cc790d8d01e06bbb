"""Background work of tenants. Each task may run twice or not at all; PostgreSQL says what is due."""

from celery import shared_task
from django.utils import timezone

from . import notices


@shared_task
def send_notices() -> None:
    """Mails that are due are with the mail server."""
    notices.send_due(now=timezone.now())
