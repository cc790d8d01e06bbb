"""Corrections are new rows of the ledger; ledger = rollup = quota holds after each."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.utils import timezone

from billing.onboarding import Onboarded
from metering import adjustments, engine, invariants, limits
from metering.adjustments import CannotAdjust
from metering.models import Adjustment, Call, LimitKind, SetAside
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


def test_calls_that_were_set_aside_are_backfilled(make_tenant: MakeTenant) -> None:
    acme = served(make_tenant)
    engine.engine()._run()
    engine.engine().record(entry(acme, status=10**9, units=1))
    engine.stop()
    aside = SetAside.objects.get(tenant_id=acme.tenant.id)
    made = adjustments.from_set_aside(set_aside=aside, **WHY, now=timezone.now())
    assert [adjustment.source for adjustment in made] == [f"set aside {aside.id}"]
    assert used(acme) == 4
    assert not SetAside.objects.filter(tenant_id=acme.tenant.id).exists()
    assert invariants.broken(tenant_id=acme.tenant.id) == {}
