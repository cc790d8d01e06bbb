"""Subscriptions that end: the last calls are on a final invoice once, or written off by name, in both ways to bill."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from billing import accounts, billing_ways, changes, stripe_api
from billing.models import BilledPeriod, Charge, PlanChange
from tests.billing.plan_story import Story, prices_of, small_launch, subscribed
from tests.billing.usage_story import HOUR, MICROSECOND, beat, first_period, follow, kept, ledger, months_ago, use
from tests.conftest import MakeTenant

__all__ = ["kept"]
State = Charge.State
BY_METER, BY_ITEMS = billing_ways.BY_METER_EVENTS, billing_ways.BY_INVOICE_ITEMS
USED, BEYOND = 17, 7  # each call beyond the ten costs 1.00
DAY = timedelta(days=1)


@pytest.fixture
def rated(kept: None, settings: Any, db: None, make_tenant: MakeTenant) -> Iterator[Story]:
    """acme has used 17 of its ten calls in the month that runs; they are rated here."""
    settings.BILLING = {**settings.BILLING, "BILL_USAGE_BY": BY_ITEMS}
    with months_ago(settings) as simulator:
        story = subscribed(simulator, make_tenant)
        use(story, USED, at=story.now - HOUR)
        beat(story)
        yield story


def charged(story: Story) -> list[int]:
    """What final invoices charge for calls: every line of ours, or of the meter's price."""
    found = []
    for invoice in story.simulator.invoices:
        if invoice["customer"] == story.customer_id and invoice["status"] in {"paid", "open"}:
            lines = invoice["lines"]["data"]
            found += [one["amount"] for one in lines if (one["metadata"] or {}).get("charge") or "_usage" in one]
    return [amount for amount in found if amount]


def waiting(story: Story) -> list[str]:
    """Items that are on no invoice yet."""
    found = story.simulator.objects("invoiceitem").all(customer=story.customer_id, invoice=None)
    return [one["description"] for one in found]


def cancel_at_once(story: Story) -> None:
    """As an operator does on Stripe's pages, or Stripe itself when nobody pays."""
    stripe_api.client().v1.subscriptions.cancel(story.account.subscription_id or "")
    story.move()
    follow(story)
    assert not story.account.subscription_id


def upgrade(story: Story) -> None:
    scale = accounts.public_version(plan_code="scale")
    changes.request(account=story.account, version=scale, actor="owner", now=story.now)
    assert story.advance().state == PlanChange.State.APPLIED


def rest(story: Story, *, days: int = 3) -> None:
    """The period's end, and some days after it, hour by hour at first."""
    end = max(period.end for period in BilledPeriod.objects.filter(account=story.account))
    if end > story.now:
        story.simulator.clock.to(int(end.timestamp()) + 3)
    for apart in [HOUR / 2] * 6 + [DAY] * days:
        follow(story)
        beat(story)
        story.move(apart)
    beat(story)
    assert {one.state for one in BilledPeriod.objects.filter(account=story.account)} == {BilledPeriod.State.FINAL}


def test_cancelled_at_the_period_s_end_the_last_calls_have_an_invoice_of_their_own(rated: Story) -> None:
    changes.cancel(account=rated.account, actor="owner", now=rated.now)
    use(rated, 3, at=(rated.account.period_end or rated.now) - MICROSECOND)
    rest(rated)
    assert (charged(rated), waiting(rated)) == ([(BEYOND + 3) * 100], [])
    assert first_period(rated).invoice_id
    assert Charge.objects.get(account=rated.account).invoice_id == first_period(rated).invoice_id


def test_cancelled_at_once_they_have_one_when_the_period_is_over(rated: Story) -> None:
    cancel_at_once(rated)
    rest(rated)
    assert (charged(rated), waiting(rated)) == ([BEYOND * 100], [])


def test_without_calls_beyond_there_is_no_last_invoice(rated: Story, make_tenant: MakeTenant) -> None:
    other = subscribed(rated.simulator, make_tenant)
    use(other, 9, at=other.now - HOUR)
    beat(other)
    changes.cancel(account=other.account, actor="owner", now=other.now)
    rest(other)
    assert (charged(other), waiting(other), first_period(other).billed_units) == ([], [], 9)
    assert [one["billing_reason"] for one in rated.simulator.invoices.all(customer=other.customer_id)] == [
        "subscription_create"
    ]


