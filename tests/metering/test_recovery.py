"""What a fault leaves behind, and that nothing is counted twice."""

import os
import signal
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.db import connection, transaction
from django.utils import timezone
from pytest_django import Settings

from billing.onboarding import Onboarded
from metering import calls, engine, tasks
from metering.clock import DatabaseClock
from metering.database import conninfo
from metering.holdings import Refused
from metering.ledger import commit
from metering.models import Allowance, SetAside
from metering.recorder import Batch, Entry, call_id
from tests.conftest import ROOT, MakeTenant, environment, wait_until
from tests.metering.ledger import books
from tests.metering.test_limit_is_exact import attempt, caller_of

HOLDER = """
import sys, time, django; django.setup()
from tests.metering.test_limit_is_exact import caller_of
from metering import calls
caller = caller_of(sys.argv[1])
for _ in range(int(sys.argv[2])):
    calls.open_call(caller=caller, capability="storage")  # admitted, and never answered
print("holding", flush=True)
time.sleep(120)
"""


def entry(tenant: Onboarded, **changes: Any) -> Entry:
    at = datetime.now(UTC).timestamp()
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    values: dict[str, Any] = {
        "id": call_id(at), "tenant_id": tenant.tenant.id, "project_id": tenant.key.project_id, "key_id": tenant.key.id,
        "capability": "storage", "outcome": "billable", "reason": "", "status": 200, "units": 1, "latency_us": 900,
        "occurred_at": at, "period_start": start.timestamp(), "period_end": (start + timedelta(days=30)).timestamp(),
        "lease_id": None,
    }  # fmt: skip
    return Entry(**{**values, **changes})


