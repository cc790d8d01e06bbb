"""Subscriptions: first invoice, renewal, usage, changes of plan."""

from typing import Any

import pytest
import stripe as stripe_package

from sandbox.stripe_simulator import StripeSimulator

from .conftest import NOON
from .shop import Shop

HOUR, DAY = 3_600, 86_400
DEC_24, JAN_24 = NOON + 30 * DAY, NOON + 61 * DAY


def test_the_first_invoice_is_paid_at_once(shop: Shop) -> None:
    subscription = shop.subscribe(shop.customer())
    invoice = shop.latest_invoice(subscription.id)

    assert shop.simulator.subscriptions[subscription.id]["status"] == "active"
    assert (invoice["status"], invoice["total"], invoice["billing_reason"]) == ("paid", 2_900, "subscription_create")
    assert shop.items(subscription.id)[shop.launch.base]["current_period_end"] == DEC_24


def test_a_renewal_is_a_draft_for_an_hour_and_counts_usage_that_arrives_meanwhile(
    stripe: StripeSimulator, shop: Shop
) -> None:
    customer = shop.customer()
    subscription = shop.subscribe(customer).id
    shop.use(customer, 1_200)
    stripe.clock.to_next_invoice()
    shop.use(customer, 300, at=DEC_24 - 1)
    shop.use(customer, 50, at=DEC_24)
    stripe.clock.advance(HOUR - 1)
    assert shop.latest_invoice(subscription)["status"] == "draft"

    stripe.clock.advance(1)
    invoice = shop.latest_invoice(subscription)
    lines = {(one["quantity"], one["amount"]) for one in invoice["lines"]["data"]}

    assert invoice["status"] == "paid"
    assert lines == {(1_000, 0), (500, 125), (1, 2_900)}
    assert invoice["total"] == 3_025
    usage = next(one for one in invoice["lines"]["data"] if one["quantity"] == 500)
    assert usage["period"] == {"start": NOON, "end": DEC_24}


def test_periods_follow_the_calendar(stripe: StripeSimulator, shop: Shop) -> None:
    stripe.clock.to(1_801_396_800)  # 2027-01-31 12:00 UTC
    subscription = shop.subscribe(shop.customer()).id
    ends = []
    for _ in range(3):
        ends.append(shop.items(subscription)[shop.launch.base]["current_period_end"])
        stripe.clock.to_next_invoice()

    assert [f"{one - 1_801_396_800:,}" for one in ends] == [f"{days * DAY:,}" for days in (28, 59, 89)]


def test_an_upgrade_credits_the_unused_time_and_charges_the_rest_by_the_second(
    stripe: StripeSimulator, shop: Shop
) -> None:
    subscription = shop.subscribe(shop.customer()).id
    stripe.clock.advance(10 * DAY + 1)
    item = shop.items(subscription)[shop.launch.base]["id"]
    change: Any = {"items": [{"id": item, "price": shop.scale.base}], "proration_behavior": "always_invoice"}
    shop.v1.subscriptions.update(subscription, change)
    invoice = shop.latest_invoice(subscription)

    left, whole = 20 * DAY - 1, 30 * DAY
    credit, charge = round(2_900 * left / whole), round(9_900 * left / whole)
    assert sorted(one["amount"] for one in invoice["lines"]["data"]) == [-credit, charge]
    assert (invoice["status"], invoice["billing_reason"]) == ("paid", "subscription_update")
    assert shop.items(subscription)[shop.scale.base]["current_period_end"] == DEC_24


def test_without_always_invoice_prorations_wait_for_the_renewal(stripe: StripeSimulator, shop: Shop) -> None:
    subscription = shop.subscribe(shop.customer()).id
    stripe.clock.advance(15 * DAY)
    item = shop.items(subscription)[shop.launch.base]["id"]
    shop.v1.subscriptions.update(subscription, {"items": [{"id": item, "price": shop.scale.base}]})

    assert len(shop.invoices(subscription)) == 1
    assert {one["amount"] for one in stripe.objects("invoiceitem")} == {-1_450, 4_950}

    stripe.clock.to_next_invoice()
    amounts = [one["amount"] for one in shop.latest_invoice(subscription)["lines"]["data"]]
    assert sorted(amounts) == [-1_450, 0, 4_950, 9_900]