@pytest.mark.parametrize("fault", ["drop_after", "error_500_after"])
@pytest.mark.parametrize("path", ["/v1/invoices", "/v1/invoiceitems"])
def test_whatever_answer_is_lost_there_is_one_last_invoice(rated: Story, path: str, fault: str) -> None:
    changes.cancel(account=rated.account, actor="owner", now=rated.now)
    rated.simulator.faults.add(fault, method="POST", path=path, count=2)
    rest(rated)
    assert (charged(rated), waiting(rated)) == ([BEYOND * 100], [])


def test_calls_of_before_a_change_of_plan_are_on_the_last_invoice(rated: Story) -> None:
    upgrade(rated)
    changes.cancel(account=rated.account, actor="owner", now=rated.now)
    rest(rated)
    assert (charged(rated), waiting(rated)) == ([BEYOND * 100], [])


def test_or_on_one_of_their_own_when_all_ends_at_once(rated: Story) -> None:
    """Their item waited for an invoice of the subscription that will not come: it is moved, once."""
    upgrade(rated)
    beat(rated, times=2)
    assert len(waiting(rated)) == 1
    cancel_at_once(rated)
    rated.simulator.faults.add("drop_after", method="DELETE", path="/v1/invoiceitems")
    rest(rated)
    assert (charged(rated), waiting(rated)) == ([BEYOND * 100], [])
    assert {row.state for row in Charge.objects.filter(account=rated.account)} == {State.ADDED}
    assert "" not in Charge.objects.filter(account=rated.account).values_list("invoice_id", flat=True)


def test_an_item_that_an_operator_has_deleted_is_written_off_and_not_made_again(rated: Story) -> None:
    upgrade(rated)
    beat(rated, times=2)
    (item,) = rated.simulator.objects("invoiceitem").all(customer=rated.customer_id, invoice=None)
    stripe_api.client().v1.invoice_items.delete(item["id"])
    cancel_at_once(rated)
    rest(rated)
    assert (charged(rated), waiting(rated)) == ([], [])
    assert Charge.objects.get(account=rated.account).state == State.WRITTEN_OFF


def test_who_subscribes_again_pays_each_call_once(rated: Story) -> None:
    cancel_at_once(rated)
    rated.move(DAY)
    launch = small_launch(10, rated.account.plan_version.unit_price_minor, rated.now)
    launch = first_period(rated).version or launch
    stripe_api.subscribe(
        customer_id=rated.customer_id, tenant_id=rated.acme.tenant.pk, currency="usd", anchor=None, key="again",
        prices=prices_of(launch),
    )  # fmt: skip
    follow(rated)
    beat(rated, times=2)
    use(rated, 12, at=rated.now)
    old = first_period(rated)
    assert old.end < rated.now
    changes.cancel(account=rated.account, actor="owner", now=rated.now)
    rest(rated)
    assert (sorted(charged(rated)), waiting(rated)) == ([200, BEYOND * 100], [])
    assert ledger(rated) == [17, 12]


def test_late_calls_that_wait_for_an_invoice_that_will_not_come(rated: Story, settings: Any) -> None:
    """They were put on the next invoice while there was to be one."""
    settings.BILLING = {**settings.BILLING, "LATE_USAGE": "next_invoice"}
    rated.simulator.clock.to_next_invoice()
    rated.move(timedelta(seconds=3))
    follow(rated)
    for _ in range(6):
        beat(rated)
        rated.move(HOUR / 2)
    assert charged(rated) == [BEYOND * 100]
    use(rated, 3, at=first_period(rated).end - HOUR)
    beat(rated, times=2)
    assert len(waiting(rated)) == 1
    cancel_at_once(rated)
    rest(rated)
    assert (charged(rated), waiting(rated)) == ([BEYOND * 100, 300], [])


def test_whose_customer_is_deleted_at_stripe_is_written_off(rated: Story) -> None:
    stripe_api.client().v1.customers.delete(rated.customer_id)
    rated.move()
    follow(rated)
    rest(rated)
    assert charged(rated) == []
    (row,) = Charge.objects.filter(account=rated.account)
    assert (row.kind, row.units, row.state) == ("late", USED, State.WRITTEN_OFF)


def test_metered_calls_that_stripe_does_not_invoice_are_written_off(
    kept: None, settings: Any, db: None, make_tenant: MakeTenant
) -> None:
    """Cancelled at once without a last invoice, as whoever did it chose on Stripe's page."""
    with months_ago(settings) as simulator:
        story = subscribed(simulator, make_tenant)
        use(story, USED, at=story.now - HOUR)
        beat(story)
        cancel_at_once(story)
        rest(story)
        assert charged(story) == []
        (row,) = Charge.objects.filter(account=story.account)
        assert (row.kind, row.units, row.amount_minor, row.state) == ("late", USED, BEYOND * 100, State.WRITTEN_OFF)
