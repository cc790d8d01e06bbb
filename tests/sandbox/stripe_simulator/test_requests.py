"""Requests: keys, errors in Stripe's shape, idempotency, faults, the log."""

import base64
import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import pytest
import stripe as stripe_package

from sandbox.stripe_simulator import StripeSimulator
from sandbox.stripe_simulator.faults import NotAFault
from sandbox.stripe_simulator.idempotency import in_use

from .conftest import NOON
from .shop import Shop, client


def send(
    simulator: StripeSimulator, method: str, path: str, body: str = "", **headers: str
) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection(urlsplit(simulator.url).netloc, timeout=10)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, names)
        response = connection.getresponse()
        text = response.read()
        return response.status, dict(response.getheaders()), json.loads(text)
    finally:
        connection.close()


def test_a_secret_key_is_needed_and_several_can_be_accepted(stripe: StripeSimulator) -> None:
    assert send(stripe, "GET", "/v1/account")[0] == 401
    with pytest.raises(stripe_package.AuthenticationError, match="Invalid API Key provided: sk_test_"):
        client(stripe, key="sk_test_wrongwrongwrongwrongwrong").v1.accounts.retrieve_current()

    old, new = stripe.settings.api_keys[0], "sk_test_newnewnewnewnewnewnewnewnew"
    stripe.accept_keys(old, new)
    for key in (old, new):
        assert client(stripe, key=key).v1.accounts.retrieve_current().id.startswith("acct_")
    basic = base64.b64encode(f"{new}:".encode()).decode()
    assert send(stripe, "GET", "/v1/account", Authorization=f"Basic {basic}")[0] == 200
    stripe.accept_keys(new)
    with pytest.raises(stripe_package.AuthenticationError):
        client(stripe, key=old).v1.accounts.retrieve_current()


def test_errors_have_stripes_shape(stripe: StripeSimulator) -> None:
    key = f"Bearer {stripe.settings.api_keys[0]}"
    status, headers, body = send(stripe, "GET", "/v1/customers/cus_none", Authorization=key)
    assert (status, body["error"]["code"], body["error"]["param"]) == (404, "resource_missing", "id")
    assert headers["Request-Id"].startswith("req_")
    assert headers["Request-Id"] in body["error"]["request_log_url"]

    status, _, body = send(stripe, "POST", "/v1/products", Authorization=key)
    assert (status, body["error"]["code"], body["error"]["param"]) == (400, "parameter_missing", "name")
    status, _, body = send(
        stripe, "POST", "/v1/prices", "currency=usd&recurring[interval]=month&recurring[speed]=1", Authorization=key
    )
    assert body["error"]["message"] == "Received unknown parameter: recurring[speed]"
    status, _, body = send(stripe, "POST", "/v1/customers", "balance=lots", Authorization=key)
    assert (status, body["error"]["code"]) == (400, "parameter_invalid_integer")
    status, _, body = send(stripe, "GET", "/v1/nothing", Authorization=key)
    assert (status, body["error"]["type"]) == (404, "invalid_request_error")
    status, _, body = send(stripe, "GET", "/v1/account", Authorization=key, Stripe_Version="2020-08-27")
    assert status == 400


def test_a_repeated_key_repeats_the_answer(stripe: StripeSimulator, shop: Shop) -> None:
    first = shop.v1.customers.create({"name": "acme"}, {"idempotency_key": "k"})
    again = shop.v1.customers.create({"name": "acme"}, {"idempotency_key": "k"})
    assert first.id == again.id
    assert again.last_response.headers["Idempotent-Replayed"] == "true"  # type: ignore[union-attr]
    with pytest.raises(stripe_package.IdempotencyError) as refusal:
        shop.v1.customers.create({"name": "globex"}, {"idempotency_key": "k"})
    assert refusal.value.http_status == 400

    stripe.clock.advance(86_400)
    assert shop.v1.customers.create({"name": "globex"}, {"idempotency_key": "k"}).id != first.id


def test_a_refusal_is_repeated_too_but_not_a_malformed_request(shop: Shop) -> None:
    options: Any = {"idempotency_key": "r"}
    wrong: Any = {"product": "prod_none", "currency": "usd", "unit_amount": 1}
    with pytest.raises(stripe_package.InvalidRequestError, match="No such product"):
        shop.v1.prices.create(wrong, options)
    shop.v1.products.create({"id": "prod_none", "name": "x"})
    with pytest.raises(stripe_package.InvalidRequestError, match="No such product"):
        shop.v1.prices.create(wrong, options)

    unreadable: Any = {"bogus": "1"}
    with pytest.raises(stripe_package.InvalidRequestError, match="unknown parameter"):
        shop.v1.customers.create(unreadable, {"idempotency_key": "m"})
    assert shop.v1.customers.create({}, {"idempotency_key": "m"}).id


def test_a_key_in_flight_is_a_conflict(stripe: StripeSimulator, shop: Shop) -> None:
    with stripe.api._keys_in_flight.only_one("busy", in_use("busy")), pytest.raises(stripe_package.APIError) as refusal:
        shop.v1.customers.create({}, {"idempotency_key": "busy"})
    assert refusal.value.http_status == 409
    assert shop.v1.customers.create({}, {"idempotency_key": "busy"}).id


def test_an_error_after_the_effect_is_saved_under_its_key(stripe: StripeSimulator, shop: Shop) -> None:
    stripe.faults.add("error_500_after", method="POST", path="/v1/customers")
    for _ in range(2):
        with pytest.raises(stripe_package.APIError) as refusal:
            shop.v1.customers.create({"name": "acme"}, {"idempotency_key": "k"})
        assert refusal.value.http_status == 500
    assert [one["name"] for one in stripe.customers] == ["acme"]


