"""The door to Stripe: what goes wrong is named, and asking again has no second effect."""

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from billing import stripe_api
from billing.errors import (
    AlreadyDelivered,
    CardRefused,
    NoSuchObject,
    SavedFailure,
    StripeNotConfigured,
    StripeRefused,
    StripeUnavailable,
)
from billing.models import StripePrices
from billing.stripe_api import Subscription
from tests.billing.conftest import REFUSING_CARD, Stripe, Subscribe
from tests.conftest import MakeTenant, wait_until

Prices = Callable[[str], StripePrices]
LOSSES = ("drop_before", "drop_after", "error_500_before", "rate_limit_429", "garbage")


def make_customer(tenant_id: uuid.UUID, key: str = "one") -> str:
    return stripe_api.create_customer(tenant_id=tenant_id, name="Acme", email="a@acme.example", key=key)


@pytest.mark.parametrize("fault", LOSSES)
def test_asking_again_with_the_same_key_has_one_effect(stripe: Stripe, fault: str) -> None:
    tenant_id = uuid.uuid4()
    stripe.faults.add(fault, method="POST", path="/v1/customers")
    with pytest.raises(StripeUnavailable):
        make_customer(tenant_id)
    made = make_customer(tenant_id)
    assert [one.id for one in stripe.client.v1.customers.list().data] == [made]
    assert stripe_api.find_customer(tenant_id=tenant_id) == made


def test_a_slow_answer_is_given_up_and_found_by_asking_again(stripe: Stripe, settings: Any) -> None:
    settings.STRIPE_TIMEOUT_SECONDS = 0.15
    stripe.faults.add("timeout", method="POST", path="/v1/customers", seconds=0.4)
    tenant_id = uuid.uuid4()
    with pytest.raises(StripeUnavailable, match=r"no answer within 0\.15 s"):
        make_customer(tenant_id)
    settings.STRIPE_TIMEOUT_SECONDS = 10
    made = wait_until(lambda: asked_again(tenant_id), what="the answer")
    assert [one.id for one in stripe.client.v1.customers.list().data] == [made]


def asked_again(tenant_id: uuid.UUID) -> str | None:
    """The customer; None while Stripe is still busy with the request that nobody waits for any more."""
    try:
        return make_customer(tenant_id)
    except StripeUnavailable:
        return None


def test_a_failure_that_stripe_keeps_is_told_from_one_that_passes(stripe: Stripe) -> None:
    tenant_id = uuid.uuid4()
    stripe.faults.add("error_500_after", method="POST", path="/v1/customers")
    with pytest.raises(StripeUnavailable) as first:
        make_customer(tenant_id)
    assert not isinstance(first.value, SavedFailure)
    with pytest.raises(SavedFailure):
        make_customer(tenant_id)
    assert stripe_api.find_customer(tenant_id=tenant_id)  # it happened all the same


def test_a_stripe_that_is_away_is_named_with_its_mend(settings: Any) -> None:
    settings.STRIPE_API_BASE, settings.STRIPE_TEST_SECRET_KEY = "http://127.0.0.1:9", "sk_test_" + "a" * 24
    settings.STRIPE_LIVE_MODE = False
    with pytest.raises(StripeUnavailable, match="STRIPE_API_BASE"):
        stripe_api.subscriptions_of("cus_1")


@pytest.mark.parametrize(
    ("is_live", "key", "said"),
    [
        (False, "", "set STRIPE_TEST_SECRET_KEY"),
        (True, "", "set STRIPE_LIVE_SECRET_KEY"),
        (False, "sk_live_" + "a" * 24, "STRIPE_TEST_SECRET_KEY is not a secret or restricted key of test mode"),
        (True, "sk_test_" + "a" * 24, "STRIPE_LIVE_SECRET_KEY is not a secret or restricted key of live mode"),
        (False, "pk_test_" + "a" * 24, "is not a secret or restricted key"),
    ],
)
def test_a_key_that_is_missing_or_of_the_wrong_mode_asks_nobody(
    settings: Any, is_live: bool, key: str, said: str
) -> None:
    settings.STRIPE_LIVE_MODE, settings.STRIPE_API_BASE = is_live, "http://127.0.0.1:9"
    settings.STRIPE_LIVE_SECRET_KEY = settings.STRIPE_TEST_SECRET_KEY = key
    with pytest.raises(StripeNotConfigured, match=said) as error:
        stripe_api.subscriptions_of("cus_1")
    assert not key or key not in str(error.value)


