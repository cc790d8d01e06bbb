"""Two ways to bill the same calls: reported to Stripe's meter, or rated here. The invoices come to the same."""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from billing import accounts, billing_ways, catalogue, changes, pricing, stripe_api, subscriptions
from billing.models import Account, BilledPeriod, PlanChange, PlanVersion, StripePrices
from sandbox.stripe_simulator import StripeSimulator
from tests.billing.plan_story import Story, customer, prices_of
from tests.billing.usage_story import beat, billed, cycle_invoices, finish, kept, months_ago, named, renew, use
from tests.conftest import MakeTenant

__all__ = ["kept"]
WAYS = (billing_ways.BY_METER_EVENTS, billing_ways.BY_INVOICE_ITEMS)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class History:
    """Two months of a customer: calls (hours after the begin, units), late ones, an upgrade, a limit in money."""

    included: int
    steps: tuple[tuple[int | None, str], ...]
    minimum_minor: int
    calls: tuple[tuple[int, int], ...]
    late: int
    cap_minor: int | None
    upgrade_on: int | None

    @property
    def terms(self) -> dict[str, Any]:
        steps = [{"up_to": up_to, "unit_price_minor": price} for up_to, price in self.steps]
        return {"included": self.included, "steps": steps, "minimum_minor": self.minimum_minor}


PRICE = st.decimals("0", "250", places=3).map(lambda price: f"{price:f}")
HISTORIES = st.builds(
    History,
    included=st.integers(0, 40),
    steps=st.lists(st.integers(1, 30), unique=True, max_size=2).flatmap(
        lambda ends: st.tuples(*(st.tuples(st.just(end), PRICE) for end in sorted(ends)), st.tuples(st.none(), PRICE))
    ),
    minimum_minor=st.sampled_from([0, 0, 2_500]),
    calls=st.lists(st.tuples(st.integers(0, 27 * 24), st.integers(1, 60)), max_size=6).map(tuple),
    late=st.integers(0, 9),
    cap_minor=st.none() | st.integers(0, 3_000),
    upgrade_on=st.none() | st.integers(1, 26),
)


@pytest.fixture
def live(kept: None, settings: Any, db: None, make_tenant: MakeTenant) -> Any:
    """live(history, way): the totals of all invoices, and each billed period's units. Nothing of it stays."""
    billing = dict(settings.BILLING)

    def run(history: History, way: str) -> tuple[list[int], list[int]]:
        settings.BILLING = {**billing, "BILL_USAGE_BY": way, "LATE_USAGE": "next_invoice"}
        with transaction.atomic(), months_ago(settings) as simulator:
            found = lived(begun(simulator, make_tenant, history), history)
            transaction.set_rollback(True)
        return found

    return run


def begun(simulator: StripeSimulator, make_tenant: MakeTenant, history: History) -> Story:
    """The customer has just subscribed to Launch on these terms."""
    newest = accounts.public_version(plan_code="launch")
    version = PlanVersion.objects.get(pk=newest.pk)
    version.pk, version.number, version.used_at = None, newest.number + 1, None
    for name, value in {**history.terms, "burst_per_second": 10**6, "currency_options": {}}.items():
        setattr(version, name, value)
    version.save(force_insert=True)
    story = Story(simulator, None)  # type: ignore[arg-type]
    story.acme = make_tenant(anchor=story.now)
    catalogue.make(now=story.now)
    stripe_api.subscribe(
        customer_id=customer(story.acme), tenant_id=story.acme.tenant.pk, currency="usd", anchor=None,
        key=str(story.acme.tenant.pk), prices=prices_of(version),
    )  # fmt: skip
    subscriptions.sync(account_id=story.acme.tenant.pk, now=story.now)
    Account.objects.filter(pk=story.acme.tenant.pk).update(hard_limit_minor=history.cap_minor)
    beat(story)
    return story


