"""The simulator accepts what the stripe package can send, refuses the rest, and answers what the package can read."""

from typing import Any

import pytest
import stripe as stripe_package

from sandbox.stripe_simulator import API_VERSION, StripeSimulator
from sandbox.stripe_simulator.resources import EVERY
from sandbox.stripe_simulator.routes import Route, every

from . import contract
from .conftest import NOON, Watch
from .shop import Shop, browse

assert EVERY  # the routes are registered


def name(route: Route) -> str:
    return f"{route.method} {route.template}"


@pytest.mark.parametrize("route", every(), ids=name)
def test_every_route_and_parameter_exists_in_the_package(route: Route) -> None:
    assert contract.description_problems(route.method, route.template, route.fields) == []


@pytest.mark.parametrize("route", every(), ids=name)
def test_unknown_parameters_are_refused(route: Route, unwatched: StripeSimulator) -> None:
    path = route.template.replace("{", "").replace("}", "")
    if path.startswith("/v2/billing/meter_event_stream"):
        pytest.skip("needs a session's token, see test_meter_stream")
    shop = Shop.__new__(Shop)
    shop.simulator = unwatched
    with pytest.raises(stripe_package.InvalidRequestError) as refusal:
        raw(unwatched, route.method, path, {"no_such_thing": "1"})
    assert refusal.value.code == "parameter_unknown"
    assert "no_such_thing" in str(refusal.value)


def raw(simulator: StripeSimulator, method: str, path: str, params: dict[str, Any]) -> Any:
    from .shop import client

    api = client(simulator)
    return api.deserialize(api.raw_request(method.lower(), path, **params), api_mode="V1")


@pytest.fixture(scope="module")
def unwatched() -> Any:
    with StripeSimulator(start=NOON, is_frozen=True) as simulator:
        yield simulator


def test_the_api_version_is_the_packages() -> None:
    assert stripe_package.api_version == API_VERSION


def test_the_checker_notices_what_is_wrong() -> None:
    good = {"id": "mtr_1", "object": "billing.meter", "created": 1, "customer_mapping": {"event_payload_key": "c", "type": "by_id"},
            "default_aggregation": {"formula": "sum"}, "display_name": "x", "event_name": "x", "livemode": False,
            "status": "active", "status_transitions": {}, "updated": 1, "value_settings": {"event_payload_key": "v"}}  # fmt: skip
    path = "/v1/billing/meters/mtr_1"

    assert contract.response_problems("GET", path, good) == []
    assert contract.response_problems("GET", path, {**good, "extra": 1}) == ["$.extra: unknown"]
    assert contract.response_problems("GET", path, {**good, "created": "1"}) != []
    assert contract.response_problems("GET", path, {**good, "status": "gone"}) != []
    assert contract.response_problems("GET", path, {k: v for k, v in good.items() if k != "updated"}) == [
        "$.updated: missing"
    ]
    assert contract.request_problems("POST", path, {"display_name": "x", "speed": "1"}) == [".speed: unknown"]
    assert contract.request_problems("POST", "/v1/usage_records", {}) == ["Stripe has no POST /v1/usage_records"]


def test_a_whole_life_keeps_the_contract(stripe: StripeSimulator, shop: Shop, watch: Watch) -> None:
    """Every kind of object is made, shown and sent; the fixture compares them all."""
    v1, customer = shop.v1, shop.customer(card="pm_card_visa")
    v1.accounts.retrieve_current()
    v1.customers.tax_ids.create(customer, {"type": "eu_vat", "value": "DE123456789"})
    v1.customers.retrieve(customer, {"expand": ["tax_ids", "subscriptions", "invoice_settings.default_payment_method"]})
    v1.customers.search({"query": "email:'owner@acme.example'"})
    coupon = v1.coupons.create({"percent_off": 10, "duration": "forever"}).id
    code = v1.promotion_codes.create({"promotion": {"type": "coupon", "coupon": coupon}, "code": "TEN"}).id
    subscription = shop.subscribe(customer, discounts=[{"promotion_code": code}], expand=["latest_invoice.payments"]).id
    shop.use(customer, 1_500)
    v1.prices.list({"expand": ["data.tiers", "data.currency_options"]})
    v1.billing.meters.list()
    v1.billing.meters.event_summaries.list(
        shop.meter,
        {"customer": customer, "start_time": NOON, "end_time": NOON + 3_600, "value_grouping_window": "hour"},
    )
    schedule = v1.subscription_schedules.create({"from_subscription": subscription}).id
    v1.subscription_schedules.release(schedule)
    v1.invoices.create_preview({"subscription": subscription})
    stripe.clock.to_next_invoice()
    stripe.clock.advance(4_000)
    invoice = shop.latest_invoice(subscription)
    v1.invoices.retrieve(invoice["id"], {"expand": ["payments", "confirmation_secret", "customer"]})
    v1.invoices.line_items.list(invoice["id"])
    v1.credit_notes.create({"invoice": invoice["id"], "amount": 100, "refund_amount": 100})
    v1.credit_notes.list({"invoice": invoice["id"]})
    charge = stripe.charges.all(customer=customer)[0]["id"]
    v1.refunds.create({"charge": charge, "amount": 50})
    v1.charges.retrieve(charge, {"expand": ["refunds"]})
    dispute = stripe.dispute(charge)["id"]
    v1.disputes.retrieve(dispute)
    v1.payment_intents.list()
    v1.invoice_payments.list({"invoice": invoice["id"]})
    v1.invoice_items.create({"customer": customer, "amount": 700, "currency": "usd"})
    v1.invoice_items.list({"customer": customer})
    portal = v1.billing_portal.sessions.create(
        {"customer": customer, "return_url": "http://127.0.0.1/", "flow_data": {"type": "payment_method_update"}}
    )
    v1.billing_portal.configurations.list()
    browse(portal.url)
    session = v1.checkout.sessions.create(
        {
            "mode": "subscription", "customer": shop.customer("globex", card=None), "success_url": "http://127.0.0.1/",
            "line_items": [{"price": shop.launch.base, "quantity": 1}, {"price": shop.launch.usage}],
            "subscription_data": {"billing_mode": {"type": "flexible"}}, "expand": ["line_items"],
        }
    )  # fmt: skip
    browse(session.url or "", {"action": "pay", "card": "works"})
    v1.checkout.sessions.retrieve(session.id, {"expand": ["subscription", "line_items"]})
    v1.webhook_endpoints.create({"url": "http://127.0.0.1:1/", "enabled_events": ["*"]})
    v1.subscriptions.cancel(subscription, {"invoice_now": True, "prorate": True})
    v1.customers.delete(customer)
    v1.events.list({"limit": 100})

    expected = {
        "account", "billing.meter", "billing.meter_event", "billing_portal.session", "charge", "checkout.session",
        "coupon", "credit_note", "customer", "dispute", "invoice", "invoiceitem", "list", "payment_method", "price",
        "product", "promotion_code", "refund", "search_result", "subscription", "subscription_schedule", "tax_id",
        "webhook_endpoint",
    }  # fmt: skip
    assert expected <= watch.seen
