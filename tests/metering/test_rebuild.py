"""Usage hours are rebuilt identically from the ledger, for the hours that the call log keeps and for no others."""

import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, transaction
from django.utils import timezone

from billing.onboarding import Onboarded
from metering import adjustments, engine, invariants, limits
from metering import rebuild as rebuilding
from metering.database import conninfo
from metering.ledger import commit
from metering.models import Call, LimitKind
from metering.periods import hour_of
from metering.recorder import Batch
from tests.conftest import MakeTenant, wait_until
from tests.metering.ledger import books
from tests.metering.test_boundaries import is_waiting
from tests.metering.test_limit_is_exact import attempt, caller_of
from tests.metering.test_recovery import entry
from tests.metering.test_several_limits import try_one

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture
def acme(make_tenant: MakeTenant) -> Onboarded:
    """Calls of every outcome, one corrected, and a key's limit."""
    made = make_tenant(included=40, burst_per_second=10**6)
    limits.put(tenant=made.tenant, kind=LimitKind.KEY, subject_id=made.key.id, calls=35, actor="test")
    attempt(caller_of(made.api_key), 60, status=lambda number: 500 if number % 7 == 0 else 200)
    try_one(caller_of(made.api_key), cost=2)
    engine.stop()
    call_id = Call.objects.filter(tenant=made.tenant, outcome="billable")[0].id
    adjustments.apply(adjustments.planned_void(tenant=made.tenant, call_id=call_id), actor="test", reason="twice")
    return made


def rebuild(tenant: Onboarded, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    out = io.StringIO()
    code = 0
    try:
        call_command("rebuild_usage", "--tenant", tenant.tenant.slug, "--json", *arguments, stdout=out)
    except SystemExit as end:
        code = int(end.code or 0)
    return code, json.loads(out.getvalue())["differences"]


def hours(tenant: Onboarded) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT * FROM metering_usage_hour WHERE tenant_id = %s ORDER BY hour, capability", [tenant.tenant.id]
        )
        return list(cursor.fetchall())


def change(tenant: Onboarded, sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"{sql} WHERE tenant_id = %s", [tenant.tenant.id])


def test_an_honest_rollup_has_no_difference(acme: Onboarded) -> None:
    assert rebuild(acme) == (0, [])


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE metering_usage_hour SET billable = billable + 3, units = units + 9",
        "UPDATE metering_usage_hour SET failed = 0, refused = refused + 1",
        "UPDATE metering_usage_hour SET latency_counts = '{1}'",
        "DELETE FROM metering_usage_hour",
        "UPDATE metering_usage_hour SET capability = 'auth'",
    ],
)
def test_damage_is_printed_and_mended_and_nothing_else_changes(acme: Onboarded, damage: str) -> None:
    before = hours(acme)
    change(acme, damage)
    code, found = rebuild(acme)
    assert (code, bool(found)) == (1, True)
    assert found[0]["differ"]
    assert hours(acme) != before
    code, found = rebuild(acme, "--apply")
    assert (code, bool(found)) == (0, True)
    assert hours(acme) == before
    assert rebuild(acme) == (0, [])
    assert invariants.broken(tenant_id=acme.tenant.id) == {}


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE metering_usage_month SET units = 1",
        "UPDATE metering_quota SET used = 1",
        "UPDATE metering_window SET used = 1",
    ],
)
def test_totals_are_mended_where_the_hours_are_right(acme: Onboarded, damage: str) -> None:
    before = hours(acme)
    change(acme, damage)
    assert rebuild(acme) == (1, [])
    assert rebuild(acme, "--apply") == (0, [])
    assert hours(acme) == before
    assert invariants.broken(tenant_id=acme.tenant.id) == {}


def test_months_and_quota_follow_what_the_hours_changed(acme: Onboarded) -> None:
    """A rollup that lost rows together with its totals: the state after a restored backup of the rollup alone."""
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH lost AS (UPDATE metering_usage_hour SET units = units - 5, billable = billable - 5 WHERE tenant_id = %(t)s), "
            "month AS (UPDATE metering_usage_month SET units = units - 5, billable = billable - 5 WHERE tenant_id = %(t)s), "
            "of_window AS (UPDATE metering_window SET used = used - 5 WHERE tenant_id = %(t)s) "
            "UPDATE metering_quota SET used = used - 5 WHERE tenant_id = %(t)s",
            {"t": acme.tenant.id},
        )
    assert set(invariants.broken(tenant_id=acme.tenant.id)) == {"call log"}
    assert rebuild(acme, "--apply")[0] == 0
    assert invariants.broken(tenant_id=acme.tenant.id) == {}


