"""Corrections are new rows of the ledger; ledger = rollup = quota holds after each."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from billing.onboarding import Onboarded
from metering import adjustments, engine, invariants, ledger, limits
from metering.adjustments import CannotAdjust
from metering.database import conninfo
from metering.models import Adjustment, Call, LimitKind, Quota, SetAside
from metering.recorder import Batch
from tenants.models import AuditEntry
from tests.conftest import MakeTenant
from tests.metering.test_limit_is_exact import attempt, caller_of
from tests.metering.test_recovery import entry
from tests.metering.test_several_limits import try_one, windows

pytestmark = pytest.mark.usefixtures("committed")
WHY: dict[str, Any] = {"actor": "operator@meterhouse.example", "reason": "The customer was served twice."}


def used(tenant: Onboarded) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(used)::bigint FROM metering_quota WHERE tenant_id = %s", [tenant.tenant.id])
        return int(cursor.fetchone()[0])


def call_ids(tenant: Onboarded) -> list[UUID]:
    return list(Call.objects.filter(tenant=tenant.tenant, outcome="billable").values_list("id", flat=True))


def served(make_tenant: MakeTenant, *, cost: int = 1, count: int = 3, **options: Any) -> Onboarded:
    tenant = make_tenant(burst_per_second=10**6, **options)
    for _ in range(count):
        try_one(caller_of(tenant.api_key), cost=cost)
    engine.stop()
    return tenant


def test_a_void_takes_the_call_off_every_count(make_tenant: MakeTenant) -> None:
    acme = served(make_tenant, cost=4)
    change = adjustments.planned_void(tenant=acme.tenant, call_id=call_ids(acme)[0])
    effect = adjustments.effect(change, now=timezone.now())
    assert (effect.before, effect.after, effect.is_closed) == (12, 8, False)
    assert used(acme) == 12  # a dry run writes nothing
    made = adjustments.apply(change, **WHY, source="ticket 17")
    assert (used(acme), made.units, made.calls, made.source) == (8, -4, -1, "ticket 17")
    assert invariants.broken(tenant_id=acme.tenant.id) == {}
    audit = AuditEntry.objects.get(tenant=acme.tenant, action="ledger.void")
    assert (audit.actor, audit.detail["reason"]) == (WHY["actor"], WHY["reason"])
    with pytest.raises(CannotAdjust, match="voided already"):
        adjustments.planned_void(tenant=acme.tenant, call_id=call_ids(acme)[0])
    with pytest.raises(CannotAdjust, match="voided already"):
        adjustments.apply(change, **WHY)


def test_an_amended_call_costs_what_the_last_word_says(make_tenant: MakeTenant) -> None:
    acme = served(make_tenant, cost=4)
    call_id = call_ids(acme)[0]
    for units, total in ((9, 17), (1, 9), (0, 8)):
        adjustments.apply(adjustments.planned_amend(tenant=acme.tenant, call_id=call_id, units=units), **WHY)
        assert used(acme) == total
        assert invariants.broken(tenant_id=acme.tenant.id) == {}
    adjustments.apply(adjustments.planned_void(tenant=acme.tenant, call_id=call_id), **WHY)
    assert used(acme) == 8
    with pytest.raises(CannotAdjust, match="costs 4 units already"):
        adjustments.planned_amend(tenant=acme.tenant, call_id=call_ids(acme)[1], units=4)


def test_a_backfill_counts_in_its_own_hour_and_in_the_limits_that_hold_there(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100, burst_per_second=10**6)
    limits.put(tenant=acme.tenant, kind=LimitKind.KEY, subject_id=acme.key.id, calls=30, actor="test")
    attempt(caller_of(acme.api_key), 3)
    engine.stop()
    now = timezone.now()
    change = adjustments.planned_backfill(
        tenant=acme.tenant, key=acme.key, capability="storage", occurred_at=now - timedelta(minutes=1), calls=20, now=now
    )  # fmt: skip
    first = adjustments.apply(change, **WHY, adjustment_id=uuid.uuid4())
    again = adjustments.apply(change, **WHY, adjustment_id=first.id)
    assert first == again
    assert used(acme) == 23
    assert windows(acme)["key"] == (23, 0)
    assert invariants.broken(tenant_id=acme.tenant.id) == {}
    assert attempt(caller_of(acme.api_key), 50) == 7


def test_what_makes_no_sense_is_refused_and_says_why(make_tenant: MakeTenant) -> None:
    acme, initech = served(make_tenant), served(make_tenant, name="Initech")
    now = timezone.now()
    try_one(caller_of(acme.api_key), status=500)
    engine.stop()
    failed = Call.objects.get(tenant=acme.tenant, outcome="failed").id
    plans: list[tuple[Callable[[], object], str]] = [
        (lambda: adjustments.planned_void(tenant=acme.tenant, call_id=failed), "nothing to correct"),
        (lambda: adjustments.planned_void(tenant=acme.tenant, call_id=uuid.uuid4()), "no call"),
        (lambda: adjustments.planned_void(tenant=initech.tenant, call_id=call_ids(acme)[0]), "no call"),
        (lambda: adjustments.planned_amend(tenant=acme.tenant, call_id=call_ids(acme)[0], units=-1), "costs 0 to"),
        (lambda: backfill(acme, calls=0, now=now), "1 to"),
        (lambda: backfill(acme, calls=10**13, now=now), "1 to"),
        (lambda: backfill(acme, calls=1, now=now, occurred_at=now + timedelta(hours=1)), "future"),
        (lambda: backfill(acme, calls=1, now=now, occurred_at=now - timedelta(days=401)), "400 days"),
        (lambda: backfill(acme, calls=1, now=now, capability="Storage\x00"), "capability"),
        (lambda: backfill(acme, calls=1, now=now, key=initech.key), "does not belong"),
        (lambda: adjustments.apply(void_first(acme), actor="x", reason=" "), "reason"),
    ]  # fmt: skip
    for plan, message in plans:
        with pytest.raises(CannotAdjust, match=message):
            plan()
    assert used(acme) == 3
    assert not Adjustment.objects.filter(tenant__in=[acme.tenant, initech.tenant]).exists()


def void_first(tenant: Onboarded) -> adjustments.Change:
    return adjustments.planned_void(tenant=tenant.tenant, call_id=call_ids(tenant)[0])


def backfill(tenant: Onboarded, **changes: Any) -> adjustments.Change:
    values = {
        "tenant": tenant.tenant,
        "key": tenant.key,
        "capability": "storage",
        "occurred_at": changes["now"],
        "calls": 1,
    }
    return adjustments.planned_backfill(**{**values, **changes})


def test_an_adjustment_is_never_changed(make_tenant: MakeTenant) -> None:
    acme = served(make_tenant)
    adjustments.apply(adjustments.planned_void(tenant=acme.tenant, call_id=call_ids(acme)[0]), **WHY)
    for statement in ("UPDATE metering_adjustment SET units = 0", "DELETE FROM metering_adjustment"):
        with pytest.raises(Exception, match="append-only"), connection.cursor() as cursor:
            cursor.execute(f"{statement} WHERE tenant_id = %s", [acme.tenant.id])


@pytest.mark.parametrize(
    "row",
    [
        {"kind": "void", "calls": -1, "units": 5},
        {"kind": "void", "calls": -2, "units": -1},
        {"kind": "amend", "calls": 0, "units": 0},
        {"kind": "backfill", "calls": 1, "units": 1, "reason": " "},
    ],
)
def test_the_database_refuses_adjustments_that_make_no_sense(make_tenant: MakeTenant, row: dict[str, Any]) -> None:
    acme = make_tenant()
    values = {"tenant": acme.tenant.id, "id": uuid.uuid4(), "call": None if row["kind"] == "backfill" else uuid.uuid4(),
              "reason": "x", **row}  # fmt: skip
    with pytest.raises(Exception, match="adjustment_"), connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metering_adjustment (tenant_id, id, kind, call_id, occurred_at, period_start, project_id, api_key_id, "
            "capability, calls, units, actor, reason) VALUES (%(tenant)s, %(id)s, %(kind)s, %(call)s, now(), now(), 1, 1, 'auth', "
            "%(calls)s, %(units)s, 'x', %(reason)s)",
            values,
        )


@pytest.mark.parametrize(
    ("corrections", "constraint"),
    [
        ([("amend", 0, -4)], ""),
        ([("amend", 0, -5)], "adjustment_leaves_a_cost"),
        ([("amend", 0, 6), ("void", -1, -10)], ""),
        ([("amend", 0, 6), ("void", -1, -4)], "adjustment_leaves_a_cost"),
        ([("void", -1, -4), ("amend", 0, 1)], "adjustment_leaves_a_cost"),
        ([("void", -1, -4), ("void", -1, 0)], "adjustment_voids_a_call_once"),
    ],
)
def test_the_database_never_takes_more_off_a_call_than_it_costs(
    make_tenant: MakeTenant, corrections: list[tuple[str, int, int]], constraint: str
) -> None:
    """Past the product's own code; the ledger of this tenant is not in balance afterwards, and nobody asks."""
    acme = served(make_tenant, cost=4, count=1)
    call = Call.objects.get(tenant=acme.tenant)
    *first, last = corrections
    for correction in first:
        insert(call, *correction)
    if not constraint:
        insert(call, *last)
        return
    with pytest.raises(IntegrityError) as caught, transaction.atomic():
        insert(call, *last)
    assert caught.value.__cause__.diag.constraint_name == constraint  # type: ignore[union-attr]


