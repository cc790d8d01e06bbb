"""Several limits at once, all or nothing: a call that one limit refuses takes nothing from the others, and says which."""

import threading
from collections import Counter
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from billing import accounts
from billing.onboarding import Onboarded
from metering import calls, engine, limits
from metering.holdings import Refused
from metering.models import LimitKind
from tenants.keys import Caller, issue
from tenants.models import AuditEntry, Project
from tests.conftest import MakeTenant, wait_until
from tests.metering.ledger import books
from tests.metering.test_limit_is_exact import attempt, caller_of

pytestmark = pytest.mark.usefixtures("committed")
HIGH = 10**6


def second_key(tenant: Onboarded, *, project: Project | None = None) -> Caller:
    _, key = issue(project=project or tenant.key.project, name="second", actor="test")
    return caller_of(key)


def try_one(caller: Caller, *, cost: int = 1, status: int = 200) -> calls.MeteredCall:
    call = calls.open_call(caller=caller, capability="storage", cost=cost)
    calls.close_call(call, status=429 if call.problem else status, latency_us=1)
    return call


def windows(tenant: Onboarded) -> dict[str, tuple[int, int]]:
    """kind -> used and reserved, past the product's own code."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT kind, sum(used)::int, sum(reserved)::int FROM metering_window WHERE tenant_id = %s GROUP BY 1",
            [tenant.tenant.id],
        )
        return {kind: (used, reserved) for kind, used, reserved in cursor.fetchall()}


def test_a_keys_limit_stops_that_key_and_no_other(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100, burst_per_second=HIGH)
    first, second = caller_of(acme.api_key), second_key(acme)
    limits.put(tenant=acme.tenant, kind=LimitKind.KEY, subject_id=acme.key.id, calls=10, actor="test")
    assert attempt(first, 30) == 10
    assert attempt(second, 200) == 90
    engine.stop()
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert (kept.used, kept.reserved) == (100, 0)
    assert windows(acme) == {"key": (10, 0)}


def test_a_projects_limit_holds_over_its_keys_and_threads(make_tenant: MakeTenant) -> None:
    acme = make_tenant(plan="scale", included=10_000, burst_per_second=HIGH)
    other = Project.objects.create(tenant=acme.tenant, slug="other", name="Other")
    callers = [caller_of(acme.api_key), second_key(acme), second_key(acme, project=other)]
    limits.put(tenant=acme.tenant, kind=LimitKind.PROJECT, subject_id=acme.key.project_id, calls=120, actor="test")
    admitted: dict[Caller, int] = {}
    runners = [
        threading.Thread(target=lambda caller=caller: admitted.update({caller: attempt(caller, 200)}))
        for caller in callers
    ]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    engine.stop()
    assert admitted[callers[0]] + admitted[callers[1]] == 120
    assert admitted[callers[2]] == 200
    books(acme.tenant.id).assert_balanced()
    assert windows(acme) == {"project": (120, 0)}


def test_a_daily_cap_stops_the_tenant_until_midnight(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=1000, burst_per_second=HIGH)
    limits.put(tenant=acme.tenant, kind=LimitKind.DAY, calls=25, actor="test")
    assert attempt(caller_of(acme.api_key), 60) == 25
    engine.engine().flush()
    engine.engine().leases.release([acme.tenant.id])
    problem: Any = try_one(caller_of(acme.api_key)).problem
    now = timezone.now()
    midnight = 86_400 - (now.hour * 3600 + now.minute * 60 + now.second)
    assert problem.extra["refused_by"] == "daily_cap"
    assert problem.extra["limit"] == problem.extra["used"] == 25
    assert abs(problem.retry_after_seconds - midnight) < 30
    engine.stop()
    books(acme.tenant.id).assert_balanced()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(LimitKind.KEY, "key_limit"), (LimitKind.PROJECT, "project_limit"), (LimitKind.DAY, "daily_cap")],
)
def test_a_refusal_names_its_limit_and_takes_nothing_from_the_others(
    make_tenant: MakeTenant, kind: LimitKind, reason: str
) -> None:
    acme = make_tenant(plan="launch", included=50, hard_limit=70, burst_per_second=HIGH)
    caller = caller_of(acme.api_key)
    subject = {LimitKind.KEY: acme.key.id, LimitKind.PROJECT: acme.key.project_id, LimitKind.DAY: 0}[kind]
    others = {LimitKind.KEY: acme.key.id, LimitKind.PROJECT: acme.key.project_id, LimitKind.DAY: 0}
    for other, other_subject in others.items():
        limits.put(tenant=acme.tenant, kind=other, subject_id=other_subject, calls=60, actor="test")
    limits.put(tenant=acme.tenant, kind=kind, subject_id=subject, calls=5, actor="test")
    assert attempt(caller, 20) == 5
    engine.engine().flush()
    engine.engine().leases.release([acme.tenant.id])
    assert [try_one(caller).reason for _ in range(30)] == [reason] * 30
    engine.stop()
    assert windows(acme) == {"key": (5, 0), "project": (5, 0), "day": (5, 0)}
    assert (books(acme.tenant.id).used, books(acme.tenant.id).reserved) == (5, 0)
    limits.put(tenant=acme.tenant, kind=kind, subject_id=subject, calls=10**6, actor="test")
    assert attempt(caller, 100) == 55
    engine.stop()
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert (kept.used, kept.reserved) == (60, 0)


def test_the_hard_limit_has_a_name_of_its_own(make_tenant: MakeTenant) -> None:
    acme = make_tenant(plan="launch", included=5, hard_limit=7, burst_per_second=HIGH)
    assert attempt(caller_of(acme.api_key), 20) == 7
    engine.engine().flush()
    engine.engine().leases.release([acme.tenant.id])
    assert try_one(caller_of(acme.api_key)).reason == "hard_limit"


def test_a_limit_that_is_set_late_counts_what_was_used_before(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100, burst_per_second=HIGH)
    caller = caller_of(acme.api_key)
    assert attempt(caller, 12) == 12
    engine.engine().flush()
    limits.put(tenant=acme.tenant, kind=LimitKind.KEY, subject_id=acme.key.id, calls=20, actor="test")
    engine.engine().leases.release([acme.tenant.id])
    assert attempt(caller, 30) == 8
    engine.stop()
    assert windows(acme) == {"key": (20, 0)}


def test_a_limit_is_enforced_in_another_process_within_a_second(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=10_000, burst_per_second=HIGH)
    caller = caller_of(acme.api_key)
    attempt(caller, 50)
    other = engine.Engine()  # another process as far as the database can tell
    other.admit(acme.tenant.id, project_id=caller.project_id, key_id=caller.key_id)
    limits.put(tenant=acme.tenant, kind=LimitKind.KEY, subject_id=acme.key.id, calls=0, actor="test")

    def is_refused() -> bool:
        try:
            other.admit(acme.tenant.id, project_id=caller.project_id, key_id=caller.key_id)
        except Refused:
            return True
        return False

    wait_until(is_refused, seconds=5, what="the new limit")
    wait_until(lambda: try_one(caller).reason == "key_limit", seconds=5, what="the new limit here")
    other.stop()


def test_a_failed_call_is_free_in_every_limit(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100, burst_per_second=HIGH)
    limits.put(tenant=acme.tenant, kind=LimitKind.KEY, subject_id=acme.key.id, calls=3, actor="test")
    limits.put(tenant=acme.tenant, kind=LimitKind.DAY, calls=4, actor="test")
    caller = caller_of(acme.api_key)
    for _ in range(10):
        assert try_one(caller, status=500).problem is None
    assert attempt(caller, 10) == 3
    engine.stop()
    assert windows(acme) == {"key": (3, 0), "day": (3, 0)}


def test_a_burst_refusal_takes_no_units(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100, burst_per_second=1)
    limits.put(tenant=acme.tenant, kind=LimitKind.KEY, subject_id=acme.key.id, calls=50, actor="test")
    reasons = Counter(try_one(caller_of(acme.api_key)).reason for _ in range(20))
    engine.stop()
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert reasons["burst"] >= 15
    assert windows(acme) == {"key": (20 - reasons["burst"], 0)}
    assert kept.used == 20 - reasons["burst"]


def test_a_limit_names_something_of_the_tenants_own(make_tenant: MakeTenant) -> None:
    acme, initech = make_tenant(), make_tenant("Initech")
    foreign = [(LimitKind.KEY, initech.key.id), (LimitKind.PROJECT, initech.key.project_id), (LimitKind.DAY, 7)]
    for kind, subject_id in foreign:
        with pytest.raises(limits.UnusableLimit, match="no such"):
            limits.put(tenant=acme.tenant, kind=kind, subject_id=subject_id, calls=5, actor="test")
    with pytest.raises(limits.UnusableLimit, match="number of calls"):
        limits.put(tenant=acme.tenant, kind=LimitKind.DAY, calls=-1, actor="test")


def test_limits_are_on_record(make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    limits.put(tenant=acme.tenant, kind=LimitKind.DAY, calls=5, actor="owner@acme.example")
    limits.put(tenant=acme.tenant, kind=LimitKind.DAY, calls=6, actor="owner@acme.example")
    assert limits.remove(tenant=acme.tenant, kind=LimitKind.DAY, actor="owner@acme.example")
    assert not limits.remove(tenant=acme.tenant, kind=LimitKind.DAY, actor="owner@acme.example")
    found = AuditEntry.objects.filter(tenant=acme.tenant, action__startswith="limit.").order_by("at")
    assert [(entry.action, entry.detail.get("before")) for entry in found] == [
        ("limit.set", None), ("limit.set", 5), ("limit.removed", 6),
    ]  # fmt: skip


def test_a_raised_hard_limit_admits_at_once(make_tenant: MakeTenant) -> None:
    acme = make_tenant(plan="launch", included=10, hard_limit=5, burst_per_second=HIGH)
    caller = caller_of(acme.api_key)
    assert attempt(caller, 10) == 5
    accounts.set_hard_limit(account=acme.account, hard_limit=8, actor="test", now=timezone.now())
    wait_until(lambda: try_one(caller).problem is None, seconds=5, what="the raised limit")
