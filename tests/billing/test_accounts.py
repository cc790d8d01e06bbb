from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.core.exceptions import ValidationError
from django.db import DatabaseError, transaction
from django.db.models import ProtectedError

from billing import accounts
from billing.models import Plan, PlanVersion
from metering.models import MAX_CALLS, Policy
from tests.conftest import MakeTenant
from tests.metering.test_limit_is_exact import attempt, caller_of


def test_the_four_tiers_are_as_sold(db: None) -> None:
    tiers: dict[str, tuple[object, ...]] = {
        plan.code: (
            version.fee_minor, version.included, version.max_projects, version.support, version.policy,
            version.unit_price_minor * 1000,
        )
        for plan in Plan.objects.all()
        for version in [accounts.public_version(plan_code=plan.code)]
    }  # fmt: skip
    assert tiers["free"] == (0, 5_000, 1, "community support", "block", 0)
    assert tiers["launch"] == (1900, 100_000, 3, "email support", "rate", Decimal(25))
    assert tiers["scale"] == (4900, 1_000_000, None, "priority support", "rate", Decimal(6))
    assert list(tiers) == ["free", "launch", "scale", "enterprise"]


def test_a_version_in_use_cannot_be_changed(db: None, make_tenant: MakeTenant) -> None:
    version = make_tenant(plan="scale", included=7).account.plan_version
    with pytest.raises(DatabaseError, match="cannot be changed"), transaction.atomic():
        PlanVersion.objects.filter(pk=version.pk).update(fee_minor=1)
    with pytest.raises(DatabaseError, match="cannot be changed"), transaction.atomic():
        PlanVersion.objects.filter(pk=version.pk).update(used_at=None)
    with pytest.raises(ProtectedError):
        version.delete()


def test_a_version_that_was_left_still_cannot_be_changed(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant(plan="launch", included=7)
    left = acme.account.plan_version
    accounts.change_plan(
        account=acme.account, version=accounts.public_version(plan_code="scale"), actor="test", now=now
    )
    with pytest.raises(DatabaseError, match="cannot be changed"), transaction.atomic():
        PlanVersion.objects.filter(pk=left.pk).update(included=8)


def test_terms_agreed_with_another_tenant_are_not_offered(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme, globex = make_tenant(included=500), make_tenant("Globex")
    with pytest.raises(accounts.NotOffered):
        accounts.change_plan(account=globex.account, version=acme.account.plan_version, actor="test", now=now)


def test_an_unused_version_can_be_changed(db: None) -> None:
    fresh = PlanVersion.objects.create(
        plan=Plan.objects.get(code="free"), number=99, fee_minor=0, included=1, policy="block", burst_per_second=1,
        support="none",
    )  # fmt: skip
    PlanVersion.objects.filter(pk=fresh.pk).update(included=2)
    fresh.refresh_from_db()
    assert fresh.included == 2


def test_other_terms_make_a_version_for_this_tenant_alone(db: None, make_tenant: MakeTenant) -> None:
    acme, globex = make_tenant(included=500), make_tenant("Globex")
    assert acme.account.plan_version.tenant == acme.tenant
    assert globex.account.plan_version.tenant is None
    assert globex.account.plan_version.included == 5_000
    assert make_tenant(included=5_000).account.plan_version == globex.account.plan_version


@pytest.mark.parametrize("changes", [{"included": -1}, {"included": MAX_CALLS + 1}, {"burst_per_second": 0}])
def test_absurd_terms_are_refused(db: None, make_tenant: MakeTenant, changes: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        make_tenant(**changes)


def test_the_allowance_says_what_the_version_says(db: None, make_tenant: MakeTenant) -> None:
    allowance = make_tenant(plan="launch", hard_limit=150_000).tenant.allowance
    assert (allowance.label, allowance.included, allowance.hard_limit) == ("Launch", 100_000, 150_000)
    assert (allowance.policy, allowance.admits, allowance.burst_per_second) == (Policy.RATE, 150_000, 500)


@pytest.mark.parametrize(
    ("policy", "included", "hard_limit", "admits"),
    [
        (Policy.BLOCK, 10, None, 10),
        (Policy.BLOCK, 10, 5, 5),
        (Policy.BLOCK, None, None, None),
        (Policy.RATE, 10, None, None),
        (Policy.RATE, 10, 50, 50),
        (Policy.UPGRADE, 10, None, 10),
    ],
)
def test_what_is_admitted(
    db: None, make_tenant: MakeTenant, policy: Policy, included: int | None, hard_limit: int | None, admits: int | None
) -> None:
    tenant = make_tenant(policy=policy, included=included, hard_limit=hard_limit).tenant
    assert tenant.allowance.admits == admits


def test_an_upgrade_is_enforced_and_resets_nothing(committed: None, make_tenant: MakeTenant, now: datetime) -> None:
    globex = make_tenant("Globex", included=10, burst_per_second=10**6)
    caller = caller_of(globex.api_key)
    assert attempt(caller, 20) == 10
    bigger = accounts.agreed_version(
        tenant=globex.tenant,
        version=accounts.public_version(plan_code="free"),
        agreed=accounts.Agreed(included=25, burst_per_second=10**6),
    )
    accounts.change_plan(account=globex.account, version=bigger, actor="test", now=now)
    admitted = 0
    deadline = datetime.now(UTC) + timedelta(seconds=5)
    while admitted < 15 and datetime.now(UTC) < deadline:
        admitted += attempt(caller, 1)
    assert admitted == 15
    assert attempt(caller, 10) == 0
