"""Alerts: fired by the commit that crosses them, once for each threshold and period, never early, with their event beside them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, connections
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.onboarding import Onboarded
from metering import adjustments, alerts, allowances, boundaries, engine, invariants, ledger, periods
from metering.models import Alert, AlertKind, Allowance, Call, Crossing, Policy
from metering.recorder import Batch, Entry, call_id
from tenants.models import AuditEntry, Event
from tests.conftest import MakeTenant
from tests.metering.test_limit_is_exact import attempt, caller_of

pytestmark = pytest.mark.usefixtures("committed")


def fired(tenant_id: UUID) -> list[str]:
    found = Crossing.objects.filter(tenant_id=tenant_id).order_by("crossed_at", "units")
    return list(found.values_list("key", flat=True))


def make_calls(api_key: str, calls: int) -> None:
    attempt(caller_of(api_key), calls)
    assert engine.engine().flush()


def push(tenant: Onboarded, *, included: int | None, policy: Policy = Policy.RATE, **other: Any) -> None:
    known = Allowance.objects.get(pk=tenant.tenant.pk)
    terms = allowances.Terms(
        label="Test", included=included, hard_limit=other.pop("hard_limit", None), policy=policy,
        burst_per_second=10**6, anchor=known.anchor, **other,
    )  # fmt: skip
    allowances.push(tenant_id=tenant.tenant.pk, terms=terms, now=timezone.now())


def share(percent: int) -> Alert:
    return Alert(kind=AlertKind.SHARE, percent=percent)


def assert_sound(tenant_id: UUID) -> None:
    assert invariants.alerts_have_fired(tenant_id=tenant_id) == []
    assert not [one for one in Crossing.objects.filter(tenant_id=tenant_id, units__gt=0) if one.used < one.units]


# -- The rules, one by one ------------------------------------------------------------------------------------------------------
def test_each_default_fires_in_the_commit_that_reaches_it(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=20)
    steps: list[tuple[int, list[str]]] = [
        (9, []), (1, ["share:50"]), (4, []), (1, ["share:75"]), (2, []), (1, ["share:90"]), (2, ["limit", "share:100"]),
    ]  # fmt: skip
    for calls, expected in steps:
        before = fired(acme.tenant.pk)
        make_calls(acme.api_key, calls)
        assert sorted(fired(acme.tenant.pk)[len(before) :]) == expected
    first = Crossing.objects.get(tenant=acme.tenant, key="share:50")
    assert (first.units, first.used, first.percent, first.included) == (10, 10, 50, 20)
    event = Event.objects.get(pk=first.pk)
    assert (event.tenant_id, event.type) == (acme.tenant.pk, "alert.fired")
    assert event.data["alert"] == {"kind": "share", "percent": 50}
    assert (event.data["used_calls"], event.data["threshold_calls"]) == (10, 10)
    assert event.data["period"]["end"] == f"{first.period_end:%Y-%m-%dT%H:%M:%SZ}"
    reached = Event.objects.get(tenant=acme.tenant, type="limit.reached")
    assert reached.data["limit_calls"] == 20
    assert_sound(acme.tenant.pk)


def test_one_flush_may_cross_several(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=20)
    commit(acme, 16, timezone.now())
    assert fired(acme.tenant.pk) == ["share:50", "share:75"]
    assert {one.used for one in Crossing.objects.filter(tenant=acme.tenant)} == {16}


def test_what_is_not_committed_has_not_fired(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=4)
    batch = Batch(tuple(entries(acme, 2, timezone.now())), {})
    raw = connection_of()
    with raw.transaction(force_rollback=True):
        ledger.commit(raw, batch)
    assert fired(acme.tenant.pk) == []
    ledger.commit(raw, batch)
    ledger.commit(raw, batch)  # the same batch again changes nothing
    assert fired(acme.tenant.pk) == ["share:50"]


def test_a_new_alert_that_is_passed_already_fires_at_once(make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant(included=20)
    make_calls(acme.api_key, 7)
    assert alerts.put(tenant=acme.tenant, alert=share(25), actor="olivia", now=now)
    assert fired(acme.tenant.pk) == ["share:25"]
    assert not alerts.put(tenant=acme.tenant, alert=share(25), actor="olivia", now=now)
    assert alerts.put(tenant=acme.tenant, alert=share(40), actor="olivia", now=now)
    make_calls(acme.api_key, 1)
    assert fired(acme.tenant.pk) == ["share:25", "share:40"]
    assert AuditEntry.objects.filter(
        tenant=acme.tenant, action="alert.set", subject="share:25", actor="olivia"
    ).exists()


def test_an_alert_that_is_removed_and_set_again_does_not_fire_again(make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant(included=20)
    make_calls(acme.api_key, 10)
    half = Alert.objects.get(tenant=acme.tenant, percent=50)
    assert alerts.remove(tenant=acme.tenant, alert_id=half.pk, actor="olivia", now=now)
    assert not alerts.remove(tenant=acme.tenant, alert_id=half.pk, actor="olivia", now=now)
    alerts.put(tenant=acme.tenant, alert=share(50), actor="olivia", now=now)
    make_calls(acme.api_key, 1)
    assert fired(acme.tenant.pk) == ["share:50"]


def test_nobody_removes_anothers_alert(make_tenant: MakeTenant, now: datetime) -> None:
    acme, initech = make_tenant(), make_tenant("Initech")
    theirs = Alert.objects.filter(tenant=acme.tenant)
    assert not alerts.remove(tenant=initech.tenant, alert_id=theirs[0].pk, actor="x", now=now)
    assert theirs.count() == len(alerts.DEFAULT_PERCENTS)


def test_a_removed_alert_does_not_fire(make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant(included=20)
    alerts.remove(tenant=acme.tenant, alert_id=Alert.objects.get(tenant=acme.tenant, percent=50).pk, actor="x", now=now)
    make_calls(acme.api_key, 15)
    assert fired(acme.tenant.pk) == ["share:75"]


def test_more_included_calls_arm_what_is_above_again_and_fire_nothing(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=20, policy=Policy.RATE)
    make_calls(acme.api_key, 16)  # 50 and 75 % have fired
    push(acme, included=21)  # 75 % is 16 now: reached still, and told
    assert fired(acme.tenant.pk) == ["share:50", "share:75"]
    push(acme, included=40)  # 50 % is 20, 75 % is 30: both above
    assert fired(acme.tenant.pk) == ["share:50", "share:75"]
    make_calls(acme.api_key, 4)
    assert fired(acme.tenant.pk) == ["share:50", "share:75", "share:50"]
    push(acme, included=20)  # and back: 75 and 90 % are reached by it; 75 % was told at this number of calls
    assert fired(acme.tenant.pk) == ["share:50", "share:75", "share:50", "share:90", "share:100"]
    assert_sound(acme.tenant.pk)


def test_without_an_end_of_the_included_calls_no_share_fires(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=4)
    push(acme, included=None)
    make_calls(acme.api_key, 8)
    assert fired(acme.tenant.pk) == []
    push(acme, included=8)
    assert sorted(fired(acme.tenant.pk)) == ["share:100", "share:50", "share:75", "share:90"]


def test_a_correction_fires_and_never_a_second_time(make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant(included=20)
    make_calls(acme.api_key, 9)
    backfill(acme, 1, timezone.now())
    assert fired(acme.tenant.pk) == ["share:50"]
    corrected = Call.objects.filter(tenant=acme.tenant, outcome="billable").values_list("id", flat=True)[0]
    adjustments.apply(adjustments.planned_void(tenant=acme.tenant, call_id=corrected), actor="olivia", reason="Twice.")
    make_calls(acme.api_key, 1)
    assert fired(acme.tenant.pk) == ["share:50"]
    assert_sound(acme.tenant.pk)


def test_a_boundary_that_is_learned_late_takes_along_what_has_fired(make_tenant: MakeTenant) -> None:
    """Stripe's period begins two hours after the predicted one: what fired since then is not told again."""
    anchor = periods.hour_of(timezone.now()) - timedelta(days=3)
    acme = make_tenant(included=10, anchor=anchor)
    make_calls(acme.api_key, 6)
    start = anchor + timedelta(hours=2)
    boundaries.learn(
        tenant_id=acme.tenant.pk, period=periods.Period(start, periods.months_after(start, 1)), now=timezone.now()
    )
    assert fired(acme.tenant.pk) == ["share:50"]
    assert Crossing.objects.get(tenant=acme.tenant).period_start == start
    make_calls(acme.api_key, 2)
    assert fired(acme.tenant.pk) == ["share:50", "share:75"]
    assert_sound(acme.tenant.pk)


