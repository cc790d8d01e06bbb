"""Webhooks: signed, after the commit, at least once, in any order, and what the events list says of them."""

from collections.abc import Iterator
from typing import Any

import pytest
import stripe as stripe_package

from sandbox.stripe_simulator import DEFAULT_SECRET, THIN_SECRET, Endpoint, Settings, StripeSimulator

from .conftest import NOON
from .receiver import Receiver, receiving
from .shop import Shop, client

SOON = Settings(delivery_retry_seconds=(0.01, 0.01))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def thin_receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def told(receiver: Receiver, thin_receiver: Receiver) -> Iterator[StripeSimulator]:
    """A simulator with both kinds of endpoints."""
    endpoints = [Endpoint(receiver.url, (DEFAULT_SECRET,)), Endpoint(thin_receiver.url, (THIN_SECRET,), thin=True)]
    with StripeSimulator(endpoints, start=NOON, is_frozen=True, settings=SOON, seed=1) as made:
        yield made


def test_events_arrive_signed(told: StripeSimulator, receiver: Receiver) -> None:
    client(told).v1.customers.create({"name": "acme"})
    assert told.webhooks.settle()

    ((headers, body),) = receiver.received
    event = client(told).construct_event(body, headers["Stripe-Signature"], DEFAULT_SECRET)
    assert (event.type, event.pending_webhooks) == ("customer.created", 1)
    with pytest.raises(stripe_package.SignatureVerificationError):
        client(told).construct_event(body, headers["Stripe-Signature"], "whsec_other")


def test_thin_events_go_to_their_own_endpoint_with_their_own_secret(
    told: StripeSimulator, receiver: Receiver, thin_receiver: Receiver
) -> None:
    shop = Shop(told)
    shop.use("cus_nobody", 1)
    told.clock.advance(2)
    assert told.webhooks.settle()

    ((headers, body),) = thin_receiver.received
    notification: Any = shop.api.parse_event_notification(body, headers["Stripe-Signature"], THIN_SECRET)
    assert notification.type == "v1.billing.meter.error_report_triggered"
    assert b'"data"' not in body
    event = notification.fetch_event()
    assert event.data.reason.error_types[0].code == "meter_event_customer_not_found"
    assert notification.fetch_related_object().id == shop.meter
    assert not [one for one in receiver.types() if one.startswith("v1.")]


def test_several_secrets_sign_while_one_is_rotated(told: StripeSimulator, receiver: Receiver) -> None:
    told.rotate_secrets(receiver.url, "whsec_old", "whsec_new")
    client(told).v1.customers.create({})
    assert told.webhooks.settle()

    ((headers, body),) = receiver.received
    for secret in ("whsec_old", "whsec_new"):
        assert client(told).construct_event(body, headers["Stripe-Signature"], secret).type == "customer.created"


def test_a_receiver_may_call_back_while_it_is_told(told: StripeSimulator, receiver: Receiver) -> None:
    """Nothing is delivered while the lock of the request is held."""
    api = client(told)
    receiver.during = api.v1.customers.list
    api.v1.customers.create({})

    assert told.webhooks.settle()


def test_a_failed_delivery_is_tried_again_and_then_listed_as_failed(told: StripeSimulator, receiver: Receiver) -> None:
    receiver.status = 500
    api = client(told)
    api.v1.customers.create({"name": "acme"})
    assert told.webhooks.settle()
    assert receiver.types() == ["customer.created"] * 3
    (missed,) = api.v1.events.list({"delivery_success": False, "created": {"gte": NOON}}).data
    assert (missed.type, missed.pending_webhooks) == ("customer.created", 0)

    receiver.status = 200
    api.v1.customers.create({"name": "globex"})
    assert told.webhooks.settle()
    assert [one.id for one in api.v1.events.list({"delivery_success": False}).data] == [missed.id]


def test_held_webhooks_can_be_sent_in_any_order_twice_or_never(told: StripeSimulator, receiver: Receiver) -> None:
    told.webhooks.hold()
    shop = Shop(told)
    shop.customer()
    held = told.webhooks.held()
    assert receiver.received == []
    assert [one.type for one in held] == shop.event_types()

    assert held[-1].send() == held[-1].send() == 200
    sent = told.webhooks.release(order="newest")
    assert [status for _, status in sent] == [200] * len(held)
    assert receiver.types()[2:] == shop.event_types()[::-1]

    told.webhooks.hold()
    shop.customer("globex")
    assert told.webhooks.drop() > 0
    told.webhooks.release()
    assert len(receiver.received) == len(held) + 2


def test_faults_double_lose_and_delay_webhooks(told: StripeSimulator, receiver: Receiver) -> None:
    api = client(told)
    told.faults.add("duplicate", event="customer.")
    told.faults.add("lose", event="product.")
    told.faults.add("delay", event="coupon.", seconds=0.05)
    api.v1.customers.create({})
    product = api.v1.products.create({"name": "x"}).id
    api.v1.coupons.create({"percent_off": 5})
    assert told.webhooks.settle()

    assert sorted(receiver.types()) == ["coupon.created", "customer.created", "customer.created"]
    assert [one.data.object["id"] for one in api.v1.events.list({"delivery_success": False}).data] == [product]


def test_events_are_listed_newest_first_in_pages(told: StripeSimulator) -> None:
    api = client(told)
    made = [api.v1.customers.create({"name": str(number)}).id for number in range(5)]
    first = api.v1.events.list({"limit": 3, "types": ["customer.created", "customer.updated"]})
    assert first.has_more is True
    rest = api.v1.events.list({"limit": 3, "types": ["customer.created"], "starting_after": first.data[-1].id})

    assert [one.data.object["id"] for one in [*first.data, *rest.data]] == made[::-1]
    assert rest.has_more is False
    assert [one.id for one in api.v1.customers.list({"limit": 2}).auto_paging_iter()] == made[::-1]


def test_an_endpoint_may_want_some_events_only(told: StripeSimulator, receiver: Receiver) -> None:
    api = client(told)
    with receiving() as other:
        endpoint = api.v1.webhook_endpoints.create({"url": other.url, "enabled_events": ["product.created"]})
        assert endpoint.secret
        assert api.v1.webhook_endpoints.retrieve(endpoint.id).to_dict().get("secret") is None
        api.v1.customers.create({})
        api.v1.products.create({"name": "x"})
        api.v1.webhook_endpoints.update(endpoint.id, {"disabled": True})
        api.v1.products.create({"name": "y"})
        assert told.webhooks.settle()
        assert other.types() == ["product.created"]
        api.v1.webhook_endpoints.delete(endpoint.id)


def test_an_event_carries_the_simulated_time_and_the_request(told: StripeSimulator, receiver: Receiver) -> None:
    told.clock.advance(500)
    client(told).v1.customers.create({}, {"idempotency_key": "key-1"})
    assert told.webhooks.settle()

    (event,) = receiver.events()
    assert event["created"] == NOON + 500
    assert event["request"]["idempotency_key"] == "key-1"