def test_a_key_that_stripe_does_not_know_is_named_without_itself(stripe: Stripe, settings: Any) -> None:
    settings.STRIPE_TEST_SECRET_KEY = "rk_test_" + "unknown0" * 4
    with pytest.raises(StripeNotConfigured, match="STRIPE_TEST_SECRET_KEY") as error:
        stripe_api.subscriptions_of("cus_1")
    assert "unknown0unknown0" not in str(error.value)


def test_what_does_not_exist_is_told_from_what_is_refused(stripe: Stripe) -> None:
    with pytest.raises(NoSuchObject, match="cus_nobody"):
        stripe_api.tenant_of("cus_nobody")
    with pytest.raises(StripeRefused) as error:
        stripe_api.create_product(product_id="meterhouse_x", name="", key="x")
    assert not isinstance(error.value, NoSuchObject)


def test_one_key_is_for_one_request(stripe: Stripe) -> None:
    make_customer(uuid.uuid4())
    with pytest.raises(StripeRefused) as error:
        make_customer(uuid.uuid4())
    assert error.value.code == "idempotency_error"


def test_a_refused_card_subscribes_nobody(stripe: Stripe, prices: Prices, make_tenant: MakeTenant) -> None:
    acme = make_tenant().account
    customer_id = stripe.customer_of(acme, REFUSING_CARD)
    with pytest.raises(CardRefused, match="declined") as error:
        stripe_api.subscribe(
            customer_id=customer_id, tenant_id=acme.pk, prices=prices("launch"), currency="usd", anchor=None, key="buy"
        )
    assert error.value.code == "card_declined"
    assert not [one for one in stripe_api.subscriptions_of(customer_id) if one.is_live]


def the_subscription(customer_id: str | None) -> Subscription:
    (found,) = stripe_api.subscriptions_of(customer_id or "")
    return found


def test_a_refused_card_changes_no_prices(stripe: Stripe, prices: Prices, subscribe: Subscribe) -> None:
    acme = subscribe("launch")
    before = the_subscription(acme.customer_id)
    stripe.use_card(before.customer_id, REFUSING_CARD)
    with pytest.raises(CardRefused):
        stripe_api.replace_prices(
            subscription=before, prices=prices("scale"), currency="usd", at=stripe.now, key="upgrade"
        )
    assert the_subscription(acme.customer_id).items == before.items
    assert not stripe_api.open_invoices(before.customer_id)


def test_a_preview_says_what_is_then_paid(stripe: Stripe, prices: Prices, subscribe: Subscribe) -> None:
    acme = subscribe("launch")
    stripe.advance(timedelta(days=10))
    about: dict[str, Any] = {"prices": prices("scale"), "currency": "usd", "at": stripe.now}
    before = the_subscription(acme.customer_id)
    preview = stripe_api.preview_replacement(subscription=before, **about)
    assert 0 < preview.due_minor < 3000
    assert preview.due_minor == sum(line.amount_minor for line in preview.lines)
    assert {line.is_proration for line in preview.lines if line.amount_minor} == {True}
    assert the_subscription(acme.customer_id).items == before.items
    after = stripe_api.replace_prices(subscription=before, **about, key="upgrade")
    invoice = stripe.client.v1.invoices.retrieve(after.latest_invoice_id)
    assert (invoice.status, invoice.amount_paid) == ("paid", preview.due_minor)
    assert after.price_ids == {prices("scale").fee_price_id, prices("scale").usage_price_id}
    assert min(item.created_at for item in after.items) > max(item.created_at for item in before.items)


