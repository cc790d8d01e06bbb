"""All workers were away across whole periods: their calls are found, and billed or written off by name, once."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from billing import billing_ways, reconcile, unseen_periods
from billing.models import BilledPeriod, Charge
from tests.billing.plan_story import Story, subscribed
from tests.billing.usage_story import (
    HOUR,
    MICROSECOND,
    beat,
    billed,
    cycle_invoices,
    finish,
    follow,
    kept,
    ledger,
    months_ago,
    named,
    periods_of,
    use,
)
from tests.conftest import MakeTenant

__all__ = ["kept"]
State = BilledPeriod.State
WAYS = (billing_ways.BY_METER_EVENTS, billing_ways.BY_INVOICE_ITEMS)


@pytest.fixture(params=WAYS)
def story(
    request: pytest.FixtureRequest, kept: None, settings: Any, db: None, make_tenant: MakeTenant
) -> Iterator[Story]:
    settings.BILLING = {**settings.BILLING, "BILL_USAGE_BY": request.param}
    with months_ago(settings) as simulator:
        yield subscribed(simulator, make_tenant)


def pass_a_period(story: Story) -> None:
    """The next renewal comes, and nobody hears of it."""
    story.simulator.clock.to_next_invoice()
    story.move(timedelta(seconds=3))


def be_away(story: Story, *, seen: bool = True) -> None:
    """14 calls in the first month; workers stop in it, and start again in the third. In between 17 calls are counted."""
    use(story, 14, at=story.now - HOUR)
    if seen:
        beat(story)
    pass_a_period(story)
    use(story, 5, at=story.now)
    pass_a_period(story)
    use(story, 12, at=story.now - timedelta(seconds=3) - MICROSECOND)  # the second month's last microsecond


def come_back(story: Story) -> None:
    """Workers run again: in any order, and each as often as the timetable says."""
    for _ in range(3):
        follow(story)
        beat(story)
        unseen_periods.find(now=story.now)
        story.move(timedelta(minutes=6))


def late(story: Story) -> list[tuple[int, int, str]]:
    rows = Charge.objects.filter(account=story.account, kind="late").order_by("period__start")
    return [(row.units, row.amount_minor, row.state) for row in rows]


def test_within_the_draft_s_hour_an_unseen_period_is_on_its_invoice(story: Story) -> None:
    be_away(story)
    come_back(story)
    finish(story)
    first, second, third = periods_of(story)
    assert (first.state, second.state, third.state) == (State.FINAL, State.FINAL, State.OPEN)
    assert second.billed_units == 17
    assert (second.start, second.end) == (first.end, third.start)
    amounts = [line["amount"] for line in cycle_invoices(story)[1]["lines"]["data"]]
    assert sorted(amounts)[-2:] == [700, 1900]


def test_after_it_its_calls_are_written_off_by_name(story: Story, caplog: pytest.LogCaptureFixture) -> None:
    be_away(story)
    story.move(9 * HOUR)
    come_back(story)
    finish(story)
    _, second, _ = periods_of(story)
    assert (second.state, second.billed_units) == (State.FINAL, 0)
    assert late(story)[-1] == (17, 700, Charge.State.WRITTEN_OFF)
    assert "was not seen while it ran: 17 units" in caplog.text
    assert sum(units for units, _, _ in late(story)) + sum(one.billed_units or 0 for one in periods_of(story)) == sum(
        ledger(story)
    )


def test_or_are_a_dated_item_of_the_next_invoice(story: Story, settings: Any) -> None:
    settings.BILLING = {**settings.BILLING, "LATE_USAGE": "next_invoice"}
    be_away(story)
    story.move(9 * HOUR)
    come_back(story)
    pass_a_period(story)
    follow(story)
    finish(story)
    assert (named(cycle_invoices(story)[2]))[-1][1] == 700
    assert sum(amount for one in cycle_invoices(story) for _, amount in named(one) if amount == 700) == 700


def test_also_when_the_first_period_was_never_seen(story: Story) -> None:
    be_away(story, seen=False)
    story.move(9 * HOUR)
    come_back(story)
    assert [one.state for one in periods_of(story)] == [State.FINAL, State.FINAL, State.OPEN]
    assert [units for units, _, _ in late(story)] == [14, 17]


def test_reconciliation_has_nothing_to_ask_afterwards(story: Story) -> None:
    be_away(story)
    story.move(9 * HOUR)
    come_back(story)
    finish(story)
    story.move(3 * HOUR)
    result = reconcile.run(now=story.now, tenant=story.acme.tenant, back=reconcile.YEAR)
    assert {one.difference.kind.value for one in result.found} <= {"late"}
    assert result.unread == []


def test_months_without_a_subscription_are_no_such_periods(story: Story, make_tenant: MakeTenant) -> None:
    """On the free plan nothing is to be billed, whatever was used."""
    unseen_periods.find(now=story.now)
    assert periods_of(story) == []  # the running one is learned by the beat
    beat(story)
    before = [one.pk for one in periods_of(story)]
    use(story, 3, at=story.account.anchor - 40 * 24 * HOUR)
    assert unseen_periods.find(now=story.now) == 0
    assert [one.pk for one in periods_of(story)] == before
    assert billed(story) in ([(0, 0)], [])
