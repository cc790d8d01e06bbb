"""Buying the first paid plan on Stripe's page, and the pages for cards."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from billing import accounts, catalogue, checkout, stripe_api, subscriptions
from billing.errors import StripeUnavailable
from billing.models import Account, PaymentState, PlanVersion, StripePrices
from metering.models import Policy
from tenants.models import AuditEntry
from tests.billing.conftest import Stripe, Subscribe, public
from tests.conftest import MakeTenant

Prices = Callable[[str], StripePrices]
BACK = "http://127.0.0.1:8000/t/acme/plan"


def begin(account: Account, plan: str | PlanVersion = "launch", *, currency: str = "usd", now: datetime) -> str:
    return checkout.begin(
        account=account, version=public(plan) if isinstance(plan, str) else plan, currency=currency,
        success_url=f"{BACK}?paid", cancel_url=BACK, actor="owner@acme.example", now=now,
    )  # fmt: skip


@pytest.fixture
def acme(prices: Prices, make_tenant: MakeTenant) -> Account:
    """On the free plan; Stripe knows nothing of it."""
    return make_tenant().account


def test_who_pays_is_subscribed_and_limits_follow(stripe: Stripe, acme: Account) -> None:
    page = begin(acme, now=stripe.now)
    assert page.startswith(stripe.url)
    acme.refresh_from_db()
    assert (acme.state, acme.plan_version) == (PaymentState.NONE, public("free"))
    assert stripe.submit(page, card="works", action="pay") == f"{BACK}?paid"
    acme = subscriptions.sync(account_id=acme.pk, now=stripe.now)
    assert (acme.state, acme.plan_version, acme.tenant.allowance.included) == (
        PaymentState.ACTIVE,
        public("launch"),
        100_000,
    )
    assert AuditEntry.objects.filter(tenant=acme.tenant, action="checkout.begun").count() == 1


def test_who_is_declined_stays_on_the_free_plan(stripe: Stripe, acme: Account) -> None:
    page = begin(acme, now=stripe.now)
    assert stripe.submit(page, card="declines", action="pay") == ""
    acme = subscriptions.sync(account_id=acme.pk, now=stripe.now)
    assert (acme.state, acme.plan_version) == (PaymentState.NONE, public("free"))
    assert begin(acme, now=stripe.now) == page  # and may try again


def test_a_double_click_gives_one_page_and_one_customer(stripe: Stripe, acme: Account) -> None:
    assert begin(acme, now=stripe.now) == begin(Account.objects.get(pk=acme.pk), now=stripe.now)
    assert len(stripe.client.v1.customers.list().data) == 1


def test_nobody_pays_for_two_plans(stripe: Stripe, acme: Account) -> None:
    launch, scale = begin(acme, "launch", now=stripe.now), begin(acme, "scale", now=stripe.now)
    assert stripe.submit(launch, card="works", action="pay") == ""  # expired by the other
    assert stripe.submit(scale, card="works", action="pay")
    (only,) = stripe_api.subscriptions_of(acme.customer_id or "")
    assert only.price_ids == {price for price in prices_of("scale") if price}


def prices_of(plan: str) -> tuple[str, str]:
    stored = StripePrices.objects.get(version=public(plan))
    return stored.fee_price_id, stored.usage_price_id


def test_who_has_paid_is_not_asked_again_also_when_no_webhook_came(stripe: Stripe, acme: Account) -> None:
    stripe.submit(begin(acme, now=stripe.now), card="works", action="pay")
    with pytest.raises(checkout.AlreadySubscribed):
        begin(acme, "scale", now=stripe.now)
    acme.refresh_from_db()
    assert acme.state == PaymentState.ACTIVE  # it was noticed
    with pytest.raises(checkout.AlreadySubscribed):
        begin(acme, now=stripe.now)


def test_a_page_that_expired_is_followed_by_a_new_one(stripe: Stripe, acme: Account) -> None:
    page = begin(acme, now=stripe.now)
    stripe.advance(timedelta(days=2))
    assert begin(acme, now=stripe.now) != page


@pytest.mark.parametrize("fault", ["drop_after", "error_500_after", "drop_before", "garbage", "rate_limit_429"])
@pytest.mark.parametrize("path", ["/v1/customers", "/v1/checkout/sessions"])
def test_a_lost_answer_makes_nothing_twice(stripe: Stripe, acme: Account, path: str, fault: str) -> None:
    stripe.faults.add(fault, method="POST", path=path)
    with pytest.raises(StripeUnavailable):
        begin(acme, now=stripe.now)
    account = Account.objects.get(pk=acme.pk)
    begin(account, now=stripe.now)
    assert len(stripe.client.v1.customers.list().data) == 1
    assert len(stripe.client.v1.checkout.sessions.list().data) == 1


def test_a_failure_that_stripe_repeats_for_a_day_holds_nobody_up(stripe: Stripe, acme: Account) -> None:
    """Saved under the idempotency key, and it did not happen: seen from here the customer is not to be found."""
    key = f"customer-{acme.pk}"
    stripe.faults.add("error_500_after", method="POST", path="/v1/customers")
    with pytest.raises(StripeUnavailable):
        stripe_api.create_customer(tenant_id=acme.pk, name="Acme", email="a@acme.example", key=key)
    (lost,) = stripe.client.v1.customers.list().data
    stripe.client.v1.customers.delete(lost.id)
    tenant = acme.tenant
    tenant.name, tenant.email = "Acme", "a@acme.example"
    tenant.save()
    assert begin(Account.objects.get(pk=acme.pk), now=stripe.now)


def test_a_customer_that_was_deleted_at_stripe_is_made_anew(stripe: Stripe, acme: Account) -> None:
    begin(acme, now=stripe.now)
    former = acme.customer_id or ""
    stripe.client.v1.customers.delete(former)
    page = begin(Account.objects.get(pk=acme.pk), now=stripe.now)
    assert stripe.submit(page, card="works", action="pay")
    acme.refresh_from_db()
    assert acme.customer_id not in {None, former}
    assert subscriptions.sync(account_id=acme.pk, now=stripe.now).state == PaymentState.ACTIVE


def test_a_trial_is_for_the_first_subscription_alone(stripe: Stripe, acme: Account, now: datetime) -> None:
    trial = PlanVersion.objects.create(
        plan=public("launch").plan, number=2, fee_minor=1900, included=100, policy=Policy.BLOCK, trial_days=14,
        burst_per_second=50, support="none",
    )  # fmt: skip
    catalogue.make(now=now)
    assert stripe.submit(begin(acme, trial, now=stripe.now), card="works", action="pay")
    acme = subscriptions.sync(account_id=acme.pk, now=stripe.now)
    assert (acme.state, acme.trial_ends_at) == (PaymentState.TRIALING, acme.period_end)
    stripe.client.v1.subscriptions.cancel(acme.subscription_id or "")
    acme = subscriptions.sync(account_id=acme.pk, now=stripe.now)
    assert stripe.submit(begin(acme, trial, now=stripe.now), card="works", action="pay")
    assert subscriptions.sync(account_id=acme.pk, now=stripe.now).state == PaymentState.ACTIVE


def test_a_promotion_code_is_taken_on_the_page(stripe: Stripe, acme: Account) -> None:
    coupon = stripe.client.v1.coupons.create({"percent_off": 50, "duration": "once"})
    stripe.client.v1.promotion_codes.create({"promotion": {"type": "coupon", "coupon": coupon.id}, "code": "HALF"})
    page = begin(acme, now=stripe.now)
    stripe.submit(page, promotion_code="HALF", action="code")
    assert stripe.submit(page, card="works", action="pay")
    (paid,) = stripe.client.v1.invoices.list({"customer": acme.customer_id or ""}).data
    assert paid.amount_paid == 950


def test_another_currency_is_paid_in_it(stripe: Stripe, acme: Account, now: datetime) -> None:
    version = PlanVersion.objects.create(
        plan=public("launch").plan, number=2, fee_minor=1900, included=100, policy=Policy.RATE, burst_per_second=50,
        unit_price_minor="0.02", currency_options={"eur": {"fee_minor": 1800, "unit_price_minor": "0.018"}}, support="none",
    )  # fmt: skip
    catalogue.make(now=now)
    assert stripe.submit(begin(acme, version, currency="eur", now=stripe.now), card="works", action="pay")
    acme = subscriptions.sync(account_id=acme.pk, now=stripe.now)
    assert (acme.currency, acme.plan_version) == ("eur", version)
    (paid,) = stripe.client.v1.invoices.list({"customer": acme.customer_id or ""}).data
    assert (paid.amount_paid, paid.currency) == (1800, "eur")


# -- What is not sold ------------------------------------------------------------------------------------------------------
def test_what_is_free_by_agreement_or_old_is_not_sold(stripe: Stripe, acme: Account, now: datetime) -> None:
    old = public("launch")
    PlanVersion.objects.create(
        plan=old.plan, number=2, fee_minor=2900, included=1, policy=Policy.BLOCK, burst_per_second=1, support="none"
    )
    for version in (public("free"), public("enterprise"), old):
        with pytest.raises(accounts.NotOffered):
            begin(acme, version, now=now)
    with pytest.raises(accounts.NotOffered, match="CHF"):
        begin(acme, "scale", currency="chf", now=now)
    assert not stripe.client.v1.customers.list().data  # Stripe was not even asked


def test_what_was_agreed_with_acme_is_not_sold_to_initech(
    stripe: Stripe, acme: Account, make_tenant: MakeTenant, now: datetime
) -> None:
    initech = make_tenant("Initech").account
    own = accounts.agreed_version(
        tenant=acme.tenant, version=public("enterprise"), agreed=accounts.Agreed(fee_minor=900_00, included=10**8)
    )
    with pytest.raises(checkout.NotInCatalogue, match="stripe_catalogue"):
        begin(acme, own, now=now)
    catalogue.make(now=now)
    with pytest.raises(accounts.NotOffered, match="another tenant"):
        begin(initech, own, now=now)
    assert begin(acme, own, now=stripe.now)


# -- Cards ---------------------------------------------------------------------------------------------------------------
def test_the_portal_is_for_who_has_paid(stripe: Stripe, acme: Account, subscribe: Subscribe) -> None:
    with pytest.raises(checkout.NoCustomer):
        checkout.portal(account=acme, return_url=BACK)
    globex = subscribe("launch", name="Globex")
    assert checkout.portal(account=globex, return_url=BACK).startswith(stripe.url)


def test_a_card_can_be_left_before_anything_is_bought(stripe: Stripe, acme: Account, prices: Prices) -> None:
    about: dict[str, Any] = {"success_url": BACK, "cancel_url": BACK, "actor": "owner@acme.example", "now": stripe.now}
    assert not checkout.has_card(account=acme)
    page = checkout.card(account=acme, **about)
    assert stripe.submit(page, card="works", action="pay") == BACK
    assert checkout.has_card(account=acme)
    bought = stripe_api.subscribe(
        customer_id=acme.customer_id or "", tenant_id=acme.pk, prices=prices("launch"), currency="usd", anchor=None,
        key="by-consent",
    )  # fmt: skip
    assert bought.status == "active"
