"""Checkout, portal and the index: plain pages that work without JavaScript."""

from typing import Any

from sandbox.stripe_simulator import StripeSimulator

from .shop import Shop, browse

BACK = "http://127.0.0.1:9/done?session={CHECKOUT_SESSION_ID}"


def session(shop: Shop, **options: Any) -> Any:
    params: Any = {
        "mode": "subscription",
        "success_url": BACK,
        "cancel_url": "http://127.0.0.1:9/plans",
        "line_items": [{"price": shop.launch.base, "quantity": 1}, {"price": shop.launch.usage}],
        "subscription_data": {"billing_mode": {"type": "flexible"}, "metadata": {"tenant": "acme"}},
        "client_reference_id": "acme",
        **options,
    }
    return shop.v1.checkout.sessions.create(params)


def test_checkout_subscribes_and_goes_back(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer(card=None)
    made = session(shop, customer=customer)
    status, _, text = browse(made.url)
    assert (status, "no real money" in text, "<script" in text) == (200, True, False)

    status, location, _ = browse(made.url, {"action": "pay", "card": "works"})
    assert (status, location) == (303, BACK.replace("{CHECKOUT_SESSION_ID}", made.id))
    done = shop.v1.checkout.sessions.retrieve(made.id)
    assert (done.status, done.payment_status, done.customer) == ("complete", "paid", customer)
    subscription = stripe.subscriptions[str(done.subscription)]
    assert (subscription["status"], subscription["metadata"]) == ("active", {"tenant": "acme"})
    assert "checkout.session.completed" in shop.event_types()
    assert browse(made.url or f"{stripe.url}/c/pay/{made.id}")[0] == 410


def test_a_decline_changes_nothing_and_can_be_tried_again(stripe: StripeSimulator, shop: Shop) -> None:
    made = session(shop, customer=shop.customer(card=None))
    status, _, text = browse(made.url, {"action": "pay", "card": "declines"})
    assert (status, "declined" in text) == (402, True)
    assert len(stripe.subscriptions) == 0

    assert browse(made.url, {"action": "pay", "card": "fails_on_renewal"})[0] == 303
    (subscription,) = stripe.subscriptions
    stripe.clock.to_next_invoice()
    stripe.clock.advance(3_600)
    assert stripe.subscriptions[subscription["id"]]["status"] == "past_due"


def test_checkout_makes_a_customer_when_there_is_none(stripe: StripeSimulator, shop: Shop) -> None:
    made = session(shop, customer_email="new@acme.example")
    browse(made.url, {"action": "pay", "card": "works", "email": "new@acme.example", "name": "New"})

    assert [(one["email"], one["name"]) for one in stripe.customers] == [("new@acme.example", "New")]


def test_checkout_can_be_left_and_expires(stripe: StripeSimulator, shop: Shop) -> None:
    made = session(shop, customer=shop.customer(card=None))
    assert browse(made.url, {"action": "cancel"})[:2] == (303, "http://127.0.0.1:9/plans")
    stripe.clock.advance(86_400)
    assert shop.v1.checkout.sessions.retrieve(made.id).status == "expired"

    other = session(shop, customer=shop.customer(card=None))
    assert shop.v1.checkout.sessions.expire(other.id).status == "expired"
    assert shop.event_types().count("checkout.session.expired") == 2


def test_a_promotion_code_is_typed_and_counts_once(stripe: StripeSimulator, shop: Shop) -> None:
    coupon = shop.v1.coupons.create({"amount_off": 400, "currency": "usd", "duration": "once"}).id
    shop.v1.promotion_codes.create({"promotion": {"type": "coupon", "coupon": coupon}, "code": "HELLO"})
    made = session(shop, customer=shop.customer(card=None), allow_promotion_codes=True)
    assert "invalid" in browse(made.url, {"action": "code", "promotion_code": "NOPE"})[2]
    status, _, text = browse(made.url, {"action": "code", "promotion_code": "hello"})
    assert (status, "25.00 USD" in text) == (200, True)
    browse(made.url, {"action": "pay", "card": "works"})

    (subscription,) = stripe.subscriptions
    assert shop.latest_invoice(subscription["id"])["total"] == 2_500
    stripe.clock.to_next_invoice()
    assert shop.latest_invoice(subscription["id"])["total"] == 2_900


def test_a_percentage_goes_on_for_its_months(stripe: StripeSimulator, shop: Shop) -> None:
    coupon = shop.v1.coupons.create({"percent_off": 50, "duration": "repeating", "duration_in_months": 2}).id
    subscription = shop.subscribe(shop.customer(), discounts=[{"coupon": coupon}]).id
    totals = [shop.latest_invoice(subscription)["total"]]
    for _ in range(3):
        stripe.clock.to_next_invoice()
        totals.append(shop.latest_invoice(subscription)["total"])

    assert totals == [1_450, 1_450, 2_900, 2_900]


def test_the_portal_changes_card_and_details(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer(card="pm_card_chargeCustomerFail")
    made = shop.v1.billing_portal.sessions.create({"customer": customer, "return_url": "http://127.0.0.1:9/billing"})
    status, _, text = browse(made.url)
    assert (status, "no real money" in text, "http://127.0.0.1:9/billing" in text) == (200, True, True)

    assert browse(f"{made.url}/card", {"card": "works"})[0] == 303
    browse(f"{made.url}/details", {"name": "Acme AG", "email": "b@acme.example", "line1": "Way 1", "country": "DE",
                                   "tax_id_type": "eu_vat", "tax_id": "DE123456789"})  # fmt: skip
    changed = stripe.customers[customer]
    assert (changed["name"], changed["address"]["line1"]) == ("Acme AG", "Way 1")
    method = stripe.objects("payment_method")[changed["invoice_settings"]["default_payment_method"]]
    assert method["card"]["last4"] == "4242"
    assert [one["value"] for one in stripe.objects("tax_id")] == ["DE123456789"]


def test_the_portal_cancels_and_its_card_flow_goes_straight_back(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    subscription = shop.subscribe(customer).id
    made = shop.v1.billing_portal.sessions.create({"customer": customer})
    browse(f"{made.url}/cancel", {"subscription": subscription})
    assert stripe.subscriptions[subscription]["cancel_at_period_end"] is True

    flow: Any = {
        "type": "payment_method_update",
        "after_completion": {"type": "redirect", "redirect": {"return_url": "http://127.0.0.1:9/ok"}},
    }
    direct = shop.v1.billing_portal.sessions.create({"customer": customer, "flow_data": flow})
    assert "Cancel plan" not in browse(direct.url)[2]
    assert browse(f"{direct.url}/card", {"card": "works"})[:2] == (303, "http://127.0.0.1:9/ok")


def test_a_configuration_limits_the_portal(shop: Shop) -> None:
    features: Any = {"payment_method_update": {"enabled": True}}
    configuration = shop.v1.billing_portal.configurations.create({"features": features}).id
    made = shop.v1.billing_portal.sessions.create({"customer": shop.customer(), "configuration": configuration})
    text = browse(made.url)[2]

    assert "Change card" in text
    assert "Cancel plan" not in text
    assert "Save details" not in text


def test_the_index_moves_time_and_cards(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    shop.subscribe(customer)
    before = stripe.clock.now
    assert "no real money" in browse(stripe.url + "/")[2]
    assert browse(stripe.url + "/act", {"action": "day"})[0] == 303
    assert stripe.clock.now == before + 86_400
    browse(stripe.url + "/act", {"action": "card", "customer": customer, "behavior": "declines"})
    browse(stripe.url + "/act", {"action": "invoice"})
    stripe.clock.advance(3_600)
    assert {one["status"] for one in stripe.subscriptions} == {"past_due"}
    browse(stripe.url + "/act", {"action": "refund", "customer": customer})
    assert browse(stripe.url + "/act", {"action": "dispute", "customer": customer})[0] == 400  # nothing left to dispute
    assert "charge.refunded" in shop.event_types()
    for path in ("/objects/invoice", f"/object/{customer}"):
        status, _, text = browse(stripe.url + path)
        assert (status, "no real money" in text) == (200, True)
    assert browse(stripe.url + "/nothing")[0] == 404


def test_names_are_escaped(stripe: StripeSimulator, shop: Shop) -> None:
    shop.v1.customers.create({"name": "<script>alert(1)</script>"})

    assert "<script" not in browse(stripe.url + "/")[2]


def test_a_card_can_be_left_for_later(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer(card=None)
    params: Any = {"mode": "setup", "customer": customer, "success_url": BACK, "payment_method_types": ["card"]}
    made = shop.v1.checkout.sessions.create(params)
    assert "Nothing is charged now" in browse(made.url or "")[2]
    assert browse(made.url or "", {"action": "pay", "card": "works"})[0] == 303

    done = shop.v1.checkout.sessions.retrieve(made.id, {"expand": ["setup_intent"]})
    assert (done.status, done.payment_status, done.subscription) == ("complete", "no_payment_required", None)
    intent = shop.v1.setup_intents.retrieve(done.setup_intent.id)  # type: ignore[union-attr]
    (method,) = shop.v1.customers.payment_methods.list(customer).data
    assert (intent.status, intent.payment_method) == ("succeeded", method.id)
    assert stripe.customers[customer]["invoice_settings"]["default_payment_method"] is None
    assert [one for one in shop.event_types() if one.startswith(("setup", "checkout"))] == [
        "setup_intent.created", "setup_intent.succeeded", "checkout.session.completed",
    ]  # fmt: skip
    assert len(stripe.charges) == 0