def test_an_error_before_the_effect_is_not_saved(stripe: StripeSimulator, shop: Shop) -> None:
    stripe.faults.add("error_500_before", path="/v1/customers")
    with pytest.raises(stripe_package.APIError):
        shop.v1.customers.create({}, {"idempotency_key": "k"})
    assert len(stripe.customers) == 0
    shop.v1.customers.create({}, {"idempotency_key": "k"})
    assert len(stripe.customers) == 1


@pytest.mark.parametrize(("kind", "made"), [("drop_before", 0), ("drop_after", 1)])
def test_a_dropped_connection(stripe: StripeSimulator, shop: Shop, kind: str, made: int) -> None:
    stripe.faults.add(kind, method="POST", path="/v1/customers")
    with pytest.raises(stripe_package.APIConnectionError):
        shop.v1.customers.create({"name": "acme"})
    assert len(stripe.customers) == made


def test_the_real_client_survives_a_drop_with_its_own_key(stripe: StripeSimulator) -> None:
    stripe.faults.add("drop_after", method="POST", path="/v1/customers")
    stripe_package.MIN_NETWORK_RETRY_DELAY = 0  # type: ignore[attr-defined]
    client(stripe, retries=1).v1.customers.create({"name": "acme"})

    assert len(stripe.customers) == 1


def test_limits_garbage_and_slowness(stripe: StripeSimulator, shop: Shop) -> None:
    stripe.faults.add("rate_limit_429", path="/v1/customers")
    with pytest.raises(stripe_package.RateLimitError):
        shop.v1.customers.create({})
    stripe.faults.add("garbage", path="/v1/customers")
    with pytest.raises((stripe_package.APIError, UnicodeDecodeError)):
        shop.v1.customers.create({"name": "acme"})
    stripe.faults.add("timeout", path="/v1/customers", seconds=0.01)
    stripe.faults.add("slow_drip", path="/v1/customers", seconds=0.01, nth=2)
    shop.v1.customers.create({"name": "globex"})
    shop.v1.customers.create({"name": "initech"})

    assert [one["name"] for one in stripe.customers] == ["acme", "globex", "initech"]


def test_a_fault_goes_off_at_the_nth_match_or_by_chance_and_a_bounded_number_of_times(stripe: StripeSimulator) -> None:
    api = client(stripe)
    stripe.faults.add("rate_limit_429", path="/v1/account", nth=3, count=2)

    def outcomes(number: int) -> list[bool]:
        found = []
        for _ in range(number):
            try:
                api.v1.accounts.retrieve_current()
                found.append(True)
            except stripe_package.RateLimitError:
                found.append(False)
        return found

    assert outcomes(6) == [True, True, False, False, True, True]
    rolls = []
    for _ in range(2):
        stripe.faults.clear()
        stripe.faults.seed(3)
        stripe.faults.add("rate_limit_429", path="/v1/account", probability=0.5, count=1_000)
        rolls.append(outcomes(12))
    assert rolls[0] == rolls[1]
    assert len(set(rolls[0])) == 2
    with pytest.raises(NotAFault):
        stripe.faults.add("explode")


def test_the_control_endpoints(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    shop.subscribe(customer)
    status, _, clock = send(stripe, "POST", "/_simulator/clock", '{"to_next_invoice": true}')
    assert (status, clock["now"]) == (200, NOON + 30 * 86_400)
    assert send(stripe, "POST", "/_simulator/clock", '{"advance_seconds": 3600}')[2]["happened"] == 1
    assert send(stripe, "POST", "/_simulator/clock", '{"to": 5}')[0] == 400
    assert send(stripe, "POST", "/_simulator/clock", '{"advance_seconds": -5}')[0] == 400

    rules = {"seed": 4, "rules": [{"kind": "timeout", "path": "/v1/x"}]}
    assert send(stripe, "POST", "/_simulator/faults", json.dumps(rules))[2]["rules"][0]["kind"] == "timeout"
    assert send(stripe, "POST", "/_simulator/faults", '{"rules": [{"kind": "boom"}]}')[0] == 400
    assert send(stripe, "DELETE", "/_simulator/faults")[2] == {"rules": []}

    named = json.dumps({"customer": customer})
    assert send(stripe, "POST", "/_simulator/refunds", named)[2]["object"] == "refund"
    dispute = send(stripe, "POST", "/_simulator/disputes", named)[2]
    closed = json.dumps({"dispute": dispute["id"], "status": "won"})
    assert send(stripe, "POST", "/_simulator/disputes/close", closed)[2]["status"] == "won"
    cards = json.dumps({"customer": customer, "behavior": "declines"})
    assert send(stripe, "POST", "/_simulator/cards", cards)[2] == {"changed": 1}
    event = json.dumps({"type": "customer.updated", "id": customer})
    assert send(stripe, "POST", "/_simulator/events", event)[2]["type"] == "customer.updated"
    assert send(stripe, "GET", "/_simulator/oracle")[2]["now"] == stripe.clock.now
    assert send(stripe, "GET", "/_simulator/nothing")[0] == 404


def test_the_log_of_requests_keeps_no_secret(stripe: StripeSimulator, shop: Shop) -> None:
    shop.v1.customers.create({"name": "acme"}, {"idempotency_key": "k"})
    line = send(stripe, "GET", "/_simulator/requests")[2]["requests"][0]

    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/customers", 200)
    assert (line["params"], line["idempotency_key"]) == ({"name": "acme"}, "k")
    assert stripe.settings.api_keys[0] not in json.dumps([str(one) for one in stripe.requests])


def test_expansions_that_do_not_exist_are_refused(shop: Shop) -> None:
    with pytest.raises(stripe_package.InvalidRequestError, match="cannot be expanded"):
        shop.v1.customers.retrieve(shop.customer(), {"expand": ["nothing"]})