def test_replacing_a_metered_price_invoices_the_usage_so_far_and_starts_at_the_first_step(
    stripe: StripeSimulator, shop: Shop
) -> None:
    customer = shop.customer()
    subscription = shop.subscribe(customer).id
    shop.use(customer, 1_400)
    stripe.clock.advance(10 * DAY)
    switch = stripe.clock.now
    old = shop.items(subscription)
    change: Any = {
        "items": [
            {"id": old[shop.launch.base]["id"], "price": shop.scale.base},
            {"id": old[shop.launch.usage]["id"], "deleted": True},
            {"price": shop.scale.usage},
        ],
        "proration_behavior": "always_invoice",
    }
    shop.v1.subscriptions.update(subscription, change)
    usage = [one for one in shop.latest_invoice(subscription)["lines"]["data"] if one["quantity"] in {1_000, 400}]
    assert [(one["quantity"], one["amount"], one["period"]["end"]) for one in usage] == [
        (1_000, 0, switch), (400, 100, switch),
    ]  # fmt: skip

    shop.use(customer, 77, at=switch - 60)  # late: it belongs to the old price, which is invoiced
    shop.use(customer, 12_000, at=switch)
    item = shop.items(subscription)[shop.scale.usage]
    assert item["created"] == switch
    stripe.clock.to_next_invoice()
    stripe.clock.advance(HOUR)
    lines = [(one["quantity"], one["amount"]) for one in shop.latest_invoice(subscription)["lines"]["data"]]
    assert lines == [(10_000, 0), (2_000, 200), (1, 9_900)]