def lived(story: Story, history: History) -> tuple[list[int], list[int]]:
    first, end = story.now, story.account.period_end
    assert end is not None
    begin = sorted(history.calls)
    if history.upgrade_on is not None:
        cut = first + history.upgrade_on * DAY
        for hours, units in begin:
            if first + timedelta(hours=hours) < cut:
                use(story, units, at=first + timedelta(hours=hours))
        story.simulator.clock.to(int(cut.timestamp()))
        beat(story)
        changes.request(
            account=story.account, version=accounts.public_version(plan_code="scale"), actor="owner", now=story.now
        )
        assert story.advance(steps=12).state == PlanChange.State.APPLIED
        begin = [(hours, units) for hours, units in begin if first + timedelta(hours=hours + 1) > story.now]
    for hours, units in begin:
        use(story, units, at=first + timedelta(hours=hours, minutes=30))
    renew(story)
    finish(story)
    if history.late:
        use(story, history.late, at=end - timedelta(minutes=1))
        beat(story, times=2)
    renew(story)
    finish(story)
    invoices = [one for one in story.simulator.invoices if one["customer"] == story.customer_id]
    periods = BilledPeriod.objects.filter(account=story.account, state=BilledPeriod.State.FINAL).order_by("start")
    return [one["total"] for one in invoices], [one.billed_units or 0 for one in periods]


@examples(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=HISTORIES)
def test_both_ways_come_to_the_same_total(live: Any, history: History) -> None:
    (metered, units), (rated, again) = (live(history, way) for way in WAYS)
    assert sum(metered) == sum(rated)
    if history.upgrade_on is None:  # else the old terms' calls are on the change's invoice, or on the next one
        assert sorted(metered) == sorted(rated)
    assert units == again


def test_the_total_is_what_pricing_says(live: Any) -> None:
    history = History(10, ((5, "33.335"), (None, "7.5")), 2_500, ((3, 12), (40, 9)), 0, None, None)
    terms = pricing.Terms("usd", 1_900, 10, Decimal(0), True, (
        pricing.Step(5, Decimal("33.335")), pricing.Step(None, Decimal("7.5")),
    ), 2_500)  # fmt: skip
    own = pricing.invoice(terms=terms, quantity=21)
    for way in WAYS:
        totals, units = live(history, way)
        # the first fee, the first month's calls up to the minimum with the second fee, the second month's minimum with the third
        assert sorted(totals) == sorted([1_900, own.total_minor, 2_500])
        assert units == [21, 0]


def test_rated_here_nothing_is_metered_and_each_line_is_named(
    kept: None, settings: Any, db: None, make_tenant: MakeTenant
) -> None:
    settings.BILLING = {**settings.BILLING, "BILL_USAGE_BY": billing_ways.BY_INVOICE_ITEMS}
    with months_ago(settings) as simulator:
        history = History(10, ((5, "33.335"), (None, "7.5")), 0, ((3, 30),), 0, 200, None)
        story = begun(simulator, make_tenant, history)
        assert set(StripePrices.objects.values_list("usage_price_id", flat=True)) == {""}
        use(story, 30, at=story.now + timedelta(hours=3))
        renew(story)
        finish(story)
        assert (story.accepted, billed(story)) == (0, [])
        period = BilledPeriod.objects.filter(account=story.account).order_by("start")[0]
        span = f"{period.start:%d %b %Y} to {period.end:%d %b %Y}"
        assert named(cycle_invoices(story)[0]) == [
            (f"5 calls beyond the included ones at 33.335 minor units, {span}", 167),
            (f"15 calls beyond the included ones at 7.5 minor units, {span}", 113),
            (f"Calls beyond your limit of 2.00 USD, not charged, {span}", -80),
        ]


def test_a_way_that_nobody_knows_is_refused(settings: Any) -> None:
    settings.BILLING = {**settings.BILLING, "BILL_USAGE_BY": "carrier_pigeon"}
    with pytest.raises(billing_ways.UnknownBillingWay):
        billing_ways.chosen()