def test_each_period_begins_anew_and_a_late_call_counts_in_its_own(make_tenant: MakeTenant) -> None:
    begins = periods.hour_of(timezone.now()) - timedelta(days=2)
    acme = make_tenant(included=10, anchor=periods.months_after(begins, -1))
    before = begins - timedelta(hours=1)
    commit(acme, 4, before)
    commit(acme, 5, timezone.now())
    commit(acme, 1, before)  # flushed days after its period has ended
    found = Crossing.objects.filter(tenant=acme.tenant, key="share:50").order_by("period_start")
    assert [one.period_end for one in found] == [begins, periods.months_after(begins, 1)]
    assert_sound(acme.tenant.pk)


def test_an_alert_that_cannot_be_written_refuses_no_call(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=10)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tenants_event (id, tenant_id, type, key, data) "
            "SELECT gen_random_uuid(), %s, 'alert.fired', 'x', '{}'",
            [acme.tenant.pk],
        )
        cursor.execute(
            "CREATE FUNCTION refuse_acme() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN IF NEW.tenant_id = '{acme.tenant.pk}' THEN RAISE 'no'; END IF; RETURN NEW; END $$;"
            "CREATE TRIGGER refuse_acme BEFORE INSERT ON metering_crossing FOR EACH ROW EXECUTE FUNCTION refuse_acme()"
        )
    try:
        commit(acme, 6, timezone.now())
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION refuse_acme() CASCADE")
    assert Call.objects.filter(tenant=acme.tenant).count() == 6
    assert fired(acme.tenant.pk) == []
    assert invariants.alerts_have_fired(tenant_id=acme.tenant.pk) != []
    commit(acme, 1, timezone.now())
    assert fired(acme.tenant.pk) == ["share:50"]


