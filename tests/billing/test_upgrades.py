"""Automatic upgrades: only with consent, never dearer than the overage, no call refused, and each way it may end."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from billing import accounts, changes, consents, pricing, reporting, subscriptions, upgrades
from billing.models import Account, Consent, PaymentState, PlanChange, UsageReport
from metering.models import Policy, Quota
from metering.periods import containing
from tenants.models import Notice
from tests.billing.plan_story import BEHIND, Story, customer, simulated_stripe, subscribed
from tests.conftest import MakeTenant
from tests.metering.ledger import books

State = PlanChange.State
WINDOW = timedelta(minutes=60)


@pytest.fixture
def story(settings: Any, db: None, make_tenant: MakeTenant) -> Iterator[Story]:
    with simulated_stripe(settings) as simulator:
        yield subscribed(simulator, make_tenant)


def consent(story: Story, fallback: Policy = Policy.RATE) -> Consent:
    offered = consents.offer(account=story.account, now=story.now)
    assert offered is not None
    return consents.give(account=story.account, offered=offered, fallback=fallback, actor="owner", now=story.now)


def extra(story: Story) -> int:
    """What Scale costs more for the rest of the period, reckoned anew: 30.00 a period, by the second."""
    period = containing(story.account.anchor, story.now)
    left = int((period.end - story.now).total_seconds())
    halves = [(2 * fee * left + period.seconds) // (2 * period.seconds) for fee in (49_00, 19_00)]
    return halves[0] - halves[1]


def announced(story: Story, fallback: Policy = Policy.RATE) -> PlanChange:
    """Enough calls for an upgrade, which is announced."""
    consent(story, fallback)
    story.record(10 + 30)
    assert upgrades.announce_due(now=story.now) == 1
    return story.change


def test_it_is_announced_when_the_overage_has_come_to_the_difference(story: Story) -> None:
    consent(story)
    difference = extra(story)
    assert 19_00 < difference < 21_00
    story.record(10 + (difference - 1) // 100)  # a dollar each: not quite
    assert upgrades.announce_due(now=story.now) == 0
    story.record(1)
    assert upgrades.announce_due(now=story.now) == 1
    assert upgrades.announce_due(now=story.now) == 0
    change = story.change
    assert (change.state, change.previewed_minor, change.due_at) == (State.ANNOUNCED, difference, story.now + WINDOW)
    told = Notice.objects.get(tenant=story.acme.tenant, kind="upgrade.announced")
    assert "You move to Scale" in told.title
    assert "undo it" in told.text


def test_without_consent_nothing_is_announced(story: Story) -> None:
    story.record(10_000)
    assert upgrades.announce_due(now=story.now) == 0
    ended = consent(story)
    consents.withdraw(account=story.account, actor="owner", now=story.now)
    assert upgrades.announce_due(now=story.now) == 0
    assert ended.account_id == story.account.pk
    assert not PlanChange.objects.exists()


def test_calls_beyond_belong_to_the_new_plan_and_are_not_charged_one_by_one(story: Story) -> None:
    consent(story)
    assert story.serve(10) == 10  # by the wall clock, days after the story's now
    story.move(BEHIND + timedelta(hours=1))
    assert story.serve(30) == 30
    assert upgrades.announce_due(now=story.now) == 1
    assert story.serve(5) == 5
    story.move(WINDOW - timedelta(seconds=1))
    assert story.advance(steps=1).state == State.ANNOUNCED
    assert story.serve(5) == 5
    applied = story.advance()
    assert applied.state == State.APPLIED
    assert story.serve(5) == 5
    fees, calls = story.invoiced()
    assert (fees, calls) == (applied.previewed_minor, 0)
    assert story.accepted == 10
    rows = Quota.objects.filter(tenant=story.acme.tenant, used__gt=0).order_by("period_start")
    assert [(row.used, row.included) for row in rows] == [(10, 10), (45, 1_000_000)]
    assert rows[1].period_start == applied.cut_at
    assert story.consent.end == Consent.End.USED
    books(story.acme.tenant.id).assert_balanced()
    assert books(story.acme.tenant.id).rolled_up["refused"] == 0


@pytest.mark.parametrize("fallback", [Policy.RATE, Policy.BLOCK])
def test_undone_the_plan_stays_and_calls_are_rated(story: Story, fallback: Policy) -> None:
    change = announced(story, fallback)
    assert story.serve(1) == 1
    changes.undo(change=change, actor="owner", now=story.now)
    assert (story.change.state, story.consent.end) == (State.UNDONE, Consent.End.UNDONE)
    assert story.account.policy == fallback
    assert story.serve(3) == (3 if fallback == Policy.RATE else 0)
    story.move(2 * WINDOW)
    assert story.advance().state == State.UNDONE
    assert story.account.plan_version.plan.code == "launch"
    assert story.invoices() == []
    with pytest.raises(changes.TooLate):
        changes.undo(change=change, actor="owner", now=story.now)
    assert upgrades.announce_due(now=story.now) == 0


@pytest.mark.parametrize("fallback", [Policy.RATE, Policy.BLOCK])
def test_declined_the_plan_stays_and_calls_are_rated(story: Story, fallback: Policy) -> None:
    announced(story, fallback)
    story.use_card("declines")
    story.move(WINDOW)
    change = story.advance()
    assert (change.state, story.consent.end) == (State.FAILED, Consent.End.FAILED)
    assert story.account.policy == fallback
    assert story.serve(3) == (3 if fallback == Policy.RATE else 0)
    assert (story.account.plan_version.plan.code, story.invoices()) == ("launch", [])
    assert Notice.objects.filter(tenant=story.acme.tenant, kind="plan.change_failed").count() == 1
    assert reporting.held_from(account=story.account, now=story.now) is None
    assert reporting.settle(account=story.account, until=story.now, now=story.now) is False
    story.move()
    assert reporting.settle(account=story.account, until=story.now, now=story.now)
    assert story.accepted == 40


def test_withdrawn_while_announced_nothing_happens(story: Story) -> None:
    announced(story)
    consents.withdraw(account=story.account, actor="owner", now=story.now)
    story.move(WINDOW)
    assert story.advance().state == State.UNDONE
    assert story.account.plan_version.plan.code == "launch"


def test_a_correction_that_makes_staying_cheaper_holds_it_back(story: Story) -> None:
    change = announced(story)
    Account.objects.filter(pk=story.account.pk).update(
        hard_limit_minor=1_00
    )  # the usage line is one dollar at most now
    story.move(WINDOW)
    assert story.advance().state == State.SETTLING
    Account.objects.filter(pk=story.account.pk).update(hard_limit_minor=None)
    assert story.advance().state == State.APPLIED
    change.refresh_from_db()
    assert story.invoiced() == (change.previewed_minor, 0)


def test_usage_that_was_reported_before_the_consent_is_taken_back(story: Story) -> None:
    story.record(10, at=story.now - timedelta(minutes=30))
    story.record(40)
    while not reporting.settle(account=story.account, until=story.now, now=story.now):
        story.move()
    assert story.accepted == 50
    consent(story)
    assert upgrades.announce_due(now=story.now) == 1
    story.move(WINDOW)
    assert story.advance().state == State.APPLIED
    assert (story.accepted, story.invoiced()[1]) == (10, 0)
    quantities = list(UsageReport.objects.values_list("quantity", flat=True))
    assert (min(quantities), sum(quantities)) == (-40, 10)


def test_the_period_ends_before_the_upgrade_is_made(story: Story) -> None:
    announced(story)
    ends = story.account.period_end
    assert ends is not None
    story.move(ends - story.now + timedelta(seconds=2))
    subscriptions.sync(account_id=story.account.pk, now=story.now)
    change = story.advance()
    assert (change.state, story.account.plan_version.plan.code) == (State.FAILED, "launch")
    assert "period ended" in change.failure


def test_it_is_not_announced_when_too_little_is_left_to_undo_it(story: Story) -> None:
    consent(story)
    ends = story.account.period_end
    assert ends is not None
    story.record(100)
    story.move(ends - story.now - WINDOW)
    assert upgrades.announce_due(now=story.now) == 0


def test_it_is_not_announced_while_a_payment_is_missing(story: Story) -> None:
    consent(story)
    story.record(100)
    Account.objects.filter(pk=story.account.pk).update(state=PaymentState.PAST_DUE, past_due_since=story.now)
    assert upgrades.announce_due(now=story.now) == 0


# -- From the free plan --------------------------------------------------------------------------------------------------
@pytest.fixture
def globex(story: Story, make_tenant: MakeTenant) -> Story:
    """On the free plan with three calls, a card on file, and consent to Launch."""
    made = make_tenant("Globex", included=3, anchor=story.now - timedelta(days=3), burst_per_second=10**6)
    customer(made)
    other = Story(story.simulator, made)
    consent(other, Policy.BLOCK)
    return other


def test_from_the_free_plan_it_is_announced_once_calls_run_out(globex: Story) -> None:
    assert globex.account.tenant.allowance.admits == 6
    globex.record(3)
    assert upgrades.announce_due(now=globex.now) == 0
    globex.move()
    globex.record(2)
    assert upgrades.announce_due(now=globex.now) == 1
    assert globex.change.previewed_minor == 19_00
    globex.move(WINDOW)
    applied = globex.advance()
    assert (applied.state, globex.account.state) == (State.APPLIED, PaymentState.ACTIVE)
    assert globex.account.plan_version.plan.code == "launch"
    assert globex.consent.end == Consent.End.USED
    paid = [one for one in globex.simulator.invoices if one["customer"] == globex.customer_id]
    assert [(one["total"], one["status"]) for one in paid] == [(19_00, "paid")]
    used = Quota.objects.filter(tenant=globex.acme.tenant, used__gt=0).order_by("period_start")
    assert [row.used for row in used][-1] == 2
    assert globex.account.period_start == applied.cut_at


def test_from_the_free_plan_declined_the_bridge_stays_free(globex: Story) -> None:
    globex.use_card("declines")
    globex.record(5)
    upgrades.announce_due(now=globex.now)
    globex.move(WINDOW)
    assert globex.advance().state == State.FAILED
    assert (globex.account.policy, globex.account.tenant.allowance.admits) == (Policy.BLOCK, 3)
    assert globex.serve(1) == 0
    terms = accounts.pricing_terms(globex.account.plan_version, "usd")
    assert pricing.invoice(terms=terms, quantity=5).total_minor == 0
    assert not [
        one for one in globex.simulator.invoices if one["customer"] == globex.customer_id and one["status"] == "paid"
    ]


# -- Whatever happens ----------------------------------------------------------------------------------------------------
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("calls"), st.integers(1, 30)),
        st.tuples(st.just("pass"), st.integers(1, 90)),  # minutes
        st.tuples(st.sampled_from(["consent", "withdraw", "undo", "decline", "pay", "watch", "cancel", "outage"]), st.just(0)),
    ),
    min_size=4, max_size=10,
)  # fmt: skip


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(actions=[("consent", 0), ("calls", 20), ("outage", 0), ("pass", 61), ("watch", 0)], included=4, price="212.5")
@given(actions=ACTIONS, included=st.integers(1, 12), price=st.sampled_from(["1000", "212.5", "55"]))
def test_never_without_consent_and_never_dearer(
    story: Story, make_tenant: MakeTenant, actions: list[tuple[str, int]], included: int, price: str
) -> None:
    own = subscribed(
        story.simulator, make_tenant, included=included, unit_price_minor=Decimal(price), since=timedelta(minutes=5)
    )
    decisions: dict[object, int] = {}  # the overage when a change was decided, by change
    for action, number in [*actions, ("watch", 0), ("pass", 61), ("watch", 0)]:
        play(own, action, number)
        for _ in range(3):
            upgrades.announce_due(now=own.now)
            before = {change.pk for change in automatic(own) if change.state == State.SETTLING}
            overage = usage_minor(own, Decimal(price))
            changes.advance_due(now=own.now)
            for change in automatic(own):
                if change.pk in before and change.proration_at is not None:
                    decisions[change.pk] = overage
            own.move()
    own.simulator.faults.clear()
    for change in automatic(own):
        assert change.consent is not None
        assert change.consent.given_at <= change.requested_at
        assert change.consent.ended_at is None or change.consent.ended_at >= change.requested_at
    applied = [change for change in automatic(own) if change.state == State.APPLIED]
    assert len(applied) <= 1
    if not applied:
        assert own.account.plan_version.plan.code in {"launch", "free"}
        assert own.invoices() == []
    for change in applied:
        fees, calls = own.invoiced()
        assert (fees, calls) == (change.previewed_minor, 0)
        assert fees <= decisions[change.pk]
    books(own.acme.tenant.id).assert_balanced()


def automatic(story: Story) -> list[PlanChange]:
    found = PlanChange.objects.filter(account_id=story.acme.tenant.pk, kind=PlanChange.Kind.AUTOMATIC)
    return list(found.select_related("consent"))


def usage_minor(story: Story, price: Decimal) -> int:
    """What the calls beyond the included ones of the running period cost on Launch, reckoned anew."""
    account = story.account
    row = Quota.objects.filter(tenant=story.acme.tenant, period_start__lte=story.now, period_end__gt=story.now).first()
    beyond = max(0, (row.used if row else 0) - (account.plan_version.included or 0))
    return int(beyond * price + Decimal("0.5"))


def play(story: Story, action: str, number: int) -> None:
    with suppress(changes.ChangeRefused, consents.ConsentRefused):
        ACTS[action](story, number)


def agree(story: Story) -> None:
    if consents.offer(account=story.account, now=story.now):
        consent(story)


def undo(story: Story) -> None:
    for change in PlanChange.objects.filter(account=story.account, state=State.ANNOUNCED):
        changes.undo(change=change, actor="owner", now=story.now)


def lose_answers(story: Story) -> None:
    story.simulator.faults.add("drop_after", method="POST", path="/v1/subscriptions", count=1)
    story.simulator.faults.add("error_500_after", method="POST", path="/v1/billing/meter_events", count=1)


ACTS: dict[str, Callable[[Story, int], object]] = {
    "calls": lambda story, number: story.record(number),
    "pass": lambda story, number: story.move(timedelta(minutes=number)),
    "watch": lambda story, _: None,
    "consent": lambda story, _: agree(story),
    "withdraw": lambda story, _: consents.withdraw(account=story.account, actor="owner", now=story.now),
    "undo": lambda story, _: undo(story),
    "cancel": lambda story, _: changes.cancel(account=story.account, actor="owner", now=story.now),
    "decline": lambda story, _: story.use_card("declines"),
    "pay": lambda story, _: story.use_card("works"),
    "outage": lambda story, _: lose_answers(story),
}


def test_what_a_version_costs_more_is_what_stripe_says(story: Story) -> None:
    version = accounts.public_version(plan_code="scale")
    for _ in range(5):
        told = changes.preview(account=story.account, version=version, now=story.now)
        assert upgrades.extra_minor(account=story.account, version=version, at=story.now) == told.due_minor
        story.move(timedelta(hours=61, seconds=7))