def test_a_batch_that_is_sent_again_changes_nothing(committed: None, make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    batch = Batch((entry(acme), entry(acme)), {})
    with psycopg.connect(conninfo(), autocommit=True) as database:
        assert len(commit(database, batch)) == 1
        assert commit(database, batch) == []
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert kept.used == 2


def test_a_record_that_the_ledger_cannot_take_stops_nobody(committed: None, make_tenant: MakeTenant) -> None:
    acme, globex = make_tenant(), make_tenant("Globex")
    meter = engine.engine()
    attempt(caller_of(acme.api_key), 1)
    meter.record(entry(globex, status=10**9))
    meter.record(entry(acme))
    engine.stop()
    books(acme.tenant.id).assert_balanced()
    assert books(acme.tenant.id).used == 2
    assert books(globex.tenant.id).used == 0
    aside = SetAside.objects.get(tenant_id=globex.tenant.id)
    assert aside.calls == 1
    assert aside.records[0]["status"] == "1000000000"


def test_odd_text_is_recorded(committed: None, make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    with psycopg.connect(conninfo(), autocommit=True) as database:
        commit(database, Batch((entry(acme, capability="a\tb\\c\nd\x00e"),), {}))
    books(acme.tenant.id).assert_balanced()


def test_a_killed_process_gives_its_units_back_at_expiry(
    committed: None, make_tenant: MakeTenant, settings: Settings
) -> None:
    acme = make_tenant(included=40, burst_per_second=10**6)
    env = {**environment(0), "DJANGO_SETTINGS_MODULE": "config.settings", "METERING_LEASE_SECONDS": "3"}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, acme.api_key, "40"],
        env={**env, "PYTHONPATH": str(ROOT)}, cwd=ROOT, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == b"holding"
    assert attempt(caller_of(acme.api_key), 5) == 0
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    settings.METERING = {**settings.METERING, "LEASE_SECONDS": 3.0}
    admitted = 0

    def try_once() -> bool:
        nonlocal admitted
        admitted += attempt(caller_of(acme.api_key), 1)
        return admitted == 40

    wait_until(try_once, seconds=30, what="the return of 40 units")
    assert attempt(caller_of(acme.api_key), 5) == 0
    engine.stop()
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert (kept.used, kept.reserved) == (40, 0)


class Frozen:
    """A monotonic clock that can be moved: what a process sees that was stopped for a while."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def expire(meter: engine.Engine) -> None:
    """What the database sees of a process that has been silent for longer than a lease lives."""
    long_ago = timezone.now() - timedelta(minutes=1)
    Allowance.objects.update(changed_at=long_ago)  # a new allowance alone would make the process ask again
    with connection.cursor() as cursor:
        cursor.execute("UPDATE metering_process SET expires_at = %s WHERE id = %s", [long_ago, meter.registration.id])
        cursor.execute(
            "UPDATE metering_lease SET granted_at = %s WHERE process_id = %s", [long_ago, meter.registration.id]
        )


@pytest.fixture
def short_leases(settings: Settings) -> None:
    """The server of a test run may have started a moment ago, and gives everybody one lease time first."""
    settings.METERING = {**settings.METERING, "LEASE_SECONDS": 1.0}


def test_a_thawed_process_does_not_use_leases_that_were_reclaimed(
    committed: None, make_tenant: MakeTenant, short_leases: None
) -> None:
    acme = make_tenant(included=500, burst_per_second=10**6)
    frozen = Frozen()
    thawed = engine.Engine(clock=DatabaseClock(frozen))
    thawed._tend()
    admitted = 0
    while (lease := thawed.holding(acme.tenant.id).whole.lease) is None or lease.left < 3:
        thawed.leases.admit(acme.tenant.id)
        admitted += 1
    frozen.ahead += 60
    expire(thawed)

    def take_the_rest() -> bool:
        nonlocal admitted
        admitted += attempt(caller_of(acme.api_key), 100)
        return admitted >= 500

    wait_until(take_the_rest, what="the other process taking everything, the reclaimed units included")
    # The calls that the frozen process had admitted are still on their way: the documented overshoot, and nothing more.
    thawed._renewed_at = float("-inf")
    thawed._tend()
    assert not thawed.registration.is_lapsed()
    with pytest.raises(Refused):
        thawed.leases.admit(acme.tenant.id)
    thawed.flush(everything=True)
    thawed.database.close()
    engine.stop()
    books(acme.tenant.id).assert_balanced()


def test_units_of_dead_processes_come_back_without_a_call(
    committed: None, make_tenant: MakeTenant, short_leases: None
) -> None:
    acme = make_tenant(included=500)
    dead = engine.Engine()
    dead._tend()
    dead.leases.admit(acme.tenant.id)
    expire(dead)
    assert books(acme.tenant.id).reserved == 1

    def is_returned() -> bool:
        tasks.reclaim_dead()
        return books(acme.tenant.id).reserved == 0

    wait_until(is_returned, what="the return of the unit")
    dead.database.close()


@pytest.mark.parametrize("cost", [1, 5])
def test_units_in_flight_stay_reserved_when_the_rest_goes_back(
    committed: None, make_tenant: MakeTenant, cost: int
) -> None:
    acme = make_tenant(included=1000, burst_per_second=10**6)
    meter = engine.Engine()
    meter._tend()
    tickets = [meter.leases.admit(acme.tenant.id, cost=cost) for _ in range(40)]
    meter.flush(everything=True)
    assert books(acme.tenant.id).reserved == 40 * cost
    tickets.append(meter.leases.admit(acme.tenant.id, cost=cost))
    assert books(acme.tenant.id).reserved >= 41 * cost
    for ticket in tickets:
        meter.leases.give_back(ticket)
    meter.flush(everything=True)
    assert books(acme.tenant.id).reserved == 0
    meter.database.close()


def test_units_of_a_living_process_are_not_reclaimed(
    committed: None, make_tenant: MakeTenant, short_leases: None
) -> None:
    acme = make_tenant(included=10)
    holder = engine.Engine()
    holder._tend()
    for _ in range(10):
        holder.leases.admit(acme.tenant.id)
    assert attempt(caller_of(acme.api_key), 5) == 0
    assert books(acme.tenant.id).reserved == 10
    holder.database.close()


def test_connections_cut_by_the_server_are_replaced(committed: None, make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=1000, burst_per_second=10**6)
    caller = caller_of(acme.api_key)
    assert attempt(caller, 20) == 20
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'meterhouse-engine' AND datname = current_database()"
        )
    served = 0

    def serve() -> bool:
        nonlocal served
        try:
            served += attempt(caller, 1)
        except calls.LimitUnavailable:
            return False
        return served >= 50

    wait_until(serve, what="serving again")
    engine.stop()
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert (kept.used, kept.reserved) == (20 + served, 0)


def test_a_call_whose_period_was_never_opened_is_recorded(committed: None, make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    later = timezone.now() + timedelta(days=400)
    with psycopg.connect(conninfo(), autocommit=True) as database:
        commit(
            database,
            Batch(
                (entry(acme, period_start=later.timestamp(), period_end=(later + timedelta(days=30)).timestamp()),), {}
            ),
        )
    books(acme.tenant.id).assert_balanced()


def test_the_call_log_refuses_changes(committed: None, make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    attempt(caller_of(acme.api_key), 1)
    engine.stop()
    for statement in ("UPDATE metering_call SET units = 0", "DELETE FROM metering_call"):
        with pytest.raises(Exception, match="append-only"), connection.cursor() as cursor:
            cursor.execute(f"{statement} WHERE tenant_id = %s", [acme.tenant.id])


@pytest.mark.parametrize("exception", ["moving_boundary", "moving_rows"])
def test_no_exception_lets_a_call_be_changed(committed: None, make_tenant: MakeTenant, exception: str) -> None:
    acme = make_tenant()
    attempt(caller_of(acme.api_key), 1)
    engine.stop()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL meterhouse.{exception} = 'on'")
        with pytest.raises(Exception, match="append-only"):
            cursor.execute("UPDATE metering_call SET units = 0 WHERE tenant_id = %s", [acme.tenant.id])
        transaction.set_rollback(True)


def test_a_fork_starts_with_an_engine_of_its_own(committed: None, make_tenant: MakeTenant) -> None:
    attempt(caller_of(make_tenant().api_key), 1)
    parent = engine.engine()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if engine._engine is None else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert engine.engine() is parent


def test_a_call_id_begins_with_its_time() -> None:
    at = 1_795_500_000.123
    made = uuid.UUID(call_id(at))
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == 1_795_500_000_123