# -- Any order, against a plain description ------------------------------------------------------------------------------------
class Told:
    """What one period must have told, by the rules as they are written down for people."""

    def __init__(self) -> None:
        self.used = 0
        self.armed: dict[str, int] = {}
        self.done: dict[str, int] = {}
        self.told: set[tuple[str, int]] = set()

    def move(self, thresholds: dict[str, int]) -> None:
        self.armed = thresholds
        for key, units in thresholds.items():
            if key in self.done:
                if units > self.done[key] and units > self.used:
                    del self.done[key]
                else:
                    self.done[key] = units
        self.count(0)

    def count(self, units: int) -> None:
        self.used += units
        for key, threshold in self.armed.items():
            if key not in self.done and threshold <= self.used:
                self.done[key] = threshold
                self.told.add((key, threshold))


def thresholds(included: int) -> dict[str, int]:
    shares = {f"share:{percent}": -(-included * percent // 100) for percent in alerts.DEFAULT_PERCENTS}
    return {key: units for key, units in shares.items() if units > 0}


ACTS = st.lists(
    st.tuples(st.sampled_from(["flush", "flush", "flush late", "backfill", "void", "push"]), st.integers(0, 30)),
    max_size=12,
)  # fmt: skip


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(included=st.integers(1, 60), acts=ACTS)
def test_in_any_order_each_threshold_is_told_once(
    make_tenant: MakeTenant, included: int, acts: list[tuple[str, int]]
) -> None:
    begins = periods.hour_of(timezone.now()) - timedelta(days=2)
    acme = make_tenant(included=included, policy=Policy.RATE, anchor=periods.months_after(begins, -1))
    late, running = Told(), Told()
    for one in (late, running):
        one.move(thresholds(included))
    commit(acme, 1, begins - timedelta(hours=1))  # both periods are there
    late.count(1)
    for act, size in acts:
        if act == "flush late":
            commit(acme, size, begins - timedelta(hours=1))
            late.count(size)
        elif act == "backfill":
            backfill(acme, size + 1, timezone.now())
            running.count(size + 1)
        elif act == "void":
            running.used -= void(acme, since=begins)
        elif act == "push":
            push(acme, included=size)
            running.move(thresholds(size))
        else:
            commit(acme, size, timezone.now())
            running.count(size)
    for start, one in ((periods.months_after(begins, -1), late), (begins, running)):
        found = Crossing.objects.filter(tenant=acme.tenant, period_start=start)
        assert {(each.key, each.units) for each in found} == one.told
    assert_sound(acme.tenant.pk)


def test_several_connections_at_once_miss_nothing_and_tell_nothing_twice(make_tenant: MakeTenant) -> None:
    begins = periods.hour_of(timezone.now()) - timedelta(days=2)
    acme = make_tenant(included=60, policy=Policy.RATE, anchor=periods.months_after(begins, -1))
    commit(acme, 1, begins - timedelta(hours=1))

    def work(seed: int) -> None:
        random = Random(seed)
        acts = {
            "flush": lambda: commit(acme, random.randint(1, 9), timezone.now()),
            "late": lambda: commit(acme, random.randint(1, 9), begins - timedelta(hours=1)),
            "backfill": lambda: backfill(acme, random.randint(1, 5), timezone.now()),
            "push": lambda: push(acme, included=random.choice([40, 60, 100, 400, 1000])),
            "watch": lambda: assert_sound(acme.tenant.pk),
        }
        try:
            for act in ["late"] * 8 + random.choices(list(acts), k=20):
                acts[act]()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, seed) for seed in range(4)]:
            future.result()
    assert_sound(acme.tenant.pk)
    late = Crossing.objects.filter(tenant=acme.tenant, period_end=begins).values_list("key", flat=True)
    assert sorted(late) == sorted(set(late))  # nothing moved there: each once
    used = Crossing.objects.filter(tenant=acme.tenant, period_end=begins).order_by("units")
    assert [one.units for one in used] == [30, 45, 54, 60]
    assert invariants.broken(tenant_id=acme.tenant.pk).keys() <= {"call log"}