def test_scheduled_prices_come_with_the_next_period(stripe: Stripe, prices: Prices, subscribe: Subscribe) -> None:
    acme = subscribe("scale")
    before = the_subscription(acme.customer_id)
    about: dict[str, Any] = {"prices": prices("launch"), "currency": "usd"}
    schedule_id = stripe_api.schedule_prices(subscription=before, **about, key="down")
    again = the_subscription(acme.customer_id)
    assert (again.schedule_id, again.price_ids) == (schedule_id, before.price_ids)
    assert stripe_api.schedule_prices(subscription=again, **about, key="down-again") == schedule_id
    wanted = {prices("launch").fee_price_id, prices("launch").usage_price_id}
    assert stripe_api.scheduled_prices(schedule_id, after=before.items[0].period_start) == wanted
    stripe.advance(before.items[0].period_end + timedelta(hours=1))
    assert the_subscription(acme.customer_id).price_ids == wanted
    assert not stripe_api.scheduled_prices(schedule_id, after=before.items[0].period_end)


def test_a_released_schedule_changes_nothing(stripe: Stripe, prices: Prices, subscribe: Subscribe) -> None:
    acme = subscribe("scale")
    before = the_subscription(acme.customer_id)
    schedule_id = stripe_api.schedule_prices(subscription=before, prices=prices("launch"), currency="usd", key="down")
    stripe_api.release_schedule(schedule_id=schedule_id, key="release")
    stripe_api.release_schedule(schedule_id=schedule_id, key="release-again")
    assert not stripe_api.scheduled_prices(schedule_id, after=before.items[0].period_start)
    stripe.advance(before.items[0].period_end + timedelta(hours=1))
    assert the_subscription(acme.customer_id).price_ids == before.price_ids


def test_usage_counts_once_for_each_identifier(stripe: Stripe, prices: Prices, subscribe: Subscribe) -> None:
    acme, globex = subscribe("launch"), subscribe("launch", name="Globex")
    at = stripe.now
    event: dict[str, Any] = {"identifier": "report-1", "customer_id": acme.customer_id, "value": 1234, "at": at}
    stripe_api.send_meter_event(**event)
    stripe_api.send_meter_event(**event)  # the same request: Stripe repeats its answer
    with pytest.raises(AlreadyDelivered):
        stripe_api.send_meter_event(**event, key="another-request")
    start = at.replace(second=0, microsecond=0)
    window: dict[str, Any] = {
        "meter_id": prices("launch").meter_id,
        "start": start,
        "end": start + timedelta(minutes=1),
    }
    assert stripe_api.meter_total(customer_id=acme.customer_id or "", **window) == 1234
    assert stripe_api.meter_total(customer_id=globex.customer_id or "", **window) == 0


def test_usage_of_more_than_35_days_ago_is_refused(stripe: Stripe, subscribe: Subscribe) -> None:
    acme = subscribe("launch")
    with pytest.raises(StripeRefused):
        stripe_api.send_meter_event(
            identifier="old", customer_id=acme.customer_id or "", value=1, at=stripe.now - timedelta(days=36)
        )


def test_an_event_names_its_object_and_customer(stripe: Stripe, subscribe: Subscribe, now: datetime) -> None:
    acme = subscribe("launch")
    assert list(stripe_api.undelivered_events(since=now + timedelta(days=1))) == []
    (latest,) = stripe.client.v1.events.list({"type": "customer.subscription.created", "limit": 1}).data
    event = stripe_api.event(latest.id)
    assert (event.type, event.customer_id, event.is_live) == (latest.type, acme.customer_id, False)
    assert event.object_id == acme.subscription_id


def test_the_portal_opens_where_it_is_asked_to(stripe: Stripe, subscribe: Subscribe) -> None:
    acme = subscribe("launch")
    url = stripe_api.create_portal(
        customer_id=acme.customer_id or "", return_url="http://127.0.0.1/plan", flow="payment_method_update"
    )
    assert url.startswith(stripe.url)


def test_the_next_invoice_is_the_fee(stripe: Stripe, subscribe: Subscribe) -> None:
    acme = subscribe("launch")
    assert stripe_api.preview_next_invoice(subscription_id=acme.subscription_id or "").due_minor == 1900
