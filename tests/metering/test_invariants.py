"""The checks that run in production: that the ledger refuses to be changed, and that what is broken is said by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.utils import timezone

from config.celery import app
from metering import invariants, partitions, tasks

pytestmark = pytest.mark.usefixtures("committed")


@contextmanager
def without_trigger(table: str, trigger: str) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER {trigger}")
        try:
            yield
        finally:
            cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER {trigger}")


def named() -> list[str]:
    return [violation.detail.split()[0] for violation in invariants.ledger_is_append_only()]


@pytest.mark.parametrize(
    ("table", "trigger"),
    [
        ("metering_call", "call_is_append_only"),
        ("metering_adjustment", "adjustment_is_append_only"),
        ("tenants_auditentry", "audit_is_append_only"),
    ],
)
def test_a_ledger_that_could_be_changed_is_found_out(table: str, trigger: str) -> None:
    assert named() == []
    with without_trigger(table, trigger):
        assert table in named()
    assert named() == []


def test_one_day_of_the_call_log_that_could_be_changed_is_found_out() -> None:
    today = f"metering_call_{timezone.now():%Y%m%d}"
    with without_trigger(today, "call_is_append_only"):
        assert named() == [today]


def test_a_day_that_is_made_later_refuses_changes_too() -> None:
    day = datetime(2024, 5, 1, tzinfo=UTC)
    try:
        for partition in partitions.of_days(day, day + timedelta(days=1)):
            partitions._make(partition)
        assert named() == []
        assert "metering_call_20240501" in partitions.names("metering_call")
    finally:
        partitions.drop_old_days(keep_from=day + timedelta(days=1))


def test_the_hourly_check_logs_what_is_broken_by_name(caplog: pytest.LogCaptureFixture) -> None:
    with without_trigger("metering_adjustment", "adjustment_is_append_only"):
        tasks.check_invariants()
    assert "Invariant 'append-only' is broken for tenant all: metering_adjustment has no trigger" in caplog.text
    caplog.clear()
    tasks.check_invariants()
    assert "append-only" not in caplog.text


def test_every_task_of_the_timetable_exists() -> None:
    app.loader.import_default_modules()
    wanted = {entry["task"] for entry in app.conf.beat_schedule.values()}
    assert "metering.tasks.check_invariants" in wanted
    assert wanted <= set(app.tasks)
