"""Calls go on, as fast as the engine records them, while an automatic upgrade is made: none refused, none counted twice."""

import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing import catalogue, changes, consents, stripe_api, subscriptions, upgrades
from billing.models import Account, PlanChange, StripePrices
from metering import engine, usage
from metering.models import Policy, Quota
from tests.billing.plan_story import SUBSCRIBED_FOR, Story, customer, prices_of, simulated_stripe, terms_of
from tests.billing.serving import serve_as
from tests.conftest import MakeTenant, wait_until
from tests.metering.ledger import books
from tests.metering.test_limit_is_exact import caller_of

AT_ONCE = 50


@pytest.fixture
def story(settings: Any, committed: None, make_tenant: MakeTenant) -> Iterator[Story]:
    """acme on terms of its own: they are committed, and other tests must not meet a changed Launch."""
    with simulated_stripe(settings, behind=timedelta(0)) as simulator:
        begun = datetime.fromtimestamp(simulator.clock.now, UTC)
        acme = make_tenant(anchor=begun)
        launch = terms_of(acme, "launch", included=50, unit_price_minor=Decimal(100), burst_per_second=10**6)
        try:
            catalogue.make(now=begun)
            stripe_api.subscribe(
                customer_id=customer(acme), tenant_id=acme.tenant.pk, prices=prices_of(launch), currency="usd",
                anchor=None, key=uuid.uuid4().hex,
            )  # fmt: skip
            subscriptions.sync(account_id=acme.tenant.pk, now=begun)
            simulator.clock.advance(SUBSCRIBED_FOR.total_seconds())
            yield Story(simulator, acme)
        finally:
            engine.stop()
            PlanChange.objects.filter(account_id=acme.tenant.pk).exclude(state="applied").update(state="failed")
            Account.objects.filter(pk=acme.tenant.pk).update(customer_id=None)
            StripePrices.objects.all().delete()  # of a Stripe that is no more


def test_no_call_is_refused_while_an_upgrade_is_made(story: Story) -> None:
    offered = consents.offer(account=story.account, now=story.now)
    assert offered is not None
    consents.give(account=story.account, offered=offered, fallback=Policy.BLOCK, actor="owner", now=story.now)
    caller = caller_of(story.acme.api_key)
    admitted, tried, over = [0, 0], [0, 0], threading.Event()

    def call(place: int) -> None:
        while not over.is_set():
            tried[place] += AT_ONCE
            admitted[place] += serve_as(caller, AT_ONCE)

    callers = [threading.Thread(target=call, args=(place,)) for place in range(2)]
    for one in callers:
        one.start()
    try:
        wait_until(lambda: used(story) > 100, what="enough calls")
        story.simulator.clock.to(datetime.now(UTC).timestamp())
        assert upgrades.announce_due(now=story.now) == 1
        story.move(timedelta(minutes=60))
        wait_until(lambda: applied(story), seconds=30, what="the upgrade")
        before = sum(admitted)
        wait_until(lambda: sum(admitted) > before + 20, what="calls under the new terms")
    finally:
        over.set()
        for one in callers:
            one.join()
    engine.stop()
    assert sum(admitted) == sum(tried)
    kept = books(story.acme.tenant.id)
    kept.assert_balanced()
    assert (kept.used, kept.reserved, kept.rolled_up["refused"]) == (sum(tried), 0, 0)
    change = story.change
    rows = Quota.objects.filter(tenant=story.acme.tenant, used__gt=0).order_by("period_start")
    assert [row.used for row in rows] == [50, sum(tried) - 50]
    assert (rows[1].period_start, story.accepted, story.invoiced()) == (change.cut_at, 50, (change.previewed_minor, 0))


def used(story: Story) -> int:
    allowance = story.account.tenant.allowance
    return upgrades.used_in(story.account, usage.current_period(allowance=allowance, now=datetime.now(UTC)))


def applied(story: Story) -> bool:
    changes.advance_due(now=story.now)
    story.move(timedelta(seconds=2))
    return story.change.state == PlanChange.State.APPLIED
