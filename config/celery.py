"""The Celery application and its static timetable. Every task may run twice or not at all."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
app = Celery("meterhouse")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.conf.beat_schedule = {
    "maintain-partitions": {"task": "metering.tasks.maintain_partitions", "schedule": 3600.0},
    "open-periods": {"task": "metering.tasks.open_periods", "schedule": 300.0},
    "reclaim-dead": {"task": "metering.tasks.reclaim_dead", "schedule": 60.0},
    "adopt-spools": {"task": "metering.tasks.adopt_spools", "schedule": 60.0},
    "check-invariants": {"task": "metering.tasks.check_invariants", "schedule": 3600.0},
    "forget-batches": {"task": "metering.tasks.forget_batches", "schedule": 3600.0},
    "heartbeat": {"task": "metering.tasks.heartbeat", "schedule": 5.0},
}