def test_removing_a_metered_price_without_prorations_bills_nothing_for_it(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    subscription = shop.subscribe(customer).id
    shop.use(customer, 5_000)
    stripe.clock.advance(DAY)
    shop.v1.subscription_items.delete(shop.items(subscription)[shop.launch.usage]["id"], {"proration_behavior": "none"})
    stripe.clock.to_next_invoice()

    assert [one["amount"] for one in shop.latest_invoice(subscription)["lines"]["data"]] == [2_900]


def test_billing_mode_must_be_flexible(shop: Shop) -> None:
    with pytest.raises(stripe_package.InvalidRequestError, match="flexible"):
        shop.v1.subscriptions.create({"customer": shop.customer(), "items": [{"price": shop.launch.base}]})


def test_a_trial_costs_nothing_and_is_announced(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    subscription = shop.subscribe(customer, trial_period_days=14).id
    shop.use(customer, 9_000)
    assert stripe.subscriptions[subscription]["status"] == "trialing"
    assert shop.latest_invoice(subscription)["total"] == 0

    stripe.clock.advance(11 * DAY)
    assert "customer.subscription.trial_will_end" in shop.event_types()
    stripe.clock.advance(3 * DAY)
    stripe.clock.advance(HOUR)
    assert stripe.subscriptions[subscription]["status"] == "active"
    assert shop.latest_invoice(subscription)["total"] == 2_900


def test_ending_a_trial_now_charges_now(stripe: StripeSimulator, shop: Shop) -> None:
    subscription = shop.subscribe(shop.customer(), trial_period_days=14).id
    shop.v1.subscriptions.update(subscription, {"trial_end": "now"})

    assert stripe.subscriptions[subscription]["status"] == "active"
    assert (shop.latest_invoice(subscription)["status"], shop.latest_invoice(subscription)["total"]) == ("paid", 2_900)


def test_cancelling_at_the_period_end_invoices_the_last_usage(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    subscription = shop.subscribe(customer).id
    shop.v1.subscriptions.update(subscription, {"cancel_at_period_end": True})
    shop.use(customer, 3_000)
    stripe.clock.to(DEC_24)
    assert stripe.subscriptions[subscription]["status"] == "canceled"

    shop.use(customer, 1_000, at=DEC_24 - 5)
    stripe.clock.advance(HOUR)
    invoice = shop.latest_invoice(subscription)
    assert (invoice["status"], invoice["total"]) == ("paid", 750)
    stripe.clock.advance(60 * DAY)
    assert len(shop.invoices(subscription)) == 2


def test_cancelling_now_can_credit_and_invoice(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    subscription = shop.subscribe(customer).id
    shop.use(customer, 1_400)
    stripe.clock.advance(15 * DAY)
    shop.v1.subscriptions.cancel(subscription, {"invoice_now": True, "prorate": True})

    assert shop.latest_invoice(subscription)["total"] == 100 - 1_450
    assert stripe.customers[customer]["balance"] == 100 - 1_450
    assert "customer.subscription.deleted" in shop.event_types()


def test_another_interval_begins_a_new_period(stripe: StripeSimulator, shop: Shop) -> None:
    product = shop.v1.products.create({"name": "Yearly"}).id
    yearly = shop.v1.prices.create(
        {"product": product, "currency": "usd", "unit_amount": 30_000, "recurring": {"interval": "year"}}
    ).id
    customer = shop.customer()
    made = shop.v1.subscriptions.create(
        {"customer": customer, "items": [{"price": shop.launch.base}], "billing_mode": {"type": "flexible"}}
    ).id
    stripe.clock.advance(15 * DAY)
    item = shop.items(made)[shop.launch.base]["id"]
    shop.v1.subscriptions.update(made, {"items": [{"id": item, "price": yearly}]})

    assert shop.items(made)[yearly]["current_period_start"] == stripe.clock.now
    assert shop.latest_invoice(made)["total"] == 30_000 - 1_450


def test_a_chosen_billing_day_makes_the_first_period_short(stripe: StripeSimulator, shop: Shop) -> None:
    subscription = shop.subscribe(shop.customer(), billing_cycle_anchor=NOON + 15 * DAY).id

    start = NOON + 15 * DAY
    whole = start - (NOON + 15 * DAY - 30 * DAY)
    assert shop.latest_invoice(subscription)["total"] == round(2_900 * 15 * DAY / whole)
    stripe.clock.to_next_invoice()
    assert stripe.clock.now == start


def test_currency_options_price_the_subscription(stripe: StripeSimulator, shop: Shop) -> None:
    product = shop.v1.products.create({"name": "Euro"}).id
    price = shop.v1.prices.create(
        {
            "product": product, "currency": "usd", "unit_amount": 1_000, "recurring": {"interval": "month"},
            "currency_options": {"eur": {"unit_amount": 900}},
        }
    ).id  # fmt: skip
    made = shop.v1.subscriptions.create(
        {
            "customer": shop.customer(),
            "items": [{"price": price}],
            "currency": "eur",
            "billing_mode": {"type": "flexible"},
        }
    ).id

    invoice = shop.latest_invoice(made)
    assert (invoice["currency"], invoice["total"]) == ("eur", 900)


def test_a_schedule_changes_the_plan_exactly_at_the_period_boundary(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    subscription = shop.subscribe(customer, shop.scale).id
    schedule = shop.v1.subscription_schedules.create({"from_subscription": subscription})
    phase = schedule.phases[0]
    shop.v1.subscription_schedules.update(
        schedule.id,
        {
            "end_behavior": "release",
            "phases": [
                {"items": shop.scale.items, "start_date": phase.start_date, "end_date": phase.end_date},
                {"items": shop.launch.items, "duration": {"interval": "month"}},
            ],
        },
    )
    shop.use(customer, 12_000)
    stripe.clock.to_next_invoice()
    shop.use(customer, 1_200, at=DEC_24)
    stripe.clock.advance(HOUR)

    lines = [(one["quantity"], one["amount"]) for one in shop.latest_invoice(subscription)["lines"]["data"]]
    assert lines == [(10_000, 0), (2_000, 200), (1, 2_900)]
    items = shop.items(subscription)
    assert set(items) == {shop.launch.base, shop.launch.usage}
    assert items[shop.launch.usage]["created"] == DEC_24

    stripe.clock.to(JAN_24 + HOUR)
    assert stripe.objects("subscription_schedule")[schedule.id]["status"] == "released"
    assert stripe.subscriptions[subscription]["schedule"] is None
    lines = [(one["quantity"], one["amount"]) for one in shop.latest_invoice(subscription)["lines"]["data"]]
    assert lines == [(1_000, 0), (200, 50), (1, 2_900)]


def test_a_schedule_forbids_direct_cancellation_and_can_be_released(stripe: StripeSimulator, shop: Shop) -> None:
    subscription = shop.subscribe(shop.customer()).id
    schedule = shop.v1.subscription_schedules.create({"from_subscription": subscription}).id
    with pytest.raises(stripe_package.InvalidRequestError, match="managed by the subscription schedule"):
        shop.v1.subscriptions.update(subscription, {"cancel_at_period_end": True})

    shop.v1.subscription_schedules.release(schedule)
    shop.v1.subscriptions.update(subscription, {"cancel_at_period_end": True})
    assert stripe.subscriptions[subscription]["cancel_at"] == DEC_24


def test_previews_equal_what_follows_and_leave_no_trace(stripe: StripeSimulator, shop: Shop) -> None:
    customer = shop.customer()
    subscription = shop.subscribe(customer).id
    shop.use(customer, 1_400)
    stripe.clock.advance(10 * DAY)
    old = shop.items(subscription)
    items = [
        {"id": old[shop.launch.base]["id"], "price": shop.scale.base},
        {"id": old[shop.launch.usage]["id"], "deleted": True},
        {"price": shop.scale.usage},
    ]
    before = len(stripe.events)
    details: Any = {"items": items, "proration_behavior": "always_invoice", "proration_date": stripe.clock.now}
    preview = shop.v1.invoices.create_preview({"subscription": subscription, "subscription_details": details})
    assert len(stripe.events) == before
    assert set(shop.items(subscription)) == set(old)

    change: Any = {"items": items, "proration_behavior": "always_invoice", "proration_date": stripe.clock.now}
    shop.v1.subscriptions.update(subscription, change)
    invoice = shop.latest_invoice(subscription)
    assert preview.total == invoice["total"]
    assert [one.amount for one in preview.lines.data] == [one["amount"] for one in invoice["lines"]["data"]]

    upcoming = shop.v1.invoices.create_preview({"subscription": subscription})
    stripe.clock.to_next_invoice()
    assert upcoming.total == shop.latest_invoice(subscription)["total"]


def test_a_preview_of_a_new_subscription(shop: Shop) -> None:
    details: Any = {"items": shop.launch.items}
    preview = shop.v1.invoices.create_preview({"customer": shop.customer(), "subscription_details": details})

    assert preview.total == 2_900


def test_tiers_and_other_currencies_are_shown_only_when_expanded(shop: Shop) -> None:
    params: Any = {"billing_scheme": "tiered", "tiers_mode": "graduated", "currency": "usd", "product": shop.product()}
    tiers = [{"up_to": 10, "unit_amount": 0}, {"up_to": "inf", "unit_amount": 5}]
    recurring = {"interval": "month", "usage_type": "metered", "meter": shop.meter}
    options = {"eur": {"tiers": [{"up_to": "inf", "unit_amount": 4}]}}
    params |= {"tiers": tiers, "recurring": recurring, "currency_options": options}
    price = shop.v1.prices.create(params).id
    plain = shop.v1.prices.retrieve(price).to_dict()
    assert not {"tiers", "currency_options"} & set(plain)

    wanted = ["tiers", "currency_options.eur.tiers"]
    shown = shop.v1.prices.retrieve(price, {"expand": wanted}).to_dict()
    assert [one["up_to"] for one in shown["tiers"]] == [10, None]
    assert shown["currency_options"]["eur"]["tiers"][0]["unit_amount"] == 4
    assert "tiers" not in shown["currency_options"]["usd"]
