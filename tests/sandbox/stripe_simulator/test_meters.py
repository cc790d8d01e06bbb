"""Meter events: what Stripe enforces at once, what it reports later, and what is visible when."""

import http.client
import json
import threading
from typing import Any
from urllib.parse import urlsplit

import pytest
import stripe as stripe_package

from sandbox.stripe_simulator import Endpoint, Settings, StripeSimulator

from .conftest import NOON
from .shop import Shop, client

DAY, MINUTE = 86_400, 60


def total(shop: Shop, customer: str, start: int = NOON - DAY, end: int = NOON + DAY) -> float:
    found = shop.v1.billing.meters.event_summaries.list(
        shop.meter, {"customer": customer, "start_time": start, "end_time": end}
    )
    return sum(one.aggregated_value for one in found.data)


def test_summaries_show_an_event_only_after_a_while(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    shop.use(customer, 7)
    assert total(shop, customer) == 0
    assert stripe.accepted(customer, "calls") == 7

    stripe.clock.advance(1)
    assert total(shop, customer) == 7


def test_summaries_are_grouped_by_utc_hours_with_an_exclusive_end(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    for at in (NOON, NOON + 3_599, NOON + 3_600):
        stripe.clock.to(max(stripe.clock.now, at))
        shop.use(customer, 1, at=at)
    stripe.clock.advance(1)
    found = shop.v1.billing.meters.event_summaries.list(
        shop.meter,
        {"customer": customer, "start_time": NOON, "end_time": NOON + 7_200, "value_grouping_window": "hour"},
    )
    assert [(one.start_time, one.aggregated_value) for one in found.data] == [(NOON + 3_600, 1), (NOON, 2)]


def test_windows_must_be_aligned_with_minutes(shop: Shop) -> None:
    with pytest.raises(stripe_package.InvalidRequestError, match="minute boundaries"):
        total(shop, shop.customer(), NOON + 1)


def test_an_identifier_is_taken_once_in_24_hours(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    shop.use(customer, 5, identifier="report-1")
    with pytest.raises(
        stripe_package.InvalidRequestError, match="An event already exists with identifier report-1"
    ) as refusal:
        shop.use(customer, 5, identifier="report-1")
    assert refusal.value.http_status == 400

    stripe.clock.advance(DAY)
    shop.use(customer, 5, identifier="report-1")
    assert stripe.accepted(customer, "calls") == 10


@pytest.mark.parametrize("offset", [-35 * DAY - 1, 301])
def test_timestamps_outside_the_window_are_refused(shop: Shop, offset: int) -> None:
    with pytest.raises(stripe_package.InvalidRequestError, match="The event timestamp cannot be more than"):
        shop.use(shop.customer(), 1, at=NOON + offset)


@pytest.mark.parametrize("offset", [-35 * DAY, 300])
def test_timestamps_on_the_edge_are_taken(shop: Shop, offset: int) -> None:
    shop.use(shop.customer(), 1, at=NOON + offset)


def test_long_identifiers_and_unknown_meters_are_refused(shop: Shop) -> None:
    customer = shop.customer()
    shop.use(customer, 1, identifier="x" * 100)
    with pytest.raises(stripe_package.InvalidRequestError, match="at most 100"):
        shop.use(customer, 1, identifier="x" * 101)
    shop.v1.billing.meters.deactivate(shop.meter)
    with pytest.raises(stripe_package.InvalidRequestError, match="No active meter"):
        shop.use(customer, 1)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({"stripe_customer_id": "cus_nobody", "value": "1"}, "meter_event_customer_not_found"),
        ({"value": "1"}, "meter_event_no_customer_defined"),
        ({"value": "1.5"}, "meter_event_invalid_value"),
        ({"value": "1" * 16}, "meter_event_value_too_many_digits"),
    ],
)
def test_bad_payloads_are_accepted_and_reported_later(
    stripe: StripeSimulator, shop: Shop, payload: dict[str, str], code: str
) -> None:
    if code.startswith("meter_event_invalid") or "digits" in code:
        payload = {**payload, "stripe_customer_id": shop.customer()}
    shop.v1.billing.meter_events.create(
        {"event_name": "calls", "payload": payload, "identifier": "bad-1", "timestamp": NOON}
    )
    stripe.clock.advance(2)

    (event,) = stripe.objects("v2.core.event")
    fetched: Any = shop.api.v2.core.events.retrieve(event["id"])
    assert fetched.type == "v1.billing.meter.error_report_triggered"
    (found,) = fetched.data.reason.error_types
    assert (found.code, found.sample_errors[0]["request"]["identifier"]) == (code, "bad-1")
    assert fetched.related_object.id == shop.meter
    assert stripe.oracle()["rejected"][0]["identifier"] == "bad-1"


def test_a_fault_rejects_what_was_accepted(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    stripe.faults.add("reject", code="archived_meter")
    shop.use(customer, 3)
    shop.use(customer, 4)
    stripe.clock.advance(2)

    assert total(shop, customer) == 4
    assert stripe.accepted(customer, "calls") == 4
    assert stripe.objects("v2.core.event").all()[0]["data"]["reason"]["error_types"][0]["code"] == "archived_meter"


def test_payloads_can_be_checked_at_once() -> None:
    settings = Settings(meter_checks="synchronous")
    with StripeSimulator(start=NOON, is_frozen=True, settings=settings) as simulator:
        shop = Shop(simulator)
        with pytest.raises(stripe_package.InvalidRequestError) as refusal:
            shop.use("cus_nobody", 1)
        assert refusal.value.code == "meter_event_customer_not_found"


def test_an_event_can_be_cancelled_within_24_hours(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    shop.use(customer, 9, identifier="wrong")
    shop.use(customer, 1, identifier="right")
    adjustment: Any = {"event_name": "calls", "type": "cancel", "cancel": {"identifier": "wrong"}}
    shop.v1.billing.meter_event_adjustments.create(adjustment)
    stripe.clock.advance(1)
    assert total(shop, customer) == stripe.accepted(customer, "calls") == 1

    stripe.clock.advance(DAY)
    late: Any = {"event_name": "calls", "type": "cancel", "cancel": {"identifier": "right"}}
    with pytest.raises(stripe_package.InvalidRequestError, match="24 hours"):
        shop.v1.billing.meter_event_adjustments.create(late)


def test_negative_usage_corrects_and_a_negative_total_costs_nothing(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    subscription = shop.subscribe(customer).id
    shop.use(customer, 100)
    shop.use(customer, -150)
    stripe.clock.to_next_invoice()

    assert [one["amount"] for one in shop.latest_invoice(subscription)["lines"]["data"]] == [0, 2_900]


def test_one_call_at_a_time_per_customer_and_meter(stripe: StripeSimulator, shop: Shop) -> None:
    customer, other = shop.customer(), shop.customer("globex")
    in_flight = stripe.api._meters_in_flight
    with in_flight.only_one(f"calls {customer}", stripe_package.StripeError("unused")):  # type: ignore[arg-type]
        with pytest.raises(stripe_package.RateLimitError) as refusal:
            shop.use(customer, 1)
        shop.use(other, 1)
    body: Any = refusal.value.json_body
    assert (refusal.value.http_status, body["error"]["code"]) == (429, "lock_timeout")
    shop.use(customer, 1)


def test_the_oracle_counts_per_period_and_says_what_was_invoiced(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    subscription = shop.subscribe(customer).id
    shop.use(customer, 1_500)
    stripe.clock.to_next_invoice()
    shop.use(customer, 10)
    stripe.clock.advance(3_600)
    shop.use(customer, 44, at=NOON)  # too late for the invoice

    closed, current = stripe.oracle()["periods"]
    assert (closed["state"], closed["accepted"], closed["invoiced_quantity"], closed["invoiced_amount"]) == (
        "final", 1_544, 1_500, 125,
    )  # fmt: skip
    assert (current["state"], current["accepted"], current["subscription"]) == ("open", 10, subscription)


def test_formulas_count_and_last(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    for formula, expected in (("count", 2), ("last", 5)):
        params: Any = {"display_name": formula, "event_name": formula, "default_aggregation": {"formula": formula}}
        meter = shop.v1.billing.meters.create(params).id
        for value, at in (("5", NOON), ("9", NOON - 60)):
            shop.v1.billing.meter_events.create(
                {
                    "event_name": formula, "payload": {"stripe_customer_id": customer, "value": value},
                    "timestamp": at,
                }
            )  # fmt: skip
        stripe.clock.advance(1)
        window: Any = {"customer": customer, "start_time": NOON - DAY, "end_time": NOON + DAY}
        (found,) = shop.v1.billing.meters.event_summaries.list(meter, window).data
        assert found.aggregated_value == expected


def stream(simulator: StripeSimulator, token: str, body: dict[str, Any]) -> int:
    connection = http.client.HTTPConnection(urlsplit(simulator.url).netloc, timeout=10)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("POST", "/v2/billing/meter_event_stream", json.dumps(body), headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def test_the_stream_takes_everything_and_reports_later(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    token = shop.api.v2.billing.meter_event_session.create().authentication_token
    good: Any = {"event_name": "calls", "payload": {"stripe_customer_id": customer, "value": "3"}, "identifier": "a"}
    events = [good, good, {**good, "identifier": "b", "event_name": "nothing"}]
    assert stream(stripe, token, {"events": events}) == 200
    assert stream(stripe, "token_wrong", {"events": events}) == 401
    assert stream(stripe, token, {"events": events, "no_such_thing": 1}) == 400
    stripe.clock.advance(2)

    assert total(shop, customer) == 3
    assert [one["type"] for one in stripe.objects("v2.core.event")] == ["v1.billing.meter.no_meter_found"]
    stripe.clock.advance(901)
    assert stream(stripe, token, {"events": events}) == 401


def test_the_single_v2_event_works(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    shop.api.v2.billing.meter_events.create(
        {"event_name": "calls", "payload": {"stripe_customer_id": customer, "value": "3"}, "identifier": "v2"}
    )
    assert stripe.accepted(customer, "calls") == 3


def test_many_clients_at_once_lose_nothing(stripe: StripeSimulator, shop: Shop) -> None:
    customers = [shop.customer(f"c{number}") for number in range(4)]

    def send(customer: str) -> None:
        api = client(stripe)
        for number in range(10):
            params: Any = {
                "event_name": "calls", "payload": {"stripe_customer_id": customer, "value": "1"},
                "identifier": f"{customer}-{number}", "timestamp": NOON,
            }  # fmt: skip
            api.v1.billing.meter_events.create(params)

    threads = [threading.Thread(target=send, args=(one,)) for one in customers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [stripe.accepted(one, "calls") for one in customers] == [10] * 4


def test_endpoints_must_be_on_this_machine(shop: Shop) -> None:
    with pytest.raises(stripe_package.InvalidRequestError, match="this machine only"):
        shop.v1.webhook_endpoints.create({"url": "https://example.com/hook", "enabled_events": ["*"]})
    assert Endpoint("http://127.0.0.1:1/", ("whsec_x",)).thin is False
