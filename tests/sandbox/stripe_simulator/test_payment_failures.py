"""Cards that decline: retries, past due, unpaid, and the way back."""

from typing import Any

import pytest
import stripe as stripe_package

from sandbox.stripe_simulator import Settings, StripeSimulator

from .conftest import NOON
from .shop import Shop, browse

HOUR, DAY = 3_600, 86_400


def renewed_without_money(stripe: StripeSimulator, shop: Shop) -> tuple[str, str]:
    """Customer and subscription after a renewal that was declined."""
    customer = shop.customer()
    subscription = shop.subscribe(customer).id
    stripe.set_card(customer, "fails_on_renewal")
    stripe.clock.to_next_invoice()
    stripe.clock.advance(HOUR)
    return customer, subscription


def test_a_failed_renewal_is_tried_on_days_3_5_and_7_and_then_the_subscription_is_unpaid(
    stripe: StripeSimulator, shop: Shop
) -> None:
    customer, subscription = renewed_without_money(stripe, shop)
    failed_at = stripe.clock.now
    states = []
    for day in (0, 3, 5, 7):
        stripe.clock.to(failed_at + day * DAY)
        invoice = shop.latest_invoice(subscription)
        upcoming = invoice["next_payment_attempt"]
        states.append((invoice["attempt_count"], upcoming and (upcoming - failed_at) // DAY))
    assert states == [(1, 3), (2, 5), (3, 7), (4, None)]
    assert stripe.subscriptions[subscription]["status"] == "unpaid"
    assert stripe.customers[customer]["delinquent"] is True
    assert shop.event_types().count("invoice.payment_failed") == 4

    stripe.clock.to_next_invoice()
    stripe.clock.advance(2 * HOUR)
    assert shop.latest_invoice(subscription)["status"] == "draft"  # of an unpaid one they stay drafts


def test_a_retry_with_a_better_card_makes_it_active(stripe: StripeSimulator, shop: Shop) -> None:
    customer, subscription = renewed_without_money(stripe, shop)
    assert stripe.subscriptions[subscription]["status"] == "past_due"

    stripe.set_card(customer, "works")
    stripe.clock.advance(3 * DAY)
    assert stripe.subscriptions[subscription]["status"] == "active"
    assert shop.latest_invoice(subscription)["status"] == "paid"
    assert stripe.customers[customer]["delinquent"] is False


def test_the_hosted_page_pays_an_open_invoice(stripe: StripeSimulator, shop: Shop) -> None:
    _, subscription = renewed_without_money(stripe, shop)
    invoice = shop.latest_invoice(subscription)
    url = invoice["hosted_invoice_url"]
    assert "Pay invoice" in browse(url)[2]
    assert browse(url, {"card": "declines"})[0] == 402
    assert browse(url, {"card": "works"})[0] == 303

    assert shop.latest_invoice(subscription)["status"] == "paid"
    assert stripe.subscriptions[subscription]["status"] == "active"
    status, _, body = browse(invoice["invoice_pdf"])
    assert status == 200
    assert body.startswith("%PDF")
    stripe.clock.to_next_invoice()
    stripe.clock.advance(HOUR)
    assert shop.latest_invoice(subscription)["status"] == "paid"


def test_paying_over_the_api_says_402_and_remembers_the_attempt(stripe: StripeSimulator, shop: Shop) -> None:
    _, subscription = renewed_without_money(stripe, shop)
    invoice = shop.latest_invoice(subscription)["id"]
    with pytest.raises(stripe_package.CardError) as refusal:
        shop.v1.invoices.pay(invoice)

    assert (refusal.value.http_status, refusal.value.code) == (402, "card_declined")
    assert len([one for one in stripe.charges if one["status"] == "failed"]) == 2


def test_a_first_payment_that_declines_leaves_it_incomplete_until_it_expires(
    stripe: StripeSimulator, shop: Shop
) -> None:
    subscription = shop.subscribe(shop.customer(card="pm_card_chargeCustomerFail")).id
    assert stripe.subscriptions[subscription]["status"] == "incomplete"

    stripe.clock.advance(23 * HOUR)
    assert stripe.subscriptions[subscription]["status"] == "incomplete_expired"
    assert shop.latest_invoice(subscription)["status"] == "void"


def test_error_if_incomplete_leaves_nothing_behind(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer(card="pm_card_chargeCustomerFail")
    with pytest.raises(stripe_package.CardError):
        shop.subscribe(customer, payment_behavior="error_if_incomplete")

    assert len(stripe.subscriptions) == len(stripe.invoices) == 0


def test_default_incomplete_waits_for_the_payment(stripe: StripeSimulator, shop: Shop) -> None:
    made = shop.subscribe(
        shop.customer(), payment_behavior="default_incomplete", expand=["latest_invoice.confirmation_secret"]
    )
    assert made.status == "incomplete"
    assert made.latest_invoice.confirmation_secret.client_secret.startswith("pi_")  # type: ignore[union-attr]
    shop.v1.invoices.pay(stripe.subscriptions[made.id]["latest_invoice"])

    assert stripe.subscriptions[made.id]["status"] == "active"


def test_an_upgrade_that_cannot_be_paid_is_undone_when_asked(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    subscription = shop.subscribe(customer).id
    stripe.set_card(customer, "declines")
    item = shop.items(subscription)[shop.launch.base]["id"]
    change: Any = {
        "items": [{"id": item, "price": shop.scale.base}], "proration_behavior": "always_invoice",
        "payment_behavior": "error_if_incomplete",
    }  # fmt: skip
    with pytest.raises(stripe_package.CardError):
        shop.v1.subscriptions.update(subscription, change)

    assert shop.launch.base in shop.items(subscription)
    assert len(shop.invoices(subscription)) == 1


def test_a_card_that_is_refused_cannot_be_attached(shop: Shop) -> None:
    with pytest.raises(stripe_package.CardError):
        shop.customer(card="pm_card_chargeDeclined")


def test_after_the_last_retry_the_subscription_can_be_canceled_instead() -> None:
    settings = Settings(after_retries="cancel", retry_days=(1,))
    with StripeSimulator(start=NOON, is_frozen=True, settings=settings) as stripe:
        shop = Shop(stripe)
        _, subscription = renewed_without_money(stripe, shop)
        stripe.clock.advance(DAY)
        ended = stripe.subscriptions[subscription]
        assert (ended["status"], ended["cancellation_details"]["reason"]) == ("canceled", "payment_failed")


def test_refunds_and_disputes(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    shop.subscribe(customer)
    (charge,) = stripe.charges.all(customer=customer)
    stripe.refund(charge["id"], amount=900)
    assert stripe.charges[charge["id"]]["amount_refunded"] == 900
    with pytest.raises(stripe_package.InvalidRequestError, match="greater than unrefunded"):
        shop.v1.refunds.create({"charge": charge["id"], "amount": 2_001})
    shop.v1.refunds.create({"payment_intent": charge["payment_intent"]})
    stripe.dispute(charge["id"])

    assert stripe.charges[charge["id"]]["refunded"] is True
    assert [one for one in shop.event_types() if one.startswith("charge.")] == [
        "charge.succeeded", "charge.refunded", "charge.refunded", "charge.dispute.created",
    ]  # fmt: skip


def test_a_credit_note_reduces_an_open_invoice_and_can_settle_it(stripe: StripeSimulator, shop: Shop) -> None:
    _, subscription = renewed_without_money(stripe, shop)
    invoice = shop.latest_invoice(subscription)["id"]
    shop.v1.credit_notes.create({"invoice": invoice, "amount": 900, "reason": "product_unsatisfactory"})
    assert stripe.invoices[invoice]["amount_remaining"] == 2_000
    shop.v1.credit_notes.create(
        {
            "invoice": invoice,
            "lines": [{"type": "custom_line_item", "description": "x", "quantity": 1, "unit_amount": 2_000}],
        }
    )

    assert stripe.invoices[invoice]["status"] == "paid"
    assert stripe.subscriptions[subscription]["status"] == "active"


def test_a_credit_note_of_a_paid_invoice_becomes_credit_for_the_next(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    subscription = shop.subscribe(customer).id
    invoice = shop.latest_invoice(subscription)["id"]
    with pytest.raises(stripe_package.InvalidRequestError, match="must equal"):
        shop.v1.credit_notes.create({"invoice": invoice, "amount": 1_000})
    shop.v1.credit_notes.create({"invoice": invoice, "amount": 1_000, "credit_amount": 1_000})
    assert stripe.customers[customer]["balance"] == -1_000

    stripe.clock.to_next_invoice()
    stripe.clock.advance(HOUR)
    renewal = shop.latest_invoice(subscription)
    assert (renewal["total"], renewal["amount_due"], renewal["starting_balance"]) == (2_900, 1_900, -1_000)
    assert stripe.customers[customer]["balance"] == 0


def test_an_invoice_item_joins_the_next_invoice_or_a_draft(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    subscription = shop.subscribe(customer).id
    shop.v1.invoice_items.create({"customer": customer, "amount": 500, "currency": "usd", "description": "set-up"})
    stripe.clock.to_next_invoice()
    draft = shop.latest_invoice(subscription)["id"]
    half: Any = {"customer": customer, "invoice": draft, "quantity": 3, "unit_amount_decimal": "0.5", "currency": "usd"}
    item = shop.v1.invoice_items.create(half)
    assert item.amount == 2  # half a unit rounds away from zero
    stripe.clock.advance(HOUR)

    assert shop.latest_invoice(subscription)["total"] == 2_900 + 500 + 2
    with pytest.raises(stripe_package.InvalidRequestError, match="no longer editable"):
        shop.v1.invoice_items.create({"customer": customer, "invoice": draft, "amount": 1, "currency": "usd"})
