"""`manage.py doctor`: each problem is named with its mend, whatever else is broken."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection

from billing.onboarding import Onboarded
from config import doctor, doctor_stripe
from config.findings import Finding, Grade
from metering import engine, invariants
from metering.database import conninfo
from metering.ledger import commit
from metering.models import SetAside
from metering.recorder import Batch
from tests.conftest import ROOT, MakeTenant, environment
from tests.metering.ledger import books
from tests.metering.test_limit_is_exact import attempt, caller_of
from tests.metering.test_recovery import entry

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DURABLE = {
    "server_version": "18.6 (Debian)", "server_version_num": "180006", "fsync": "on", "full_page_writes": "on",
    "synchronous_commit": "on", "TimeZone": "UTC", "max_connections": "100", "superuser_reserved_connections": "3",
}  # fmt: skip


def run(**changes: str | None) -> tuple[int, dict[str, list[dict[str, str]]], str]:
    """The command in a process of its own: exit code, findings by name, and what it said on stderr."""
    env = {name: value for name, value in {**environment(0), **changes}.items() if value is not None}
    done = subprocess.run(
        [sys.executable, "manage.py", "doctor", "--json"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(done.stdout)["checks"]:
        found.setdefault(finding["name"], []).append(finding)
    return done.returncode, found, done.stderr


# -- the whole command -------------------------------------------------------------------------------------------------


def test_it_names_what_is_wrong_with_this_test_run(committed: None) -> None:
    code, found, said = run()
    assert code == 1
    assert "Traceback" not in said
    assert found["Configuration"][0]["grade"] == "ok"
    assert "fsync" in found["PostgreSQL"][0]["detail"]  # the tests' own server runs without
    assert "fsync = on" in found["PostgreSQL"][0]["mend"]
    assert found["Celery"][0]["detail"].startswith("no worker or beat")
    for name in ("Migrations", "Partitions", "Redis", "Queue", "Clocks", "Connections"):
        assert found[name][0]["grade"] == "ok"
    assert found["Stripe"][0]["grade"] == "info"


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}, "PostgreSQL", "refused"),
        pytest.param({"DATABASE_URL": None}, "Configuration", "DATABASE_URL is not set", marks=pytest.mark.long),
        pytest.param(
            {"DATABASE_URL": "mysql://u:p@127.0.0.1/d"},
            "Configuration",
            "not a PostgreSQL address",
            marks=pytest.mark.long,
        ),
        ({"DATABASE_URL": "nonsense"}, "Configuration", "not a PostgreSQL address"),
        ({"REDIS_URL": "redis://127.0.0.1:1/0"}, "Redis", "refused"),
        pytest.param({"REDIS_URL": "redis://127.0.0.1:port/0"}, "Redis", "port", marks=pytest.mark.long),
        pytest.param({"REDIS_URL": None}, "Configuration", "REDIS_URL is not set", marks=pytest.mark.long),
        ({"TIME_ZONE": "Europe/Berlin"}, "Configuration", "TIME_ZONE"),
        pytest.param(
            {"METERING_LEASE_SECONDS": "1"}, "Configuration", "METERING_LEASE_SECONDS", marks=pytest.mark.long
        ),
    ],
)
def test_a_broken_address_or_value_is_a_finding(
    committed: None, changes: dict[str, str | None], name: str, words: str
) -> None:
    code, found, said = run(**changes)
    assert code == 1
    assert "Traceback" not in said
    (finding,) = [one for one in found[name] if one["grade"] == "problem"]
    assert words in finding["detail"]
    assert finding["mend"]


def test_a_database_that_was_never_migrated_is_named(committed: None) -> None:
    with psycopg.connect(conninfo(), autocommit=True) as server:
        server.execute("DROP DATABASE IF EXISTS doctor_empty")
        server.execute("CREATE DATABASE doctor_empty")
        try:
            url = environment(0)["DATABASE_URL"].rpartition("/")[0] + "/doctor_empty"
            code, found, said = run(DATABASE_URL=url)
        finally:
            server.execute("DROP DATABASE doctor_empty WITH (FORCE)")
    assert (code, "Traceback" in said) == (1, False)
    assert found["Migrations"][0]["mend"] == "Run `uv run manage.py migrate`."
    assert found["Metering"][0]["detail"] == "not checked: migrations are pending"


def test_the_report_is_aligned_and_prints_mends(committed: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        call_command("doctor")
    assert ended.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok       Migrations     none pending") for line in lines)
    problem = next(number for number, line in enumerate(lines) if line.startswith("problem  PostgreSQL"))
    assert lines[problem + 1].strip().startswith("mend: Set fsync")


# -- each check --------------------------------------------------------------------------------------------------------


def test_a_durable_server_is_ok() -> None:
    finding = doctor.postgresql(values=DURABLE)
    assert finding == Finding("PostgreSQL", Grade.OK, "18.6, fsync on, synchronous_commit on, UTC")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("fsync", "off", "fsync = on"),
        ("full_page_writes", "off", "full_page_writes = on"),
        ("synchronous_commit", "off", "synchronous_commit = on"),
        ("server_version_num", "140011", "PostgreSQL 15"),
        ("TimeZone", "Europe/Berlin", "timezone = 'UTC'"),
    ],
)
def test_a_server_that_may_lose_calls_is_a_problem(name: str, value: str, words: str) -> None:
    finding = doctor.postgresql(values={**DURABLE, name: value})
    assert finding.grade == Grade.PROBLEM
    assert words in finding.mend


def test_too_few_connections_are_a_problem() -> None:
    assert doctor.connections_needed(values=DURABLE, environ={}).grade == Grade.OK
    many = doctor.connections_needed(values=DURABLE, environ={"WEB_WORKERS": "16", "WEB_THREADS": "8"})
    assert many.grade == Grade.PROBLEM
    assert "max_connections" in many.mend


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"redis_version": "6.2.1"}, "too old"),
        ({"redis_version": "7.2.4", "maxmemory_policy": "allkeys-lru"}, "allkeys-lru"),
    ],
)
def test_a_broker_that_forgets_is_a_problem(values: dict[str, str], words: str) -> None:
    finding = doctor.broker(values=values)
    assert finding.grade == Grade.PROBLEM
    assert words in finding.detail


@pytest.mark.parametrize(("age", "grade"), [(0, Grade.OK), (59, Grade.OK), (61, Grade.PROBLEM), (None, Grade.PROBLEM)])
def test_an_old_heartbeat_means_no_worker_or_beat(age: int | None, grade: Grade) -> None:
    heartbeat = None if age is None else (NOW - timedelta(seconds=age)).isoformat()
    assert doctor.celery(heartbeat=heartbeat, now=NOW).grade == grade


def test_a_long_queue_is_a_problem() -> None:
    assert doctor.queue(waiting=3).grade == Grade.OK
    assert doctor.queue(waiting=50_000).detail == "50,000 tasks wait"


@pytest.mark.parametrize(
    ("offsets", "grade"),
    [
        ({"PostgreSQL": 0.2, "Redis": -0.3}, Grade.OK),
        ({"PostgreSQL": 2.5, "Redis": 0.0}, Grade.PROBLEM),
        ({"PostgreSQL": 1.5, "Redis": -1.5}, Grade.PROBLEM),
        ({}, Grade.INFORMATION),
    ],
)
def test_clocks_that_differ_are_a_problem(offsets: dict[str, float], grade: Grade) -> None:
    assert doctor.clocks(offsets=offsets).grade == grade


def test_partitions_that_are_missing_are_named(committed: None) -> None:
    now = datetime.now(UTC)
    assert doctor.partitions_ahead(now=now).grade == Grade.OK
    later = doctor.partitions_ahead(now=now + timedelta(days=90))
    assert later.grade == Grade.PROBLEM
    assert f"metering_call_{now + timedelta(days=90):%Y%m%d}" in later.detail


def test_without_stripe_nothing_is_wrong(settings: Any) -> None:
    settings.STRIPE_TEST_SECRET_KEY = ""
    (finding,) = doctor_stripe.at_stripe()
    assert (finding.grade, finding.detail) == (Grade.INFORMATION, "not connected: no key is set")


def test_a_stripe_that_does_not_answer_is_named_without_its_key(settings: Any) -> None:
    settings.STRIPE_API_BASE, settings.STRIPE_IS_REAL = "http://127.0.0.1:9", False
    settings.STRIPE_TEST_SECRET_KEY = "sk_test_" + "a" * 24
    (finding,) = doctor_stripe.at_stripe()
    assert finding.grade == Grade.PROBLEM
    assert "cannot be reached" in finding.detail
    assert "aaaa" not in finding.detail


@pytest.mark.parametrize(
    ("finding", "grade", "mend"),
    [
        (doctor_stripe.catalogued(["Launch v1"]), Grade.PROBLEM, "stripe_catalogue"),
        (doctor_stripe.catalogued([]), Grade.OK, ""),
        (doctor_stripe.events(failed=1, late=0), Grade.PROBLEM, "replay"),
        (doctor_stripe.events(failed=0, late=2), Grade.PROBLEM, "worker"),
        (doctor_stripe.events(failed=0, late=0), Grade.OK, ""),
        (doctor_stripe.changes(["acme"]), Grade.PROBLEM, "log"),
    ],
)
def test_what_waits_for_stripe_is_named_with_its_mend(finding: Finding, grade: Grade, mend: str) -> None:
    assert finding.grade == grade
    assert mend in finding.mend


# -- invariants --------------------------------------------------------------------------------------------------------


def violations(tenant: Onboarded, *, lease_seconds: float = 10.0) -> dict[str, str]:
    """What the checker says about one tenant, by check."""
    since = invariants.kept_since()
    assert since is not None
    with invariants.snapshot():
        found = {
            "quotas": invariants.quotas_equal_usage_hours(tenant_id=tenant.tenant.id),
            "reserved": invariants.reserved_equals_leases(tenant_id=tenant.tenant.id),
            "log": invariants.usage_hours_equal_call_log(since=since, tenant_id=tenant.tenant.id),
            "aside": invariants.nothing_is_set_aside(tenant_id=tenant.tenant.id),
            "dead": invariants.no_dead_leases(lease_seconds=lease_seconds, tenant_id=tenant.tenant.id),
        }
    return {name: one.detail for name, ones in found.items() for one in ones}


def change(sql: str, tenant: Onboarded) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, [tenant.tenant.id])


def test_an_honest_ledger_has_no_violations(committed: None, make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=20, burst_per_second=10**6)
    attempt(caller_of(acme.api_key), 40, threads=4, status=lambda number: 500 if number % 5 == 0 else 200)
    assert set(violations(acme)) == set()  # while leases are out
    engine.stop()
    books(acme.tenant.id).assert_balanced()
    assert violations(acme) == {}


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("UPDATE metering_quota SET used = used + 1 WHERE tenant_id = %s", {"quotas"}),
        ("UPDATE metering_quota SET failed = failed + 1 WHERE tenant_id = %s", {"quotas"}),
        ("DELETE FROM metering_quota WHERE tenant_id = %s", {"quotas", "log"}),
        ("UPDATE metering_quota SET reserved = 7 WHERE tenant_id = %s", {"reserved"}),
        ("UPDATE metering_usage_hour SET units = units + 1 WHERE tenant_id = %s", {"quotas", "log"}),
        ("UPDATE metering_usage_hour SET billable = billable + 1 WHERE tenant_id = %s", {"log"}),
        ("DELETE FROM metering_usage_hour WHERE tenant_id = %s", {"quotas", "log"}),
    ],
)
def test_a_cooked_ledger_is_found_out(committed: None, make_tenant: MakeTenant, sql: str, names: set[str]) -> None:
    acme, globex = make_tenant(), make_tenant("Globex")
    for tenant in (acme, globex):
        attempt(caller_of(tenant.api_key), 3)
    engine.stop()
    change(sql, acme)
    assert set(violations(acme)) == names
    assert violations(globex) == {}
    change("DELETE FROM metering_usage_hour WHERE tenant_id = %s", acme)
    assert "call log" in violations(acme)["log"]


def test_a_quota_says_both_sums(committed: None, make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    attempt(caller_of(acme.api_key), 3)
    engine.stop()
    change("UPDATE metering_quota SET used = 9 WHERE tenant_id = %s", acme)
    assert "used 9, failed 0, refused 0; usage hours say 3, 0, 0" in violations(acme)["quotas"]
    finding = doctor.violated(
        "Quotas", invariants.quotas_equal_usage_hours(tenant_id=acme.tenant.id), good="", mend="m"
    )
    assert finding.detail.startswith(f"{acme.tenant.slug}: period of")


def test_set_aside_calls_and_dead_leases_are_named(committed: None, make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    attempt(caller_of(make_tenant("Globex").api_key), 1)
    engine.engine().record(entry(acme, status=10**9))
    engine.stop()
    attempt(caller_of(acme.api_key), 1)  # opens the period
    engine.stop()
    assert violations(acme)["aside"].startswith("1 call(s) in 1 batch(es)")
    change(
        "WITH held AS (UPDATE metering_quota SET reserved = 5 WHERE tenant_id = %s RETURNING tenant_id, period_start) "
        "INSERT INTO metering_lease SELECT tenant_id, gen_random_uuid(), gen_random_uuid(), period_start, 5, "
        "clock_timestamp() - interval '101 seconds' FROM held",
        acme,
    )
    assert violations(acme)["dead"].startswith("5 unit(s) in 1 lease(s)")
    assert set(violations(acme, lease_seconds=11.0)) == {"aside"}
    change("DELETE FROM metering_lease WHERE tenant_id = %s", acme)
    SetAside.objects.filter(tenant_id=acme.tenant.id).delete()


def test_a_snapshot_sees_one_moment(committed: None, make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    with invariants.snapshot():
        before = invariants.quotas_equal_usage_hours(tenant_id=acme.tenant.id)
        with psycopg.connect(conninfo(), autocommit=True) as other:
            commit(other, Batch((entry(acme),), {}))
            other.execute("UPDATE metering_quota SET used = 100 WHERE tenant_id = %s", (acme.tenant.id,))
        assert invariants.quotas_equal_usage_hours(tenant_id=acme.tenant.id) == before == []
    assert invariants.quotas_equal_usage_hours(tenant_id=acme.tenant.id)