def test_the_database_corrects_only_calls_that_were_billed(make_tenant: MakeTenant) -> None:
    acme = make_tenant(burst_per_second=10**6)
    try_one(caller_of(acme.api_key), status=500)
    engine.stop()
    with pytest.raises(IntegrityError, match="was not billed"):
        insert(Call.objects.get(tenant=acme.tenant), "void", -1, 0)


def insert(call: Call, kind: str, calls: int, units: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metering_adjustment (tenant_id, id, kind, call_id, occurred_at, period_start, project_id, api_key_id, "
            "capability, calls, units, actor, reason) SELECT tenant_id, gen_random_uuid(), %s, id, occurred_at, now(), "
            "project_id, api_key_id, capability, %s, %s, 'x', 'x' FROM metering_call WHERE tenant_id = %s AND id = %s",
            [kind, calls, units, call.tenant_id, call.id],
        )


def test_of_two_who_amend_a_call_at_once_the_second_is_told(make_tenant: MakeTenant) -> None:
    acme = served(make_tenant, cost=4)
    call_id = call_ids(acme)[0]
    first, second = (adjustments.planned_amend(tenant=acme.tenant, call_id=call_id, units=9) for _ in range(2))
    adjustments.apply(first, **WHY)
    with pytest.raises(CannotAdjust, match="costs 9 units now"):
        adjustments.apply(second, **WHY)
    assert used(acme) == 17


def test_corrections_while_calls_are_recorded_lose_nothing_and_wait_for_nobody(
    make_tenant: MakeTenant, caplog: pytest.LogCaptureFixture
) -> None:
    acme = served(make_tenant, cost=4, count=20, included=10**6)
    with ThreadPoolExecutor(max_workers=2) as pool:
        calling = pool.submit(attempt, caller_of(acme.api_key), 300, threads=2)
        for call_id in call_ids(acme)[:20]:
            adjustments.apply(adjustments.planned_amend(tenant=acme.tenant, call_id=call_id, units=1), **WHY)
        assert calling.result() == 300
    engine.stop()
    assert used(acme) == 320
    assert invariants.broken(tenant_id=acme.tenant.id) == {}
    assert "Flush failed" not in caplog.text


def test_a_dry_run_of_a_period_that_was_never_opened_opens_none(make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    now = timezone.now()
    change = backfill(acme, calls=5, now=now, occurred_at=now - timedelta(days=100))
    effect = adjustments.effect(change, now=now)
    assert (effect.calls_before, effect.calls_after, effect.after, effect.is_closed) == (0, 5, 5, True)
    assert change.occurred_at in effect.period
    assert Quota.objects.filter(tenant=acme.tenant).count() == 1
    adjustments.apply(change, **WHY)
    assert [(quota.period_start, quota.used) for quota in Quota.objects.filter(tenant=acme.tenant, used=5)] == [
        (effect.period.start, 5)
    ]
    assert list(adjustments.of_period(tenant_id=acme.tenant.id, period_start=effect.period.start))
    assert invariants.broken(tenant_id=acme.tenant.id) == {}


@pytest.fixture
def aside(make_tenant: MakeTenant) -> tuple[Onboarded, SetAside]:
    """Three calls in the ledger, and a batch of one billable and one failed that it could not take."""
    acme = served(make_tenant)
    batch = Batch((entry(acme, units=5), entry(acme, units=0, outcome="failed")), {})
    with psycopg.connect(conninfo(), autocommit=True) as database:
        ledger.set_aside(database, batch, psycopg.DataError("out of range"))
    return acme, SetAside.objects.get(tenant_id=acme.tenant.id)


def test_calls_that_were_set_aside_are_backfilled_once(aside: tuple[Onboarded, SetAside]) -> None:
    acme, batch = aside
    changes = adjustments.planned_from_set_aside(tenant=acme.tenant, set_aside=batch, now=timezone.now())
    (effect,) = adjustments.effects(changes, now=timezone.now())
    assert (effect.calls_before, effect.calls_after, effect.before, effect.after) == (3, 4, 3, 8)
    made = adjustments.from_set_aside(changes, set_aside=batch, **WHY)
    assert [adjustment.source for adjustment in made] == [f"set aside {batch.id}"]
    assert used(acme) == 8
    assert invariants.nothing_is_set_aside(tenant_id=acme.tenant.id) == []
    assert invariants.broken(tenant_id=acme.tenant.id) == {}
    with pytest.raises(CannotAdjust, match="Nothing is set aside"):
        adjustments.from_set_aside(changes, set_aside=batch, **WHY)
    assert used(acme) == 8


def test_what_was_set_aside_is_dismissed_with_a_reason_and_kept_on_record(aside: tuple[Onboarded, SetAside]) -> None:
    acme, batch = aside
    with pytest.raises(CannotAdjust, match="reason"):
        adjustments.dismiss(set_aside=batch, actor="x", reason=" ")
    adjustments.dismiss(set_aside=batch, **WHY)
    assert used(acme) == 3
    assert invariants.nothing_is_set_aside(tenant_id=acme.tenant.id) == []
    kept = AuditEntry.objects.get(tenant=acme.tenant, action="ledger.set_aside_settled")
    assert (kept.detail["backfilled"], kept.detail["records"], kept.detail["reason"]) == (
        0,
        batch.records,
        WHY["reason"],
    )
