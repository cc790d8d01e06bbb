from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import DatabaseError, transaction
from django.db.models import ProtectedError

from billing import accounts, onboarding, pricing
from billing.models import Account, Consent, PaymentState, Plan, PlanVersion
from metering.models import MAX_CALLS, Allowance, Policy, Restriction
from tenants import people
from tenants.models import AuditEntry
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


# -- What is pushed ------------------------------------------------------------------------------------------------------
def consent_of(account: Account, to: str = "scale", **fields: Any) -> Consent:
    return Consent.objects.create(
        account=account, from_version=account.plan_version, to_version=accounts.public_version(plan_code=to),
        currency="usd", fee_minor=4900, fallback=Policy.BLOCK, text="Yes.", given_by="owner@acme.example", **fields,
    )  # fmt: skip


def enforced(account: Account) -> Allowance:
    account.refresh_from_db()
    return Allowance.objects.get(pk=account.pk)


def test_the_customer_chooses_what_happens_beyond(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant(plan="launch").account
    accounts.set_policy(account=acme, policy=Policy.BLOCK, actor="owner@acme.example", now=now)
    assert (enforced(acme).policy, enforced(acme).admits) == (Policy.BLOCK, 100_000)
    accounts.set_policy(account=acme, policy=None, actor="owner@acme.example", now=now)
    assert (enforced(acme).policy, enforced(acme).admits) == (Policy.RATE, None)
    assert AuditEntry.objects.filter(tenant=acme.tenant, action="policy.set").count() == 2


def test_what_has_no_price_is_not_rated(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    globex = make_tenant("Globex").account
    with pytest.raises(accounts.NotRated):
        accounts.set_policy(account=globex, policy=Policy.RATE, actor="test", now=now)
    with pytest.raises(accounts.NotRated):
        accounts.set_hard_limit(account=globex, hard_limit=None, hard_limit_minor=100, actor="test", now=now)


def test_a_choice_that_a_plan_has_no_price_for_blocks(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant(plan="launch").account
    accounts.set_policy(account=acme, policy=Policy.RATE, actor="test", now=now)
    accounts.change_plan(account=acme, version=accounts.public_version(plan_code="free"), actor="test", now=now)
    assert (enforced(acme).policy, enforced(acme).admits) == (Policy.BLOCK, 5_000)


def test_a_limit_in_money_is_one_in_calls(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant(plan="launch").account
    accounts.set_hard_limit(account=acme, hard_limit=None, hard_limit_minor=10_00, actor="test", now=now)
    most = enforced(acme).hard_limit
    assert most is not None
    terms = accounts.pricing_terms(acme.plan_version)
    assert pricing.invoice(terms=terms, quantity=most).usage_minor == 10_00
    assert pricing.invoice(terms=terms, quantity=most + 1).usage_minor == 10_01
    accounts.set_hard_limit(account=acme, hard_limit=120_000, actor="test", now=now)
    assert enforced(acme).hard_limit == 120_000  # the nearer one
    assert acme.hard_limit_minor == 10_00  # and the other stays


def test_with_consent_calls_are_served_on(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant(plan="launch").account
    accounts.set_policy(account=acme, policy=Policy.BLOCK, actor="test", now=now)
    consent = consent_of(acme)
    accounts.push(account=acme, now=now)
    assert (enforced(acme).policy, enforced(acme).admits) == (Policy.RATE, None)
    consent.ended_at, consent.end = now, Consent.End.WITHDRAWN
    consent.save()
    accounts.push(account=acme, now=now)
    assert enforced(acme).admits == 100_000


def test_without_a_price_a_consent_bridges_so_many_calls(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    globex = make_tenant("Globex").account
    consent_of(globex, to="launch", bridge_calls=500)
    accounts.push(account=globex, now=now)
    assert (enforced(globex).policy, enforced(globex).admits) == (Policy.RATE, 5_500)


def test_consent_of_another_tenant_or_plan_is_none(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme, globex = make_tenant(plan="launch").account, make_tenant("Globex").account
    consent_of(acme)
    assert accounts.active_consent(globex) is None
    accounts.change_plan(account=acme, version=accounts.public_version(plan_code="free"), actor="test", now=now)
    assert accounts.active_consent(acme) is None


def test_a_restricted_account_keeps_its_terms(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant(plan="launch").account
    acme.state, acme.past_due_since, acme.subscription_id = PaymentState.RESTRICTED, now, "sub_acme"
    acme.save()
    accounts.push(account=acme, now=now)
    assert (enforced(acme).restriction, enforced(acme).included) == (Restriction.PAYMENT, 100_000)


def test_the_same_terms_in_another_currency(db: None, make_tenant: MakeTenant) -> None:
    version = accounts.public_version(plan_code="launch")
    version.currency_options = {"eur": {"fee_minor": 1800, "unit_price_minor": "0.023"}}
    euros = accounts.pricing_terms(version, "eur")
    assert (euros.currency, euros.fee_minor, euros.unit_price_minor) == ("eur", 1800, Decimal("0.023"))
    assert (euros.included, euros.steps, euros.minimum_minor) == (100_000, (), 0)
    assert accounts.pricing_terms(version).fee_minor == 1900
    with pytest.raises(accounts.NotOffered, match="CHF"):
        accounts.pricing_terms(version, "chf")


def test_agreed_terms_may_have_steps_and_a_minimum(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant(plan="enterprise")
    steps: list[dict[str, Any]] = [
        {"up_to": 1_000, "unit_price_minor": "0.02"},
        {"up_to": None, "unit_price_minor": "0.01"},
    ]
    own = accounts.agreed_version(
        tenant=acme.tenant,
        version=accounts.public_version(plan_code="enterprise"),
        agreed=accounts.Agreed(
            fee_minor=500_00, included=10_000, steps=steps, minimum_minor=600_00, hard_limit=10**6, sla="99.99 %"
        ),
    )
    assert (own.tenant, own.hard_limit, own.sla, own.max_projects) == (acme.tenant, 10**6, "99.99 %", None)
    terms = accounts.pricing_terms(own)
    assert [step.up_to for step in terms.steps] == [1_000, None]
    assert pricing.invoice(terms=terms, quantity=0).total_minor == 600_00
    accounts.change_plan(account=acme.account, version=own, actor="operator", now=now)
    assert enforced(acme.account).hard_limit == 10**6


def test_signing_up_asks_nobody(db: None, settings: Any, now: datetime) -> None:
    settings.STRIPE_API_BASE = "http://127.0.0.1:9"
    made = onboarding.onboard(
        name="Acme", email="new@acme.example", password="a long password", plan_code="free", actor="sign-up", now=now
    )
    assert (made.account.state, made.account.customer_id) == (PaymentState.NONE, None)
    assert made.password is None
    with pytest.raises(people.EmailTaken):
        onboarding.onboard(
            name="Initech", email="new@acme.example", password="another one", plan_code="free", actor="sign-up", now=now
        )
