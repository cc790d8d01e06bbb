"""The life of a subscription against Stripe itself: bought, upgraded, downgraded, not paid, paid, ended."""

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest

from billing import accounts, catalogue, stripe_api, subscriptions
from billing.models import Account, PaymentState, StripePrices
from metering.models import Restriction
from tests.conftest import MakeTenant
from tests.stripe_sandbox.conftest import REFUSING_CARD, Sandbox, eventually

pytestmark = pytest.mark.django_db


def prices_of(plan: str) -> StripePrices:
    return StripePrices.objects.get(version=accounts.public_version(plan_code=plan))


def followed(account: Account, at: datetime) -> Account:
    return subscriptions.sync(account_id=account.pk, now=at)


def test_the_catalogue_is_made_once(sandbox: Sandbox, now: datetime) -> None:
    catalogue.make(now=now)
    again = catalogue.make(now=now)
    assert {part.standing for part in again} == {catalogue.Standing.FOUND}


def test_a_subscription_from_its_first_day_to_its_last(
    sandbox: Sandbox, make_tenant: MakeTenant, now: datetime
) -> None:
    catalogue.make(now=now)
    acme = make_tenant().account
    customer_id = sandbox.customer_of(acme)

    bought = stripe_api.subscribe(
        customer_id=customer_id, tenant_id=acme.pk, prices=prices_of("launch"), currency="usd", anchor=None, key=key()
    )
    acme = followed(acme, sandbox.now)
    assert (acme.state, acme.plan_version.plan.code) == (PaymentState.ACTIVE, "launch")
    assert acme.subscription_id == bought.id
    assert acme.tenant.allowance.included == 100_000
    assert acme.period_end is not None
    first_end = acme.period_end

    sandbox.advance(sandbox.now + timedelta(days=10))
    at = sandbox.now
    offer: dict[str, Any] = {"prices": prices_of("scale"), "currency": "usd", "at": at}
    preview = stripe_api.preview_replacement(subscription=bought, **offer)
    assert 0 < preview.due_minor < 4900
    assert any(line.is_proration and line.amount_minor < 0 for line in preview.lines)
    upgraded = stripe_api.replace_prices(subscription=bought, **offer, key=key())
    acme = followed(acme, sandbox.now)
    assert (acme.plan_version.plan.code, acme.period_end) == ("scale", first_end)
    assert {item.id for item in upgraded.items}.isdisjoint(item.id for item in bought.items)

    schedule_id = stripe_api.schedule_prices(
        subscription=upgraded, prices=prices_of("launch"), currency="usd", key=key()
    )
    acme = followed(acme, sandbox.now)
    assert acme.next_version is not None
    assert (acme.next_version.plan.code, acme.schedule_id) == ("launch", schedule_id)
    sandbox.advance(first_end + timedelta(hours=2))
    acme = followed(acme, sandbox.now)
    assert (acme.plan_version.plan.code, acme.next_version, acme.period_start) == ("launch", None, first_end)

    sandbox.use_card(customer_id, REFUSING_CARD)
    assert acme.period_end is not None
    sandbox.advance(acme.period_end + timedelta(hours=2))
    acme = followed(acme, sandbox.now)
    assert acme.state == PaymentState.PAST_DUE
    acme = followed(acme, sandbox.now + timedelta(days=8))
    assert (acme.state, acme.tenant.allowance.restriction) == (PaymentState.RESTRICTED, Restriction.PAYMENT)

    sandbox.use_card(customer_id, "pm_card_visa")
    for invoice in stripe_api.open_invoices(customer_id):
        sandbox.pay(invoice.id)
    acme = followed(acme, sandbox.now + timedelta(days=8, seconds=1))
    assert (acme.state, acme.tenant.allowance.restriction) == (PaymentState.ACTIVE, "")

    stripe_api.set_cancels_at_period_end(subscription_id=bought.id, cancels=True, key=key())
    acme = followed(acme, sandbox.now + timedelta(days=8, seconds=2))
    assert acme.cancels_at == acme.period_end
    assert acme.period_end is not None
    sandbox.advance(acme.period_end + timedelta(hours=2))
    acme = followed(acme, sandbox.now + timedelta(days=9))
    assert (acme.state, acme.plan_version.plan.code, acme.subscription_id) == (PaymentState.NONE, "free", None)


def test_a_refused_card_leaves_the_plan_as_it_was(sandbox: Sandbox, make_tenant: MakeTenant, now: datetime) -> None:
    catalogue.make(now=now)
    acme = make_tenant().account
    customer_id = sandbox.customer_of(acme)
    bought = stripe_api.subscribe(
        customer_id=customer_id, tenant_id=acme.pk, prices=prices_of("launch"), currency="usd", anchor=None, key=key()
    )
    sandbox.use_card(customer_id, REFUSING_CARD)
    with pytest.raises(stripe_api.CardRefused):
        stripe_api.replace_prices(
            subscription=bought, prices=prices_of("scale"), currency="usd", at=sandbox.now, key=key()
        )
    assert followed(acme, sandbox.now).plan_version.plan.code == "launch"


def test_usage_is_counted_once_for_each_identifier(sandbox: Sandbox, make_tenant: MakeTenant, now: datetime) -> None:
    catalogue.make(now=now)
    acme = make_tenant().account
    customer_id, identifier = sandbox.customer_of(acme), key()
    prices = prices_of("launch")
    stripe_api.subscribe(
        customer_id=customer_id, tenant_id=acme.pk, prices=prices, currency="usd", anchor=None, key=key()
    )
    at = sandbox.now
    event: dict[str, Any] = {"identifier": identifier, "customer_id": customer_id, "value": 1234, "at": at}
    stripe_api.send_meter_event(**event)
    with pytest.raises(stripe_api.AlreadyDelivered):
        stripe_api.send_meter_event(**event, key=key())
    start = at.replace(second=0, microsecond=0) - timedelta(minutes=1)
    window: dict[str, Any] = {"start": start, "end": start + timedelta(minutes=3)}
    total = eventually(
        lambda: stripe_api.meter_total(meter_id=prices.meter_id, customer_id=customer_id, **window), what="a summary"
    )
    assert total == 1234


def key() -> str:
    return str(uuid.uuid4())
