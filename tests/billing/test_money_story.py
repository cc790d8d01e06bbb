"""A month of a tenant that goes over its included calls: every place that names the amount names the same, to the cent."""

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing import estimates, explain, invoice_documents, invoices, mirror, reactions
from dashboard import invoices as pages
from dashboard import overview, why
from dashboard.arithmetic import projected_invoice
from metering.periods import Period, day_of
from tests.billing.plan_story import Story, subscribed
from tests.billing.usage_story import beat, finish, follow, kept, months_ago, renew, use
from tests.conftest import MakeTenant

__all__ = ["kept"]  # a fixture of theirs
HOUR = timedelta(hours=1)


@pytest.fixture
def story(kept: None, settings: Any, db: None, make_tenant: MakeTenant) -> Iterator[Story]:
    with months_ago(settings) as simulator:
        yield subscribed(simulator, make_tenant, unit_price_minor=Decimal("0.333"))


def months_of(story: Story, units: tuple[int, ...]) -> Period:
    """So many calls on each of the next days; afterwards it is a little before the period's end."""
    for count in units:
        use(story, count)
        story.move(timedelta(days=1))
        beat(story)
    return estimates.statement(account=story.account, now=story.now).period


def test_preview_page_dashboard_and_stripes_invoice_agree_to_the_cent(story: Story) -> None:
    period = months_of(story, (4, 9, 2_013))
    story.simulator.clock.to(int((period.end - HOUR).timestamp()))
    beat(story, times=2)
    account, now = story.account, story.now
    statement = estimates.statement(account=account, now=now)
    preview = invoice_documents.preview(account=account, statement=statement)
    total = statement.invoice.total_minor
    assert total > statement.terms.fee_minor
    assert preview["so_far"]["total_minor"] == total
    page = projected_invoice(account=account, now=now)
    assert page.scenarios[0].total == overview.overview(account=account, now=now).spend.so_far  # type: ignore[union-attr]
    renew(story)
    finish(story)
    for made in story.simulator.invoices:
        mirror.copy("invoice", made["id"])
    follow(story)
    newest = invoices.of_account(account=story.account)[0]
    assert newest.invoice.total_minor == newest.ours_minor == total
    assert (newest.differences, newest.unexplained_minor, newest.is_settled) == ((), 0, True)
    assert newest.period == period
    shown = pages.one(account=story.account, invoice_id=newest.invoice.id)
    assert shown is not None
    assert shown.row.total == page.scenarios[0].total
    found = explain.explain(account=story.account, period=period, now=story.now)
    assert found.explanation.total_minor == total
    walked = why.why(account=story.account, instant=period.start, day=None, now=story.now)
    (overage,) = (line for line in walked.lines if line.anchor == "overage")
    assert sum(row.units for row in overage.days) == sum(row.units for row in overage.keys) == overage.quantity
    last = overage.days[-1].day
    assert last is not None
    looked_at = why.why(account=story.account, instant=period.start, day=day_of(last), now=story.now).of_day
    assert looked_at is not None
    assert sum(call.units for call in looked_at.first) == looked_at.units


def test_a_stripe_whose_clock_is_ahead_gets_the_calls_so_far(story: Story) -> None:
    months_of(story, (4,))
    use(story, 21)
    ours = story.now  # a test clock, or the simulated Stripe, may go on without us
    story.simulator.clock.to_next_invoice()
    follow(story)
    reactions._bill(story.account, ours)
    story.move(2 * HOUR)
    made = [one for one in story.simulator.invoices if one["billing_reason"] == "subscription_cycle"]
    mirror.copy("invoice", made[0]["id"])
    statement = estimates.statement(account=story.account, now=ours)
    newest = invoices.of_account(account=story.account)[0]
    assert newest.invoice.total_minor == newest.ours_minor == statement.invoice.total_minor > 19_00
