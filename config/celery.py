"""The Celery application and its static timetable. Every task may run twice or not at all."""

import logging
import os

from celery import Celery
from celery.schedules import crontab
from celery.signals import beat_embedded_init, beat_init
from kombu.exceptions import OperationalError

logger = logging.getLogger(__name__)
CATCH_UP = "billing.tasks.catch_up_stripe_events"
UNSEEN_PERIODS = "billing.tasks.find_unseen_periods"

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
app = Celery("meterhouse")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.conf.beat_schedule = {
    "maintain-partitions": {"task": "metering.tasks.maintain_partitions", "schedule": 3600.0},
    "open-periods": {"task": "metering.tasks.open_periods", "schedule": 300.0},
    "reclaim-dead": {"task": "metering.tasks.reclaim_dead", "schedule": 60.0},
    "adopt-spools": {"task": "metering.tasks.adopt_spools", "schedule": 60.0},
    "settle-overdue-calls": {
        "task": "metering.tasks.settle_overdue_calls", "schedule": 5.0, "options": {"expires": 5},
    },
    "check-invariants": {"task": "metering.tasks.check_invariants", "schedule": 3600.0},
    "forget-batches": {"task": "metering.tasks.forget_batches", "schedule": 3600.0},
    "heartbeat": {"task": "metering.tasks.heartbeat", "schedule": 5.0},
    # What is looked for every few seconds is worth nothing later: no worker for an hour leaves no hour of it in the queue.
    "handle-due-stripe-events": {
        "task": "billing.tasks.handle_due_stripe_events", "schedule": 10.0, "options": {"expires": 10},
    },
    "catch-up-stripe-events": {"task": CATCH_UP, "schedule": 86_400.0},
    "sweep-accounts": {"task": "billing.tasks.sweep_accounts", "schedule": 60.0, "options": {"expires": 60}},
    "tell-customers": {"task": "billing.tasks.tell_customers", "schedule": 60.0, "options": {"expires": 60}},
    "restrict-overdue": {"task": "billing.tasks.restrict_overdue", "schedule": 60.0, "options": {"expires": 60}},
    "advance-changes": {"task": "billing.tasks.advance_changes", "schedule": 5.0, "options": {"expires": 5}},
    "watch-upgrades": {"task": "billing.tasks.watch_upgrades", "schedule": 5.0, "options": {"expires": 5}},
    "make-usage-reports": {"task": "billing.tasks.make_usage_reports", "schedule": 60.0, "options": {"expires": 60}},
    "send-usage-reports": {"task": "billing.tasks.send_usage_reports", "schedule": 10.0, "options": {"expires": 10}},
    "confirm-usage-reports": {
        "task": "billing.tasks.confirm_usage_reports", "schedule": 30.0, "options": {"expires": 30},
    },
    "bill-ended-periods": {"task": "billing.tasks.bill_ended_periods", "schedule": 60.0, "options": {"expires": 60}},
    "settle-late-usage": {"task": "billing.tasks.settle_late_usage", "schedule": 300.0, "options": {"expires": 300}},
    "find-unseen-periods": {"task": UNSEEN_PERIODS, "schedule": 86_400.0},
    "reconcile-usage": {"task": "billing.tasks.reconcile_usage", "schedule": crontab(hour=3, minute=20)},
    "check-billing-invariants": {"task": "billing.tasks.check_billing_invariants", "schedule": 3600.0},
    "send-notices": {"task": "tenants.tasks.send_notices", "schedule": 10.0, "options": {"expires": 10}},
    "deliver-webhooks": {"task": "tenants.tasks.deliver_webhooks", "schedule": 2.0, "options": {"expires": 2}},
    "tell-alerts": {"task": "billing.tasks.tell_alerts", "schedule": 5.0, "options": {"expires": 5}},
    "watch-projections": {"task": "billing.tasks.watch_projections", "schedule": 300.0, "options": {"expires": 300}},
    "forget-events": {"task": "tenants.tasks.forget_events", "schedule": 86_400.0},
}  # fmt: skip


@beat_init.connect
@beat_embedded_init.connect
def catch_up_at_start(**_: object) -> None:
    """Whatever Stripe could not deliver and whoever's period ended while nothing ran here is looked for at once, not tomorrow."""
    try:
        for name in (CATCH_UP, UNSEEN_PERIODS):
            app.send_task(name, retry=False)
    except OperationalError as error:  # beat itself waits for its broker, and tomorrow comes
        logger.warning("The catch-up with Stripe could not be queued at start: %s", error)