# -- What the tests do ------------------------------------------------------------------------------------------------------------
def connection_of() -> Any:
    connection.ensure_connection()
    return connection.connection


def entries(tenant: Onboarded, calls: int, at: datetime) -> Iterator[Entry]:
    allowance = Allowance.objects.get(pk=tenant.tenant.pk)
    period = periods.containing(allowance.anchor, at)
    for _ in range(calls):
        yield Entry(
            call_id(at.timestamp()), tenant.tenant.pk, tenant.key.project_id, tenant.key.pk, "auth", "billable", "", 200, 1, 900,
            at.timestamp(), period.start.timestamp(), period.end.timestamp(), None,
        )  # fmt: skip


def commit(tenant: Onboarded, calls: int, at: datetime) -> None:
    ledger.commit(connection_of(), Batch(tuple(entries(tenant, calls, at)), {}))


def backfill(tenant: Onboarded, calls: int, at: datetime) -> None:
    change = adjustments.planned_backfill(
        tenant=tenant.tenant, key=tenant.key, capability="auth", occurred_at=at, calls=calls, now=at
    )
    adjustments.apply(change, actor="olivia", reason="Served, not recorded.")


def void(tenant: Onboarded, *, since: datetime) -> int:
    """One recorded call of the running period is not billed after all; how many there were to choose from, at most 1."""
    calls = Call.objects.filter(tenant=tenant.tenant, occurred_at__gte=since, outcome="billable")
    voided = {one.call_id for one in adjustments.of_period(tenant_id=tenant.tenant.pk, period_start=since)}
    left = calls.exclude(id__in=[one for one in voided if one]).first()
    if left is None:
        return 0
    adjustments.apply(
        adjustments.planned_void(tenant=tenant.tenant, call_id=left.id), actor="olivia", reason="Served twice."
    )
    return 1
