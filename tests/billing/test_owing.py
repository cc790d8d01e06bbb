"""A subscription has ended and its last invoice is unpaid: the free plan is served, the debt is told, nothing is sold."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings as django_settings

from billing import accounts, billing_ways, changes, checkout, grace, payment_mails, stripe_api
from billing.models import PaymentState
from dashboard.strips import strips
from metering.models import Allowance
from tenants.models import Notice
from tests.billing.plan_story import Story, card, subscribed
from tests.billing.test_last_invoices import charged, rest
from tests.billing.usage_story import HOUR, beat, follow, kept, months_ago, use
from tests.conftest import MakeTenant

__all__ = ["kept"]


@pytest.fixture
def debtor(kept: None, settings: Any, db: None, make_tenant: MakeTenant) -> Iterator[Story]:
    """acme's subscription has ended, and the card did not pay for the last seven calls."""
    settings.BILLING = {**settings.BILLING, "BILL_USAGE_BY": billing_ways.BY_INVOICE_ITEMS}
    with months_ago(settings) as simulator:
        story = subscribed(simulator, make_tenant)
        use(story, 17, at=story.now - HOUR)
        beat(story)
        story.use_card("declines")
        changes.cancel(account=story.account, actor="owner", now=story.now)
        rest(story)
        follow(story)
        payment_mails.tell_unpaid(account=story.account)  # as after the event, or the sweep
        assert charged(story) == [700]
        yield story


def buy(story: Story) -> str:
    return checkout.begin(
        account=story.account, version=accounts.public_version(plan_code="launch"), currency="usd", actor="owner",
        success_url="https://portal.example/done", cancel_url="https://portal.example/plan", now=story.now,
    )  # fmt: skip


def test_the_free_plan_is_served_and_the_debt_is_told(debtor: Story) -> None:
    account = debtor.account
    assert (account.state, account.plan_version.plan.code) == (PaymentState.NONE, "free")
    assert account.past_due_since is not None
    debtor.move(timedelta(days=django_settings.BILLING["GRACE_DAYS"] + 1))
    assert grace.restrict_overdue(now=debtor.now) == 0
    follow(debtor)
    assert Allowance.objects.get(tenant=account.tenant).restriction == ""
    (strip,) = strips(account=debtor.account, now=debtor.now)
    assert (strip.kind, strip.button.page if strip.button else "") == ("owes", "pay")
    (notice,) = Notice.objects.filter(tenant=account.tenant, kind="payment.failed")
    assert "refused" not in notice.text


def test_nothing_is_sold_until_it_is_paid(debtor: Story) -> None:
    with pytest.raises(checkout.StillOwes):
        buy(debtor)
    card(debtor.customer_id)
    for invoice in stripe_api.open_invoices(debtor.customer_id):
        stripe_api.client().v1.invoices.pay(invoice.id)
    assert buy(debtor).startswith(debtor.simulator.url)  # asked again: who has just paid is not refused
    assert debtor.account.past_due_since is None
    assert strips(account=debtor.account, now=debtor.now) == ()