def test_hours_that_the_log_no_longer_keeps_are_left_alone(acme: Onboarded) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metering_usage_hour (tenant_id, hour, period_start, project_id, api_key_id, capability, billable, units) "
            "VALUES (%s, '2025-03-01T10:00Z', '2025-03-01', 1, 1, 'auth', 5, 5)",
            [acme.tenant.id],
        )
    before = hours(acme)
    assert rebuild(acme, "--apply") == (0, [])
    assert hours(acme) == before


@pytest.mark.parametrize("table", ["metering_usage_month", "metering_usage_hour"])
def test_totals_without_a_single_call_go(make_tenant: MakeTenant, table: str) -> None:
    globex = make_tenant("Globex")
    month = timezone.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    sql = "INSERT INTO metering_usage_month (tenant_id, month, billable, units) VALUES (%(tenant)s, %(at)s, 5, 5)"
    if table == "metering_usage_hour":
        sql = (
            f"WITH month AS ({sql}), "
            "quota AS (UPDATE metering_quota SET used = 5 WHERE tenant_id = %(tenant)s RETURNING period_start) "
            "INSERT INTO metering_usage_hour (tenant_id, hour, period_start, project_id, api_key_id, capability, billable, units) "
            "SELECT %(tenant)s, date_trunc('hour', now()), period_start, 1, 1, 'auth', 5, 5 FROM quota"
        )
    with connection.cursor() as cursor:
        cursor.execute(sql, {"tenant": globex.tenant.id, "at": month})
    assert rebuild(globex)[0] == 1
    assert rebuild(globex, "--apply")[0] == 0
    assert rebuild(globex) == (0, [])
    assert invariants.broken(tenant_id=globex.tenant.id) == {}


@contextmanager
def calling(tenant: Onboarded) -> Iterator[list[int]]:
    """Calls are served and recorded all the while; afterwards the list says how many there were."""
    served: list[int] = []
    ended, caller = threading.Event(), caller_of(tenant.api_key)

    def call() -> None:
        while not ended.is_set():
            served.append(attempt(caller, 50))

    running = threading.Thread(target=call)
    running.start()
    wait_until(lambda: books(tenant.tenant.id).used, what="the first flush")
    try:
        yield served
    finally:
        ended.set()
        running.join()
        engine.stop()


def test_nothing_differs_while_calls_are_recorded_and_nothing_is_lost(make_tenant: MakeTenant) -> None:
    globex = make_tenant("Globex", included=10**6, burst_per_second=10**6)
    with calling(globex) as served:
        for apply in (False, True) * 10:
            assert not compare(globex, apply=apply)
    books(globex.tenant.id).assert_balanced()
    assert books(globex.tenant.id).used == sum(served)
    assert invariants.broken(tenant_id=globex.tenant.id) == {}


def test_hours_are_mended_while_calls_are_recorded_into_them(make_tenant: MakeTenant) -> None:
    """Each time exactly the damage is found: whatever a flush added meanwhile is neither a difference nor overwritten."""
    globex = make_tenant("Globex", included=10**6, burst_per_second=10**6)
    with calling(globex) as served:
        for _ in range(8):
            change(globex, "UPDATE metering_usage_hour SET units = units + 100")
            found = compare(globex, apply=True)
            assert {one.stored.units - one.ledger.units for one in found.hours} == {100}
    assert books(globex.tenant.id).used == sum(served)
    assert invariants.broken(tenant_id=globex.tenant.id) == {}


def compare(tenant: Onboarded, *, apply: bool) -> rebuilding.Found:
    start, end = invariants.kept_since(), hour_of(timezone.now()) + timedelta(hours=2)
    assert start is not None
    return rebuilding.rebuild(tenant_id=tenant.tenant.id, start=start, end=end, apply=apply)


def test_a_flush_that_opens_a_period_waits_while_hours_are_made_anew(make_tenant: MakeTenant) -> None:
    """It would otherwise commit between what is read and what is written, and be overwritten."""
    acme = make_tenant(now=timezone.now() - timedelta(days=40))  # its period has ended
    with ThreadPoolExecutor(max_workers=1) as pool, psycopg.connect(conninfo(), autocommit=True) as database:
        with transaction.atomic():
            rebuilding.lock(acme.tenant.id)
            flushing = pool.submit(flush, acme)
            wait_until(lambda: flushing.done() or is_waiting(database, "flusher"), what="the flush's wait")
            assert not flushing.done()
            assert books(acme.tenant.id).used == 0
        flushing.result()
    assert invariants.broken(tenant_id=acme.tenant.id) == {}
    assert books(acme.tenant.id).used == 1


def flush(tenant: Onboarded) -> None:
    with psycopg.connect(conninfo(), autocommit=True, application_name="flusher") as database:
        commit(database, Batch((entry(tenant),), {}))


def test_an_unknown_tenant_is_named() -> None:
    with pytest.raises(CommandError, match="no tenant 'nobody'"):
        call_command("rebuild_usage", "--tenant", "nobody")
