"""Usage on its way to Stripe's meter: each unit once, whatever is lost, late, corrected or rejected."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from billing import accounts, changes, confirming, consents, reporting
from billing.models import UsageReport
from metering import adjustments, usage
from metering.models import Call, Policy
from tests.billing.plan_story import METER, Story, simulated_stripe, subscribed
from tests.conftest import MakeTenant

State = UsageReport.State


@pytest.fixture
def story(settings: Any, db: None, make_tenant: MakeTenant) -> Iterator[Story]:
    with simulated_stripe(settings) as simulator:
        yield subscribed(simulator, make_tenant)


def settle(story: Story, *, tries: int = 8) -> bool:
    """Until Stripe has counted it, as the beat would ask; whether it has."""
    until = story.now
    for _ in range(tries):
        if reporting.settle(account=story.account, until=until, now=story.now):
            return True
        story.move()
    return False


def reports(story: Story) -> list[tuple[int, int, str]]:
    found = UsageReport.objects.filter(account=story.account).order_by("window_start", "revision")
    return [(report.revision, report.quantity, report.state) for report in found]


def test_usage_is_sent_once_and_confirmed(story: Story) -> None:
    story.record(7)
    assert not reporting.settle(account=story.account, until=story.now, now=story.now)  # the summaries lag behind
    assert reports(story) == [(1, 7, State.DELIVERED)]
    assert settle(story)
    assert settle(story)
    assert (story.accepted, reports(story)) == (7, [(1, 7, State.CONFIRMED)])
    story.record(5)
    assert settle(story)
    assert (story.accepted, reports(story)) == (12, [(1, 7, State.CONFIRMED), (1, 5, State.CONFIRMED)])


def test_nothing_is_reported_before_it_is_counted(story: Story) -> None:
    later = usage.as_of() + timedelta(hours=1)
    assert not reporting.settle(account=story.account, until=later, now=story.now)
    assert reports(story) == []


def test_without_a_priced_subscription_there_is_nothing_to_report(story: Story, make_tenant: MakeTenant) -> None:
    globex = make_tenant("Globex")
    assert reporting.settle(account=globex.account, until=story.now, now=story.now)
    assert reports(story) == []


def test_late_calls_and_corrections_are_further_revisions(story: Story) -> None:
    story.record(7, at=story.now - timedelta(minutes=3))
    assert settle(story)
    story.record(2, at=story.now - timedelta(minutes=2))
    voided = Call.objects.filter(tenant=story.acme.tenant)[0]
    change = adjustments.planned_void(tenant=story.acme.tenant, call_id=voided.id)
    adjustments.apply(change, actor="test", reason="twice")
    assert settle(story)
    assert story.accepted == 8
    assert reports(story)[0] == (1, 7, State.CONFIRMED)
    assert sum(quantity for _, quantity, _ in reports(story)) == 8


def test_the_identifier_makes_a_report_count_once(story: Story) -> None:
    story.record(7)
    story.simulator.faults.add("drop_after", method="POST", path="/v1/billing/meter_events", count=2)
    assert not reporting.settle(account=story.account, until=story.now, now=story.now)
    assert reports(story) == [(1, 7, State.SENDING)]
    story.simulator.faults.add("error_500_after", method="POST", path="/v1/billing/meter_events")
    assert settle(story)
    assert (story.accepted, reports(story)) == (7, [(1, 7, State.CONFIRMED)])
    UsageReport.objects.update(state=State.SENDING)  # the worker was killed before it could write down the answer
    assert settle(story)
    assert (story.accepted, reports(story)) == (7, [(1, 7, State.CONFIRMED)])


@pytest.mark.parametrize("fault", ["drop_after", "drop_before"])
def test_after_a_day_it_is_only_looked_for(story: Story, fault: str) -> None:
    story.record(7)
    story.simulator.faults.add(fault, method="POST", path="/v1/billing/meter_events", count=1)
    assert not reporting.settle(account=story.account, until=story.now, now=story.now)
    story.move(timedelta(hours=25))
    assert settle(story)
    assert story.accepted == 7
    expected = {
        "drop_after": [(1, 7, State.CONFIRMED)], "drop_before": [(1, 7, State.REJECTED), (2, 7, State.CONFIRMED)],
    }  # fmt: skip
    assert reports(story) == expected[fault]


def test_what_stripe_rejects_afterwards_is_carried_by_another_revision(story: Story) -> None:
    story.record(7)
    story.simulator.faults.add("reject", event=METER)
    assert not settle(story)
    UsageReport.objects.update(state=State.REJECTED, error="meter_event_customer_not_found")  # as the thin event says
    assert settle(story)
    assert reports(story) == [(1, 7, State.REJECTED), (2, 7, State.CONFIRMED)]
    assert story.accepted == 7


def test_calls_after_a_cut_are_stamped_with_the_new_items(story: Story) -> None:
    story.record(3)
    scale = accounts.public_version(plan_code="scale")
    change = changes.request(account=story.account, version=scale, actor="owner", now=story.now)
    assert change.cut_at is not None
    story.record(4, at=change.cut_at)
    story.move(timedelta(minutes=5))
    applied = story.advance()
    assert settle(story)
    stamps = (
        UsageReport.objects.filter(account=story.account).order_by("window_start").values_list("stamped_at", flat=True)
    )
    assert stamps[0] < change.cut_at
    assert stamps[1] >= change.cut_at + timedelta(minutes=5)
    periods = [one for one in story.simulator.oracle()["periods"] if one["customer"] == story.customer_id]
    assert sorted((one["state"], one["accepted"]) for one in periods) == [("final", 3), ("open", 4)]
    assert applied.items


def test_what_is_held_back(story: Story) -> None:
    assert reporting.held_from(account=story.account, now=story.now) is None
    story.record(10, at=story.now - timedelta(minutes=9))
    beyond = story.now - timedelta(minutes=8)
    story.record(1, at=beyond)
    assert reporting.held_from(account=story.account, now=story.now) is None
    offered = consents.offer(account=story.account, now=story.now)
    assert offered is not None
    consents.give(account=story.account, offered=offered, fallback=Policy.RATE, actor="owner", now=story.now)
    assert reporting.held_from(account=story.account, now=story.now) == beyond
    consents.withdraw(account=story.account, actor="owner", now=story.now)
    assert reporting.held_from(account=story.account, now=story.now) is None


FAULTS = ("drop_before", "drop_after", "error_500_before", "error_500_after", "rate_limit_429", "garbage")
MINUTE = timedelta(minutes=1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("record"), st.integers(0, 9 * 60), st.integers(1, 5)),  # minutes ago, calls
        st.tuples(st.just("settle"), st.integers(0, 60), st.just(0)),
        st.tuples(st.just("fault"), st.integers(0, len(FAULTS) - 1), st.integers(1, 3)),
        st.tuples(st.just("void"), st.just(0), st.just(0)),
        st.tuples(st.just("pass"), st.integers(1, 80), st.just(0)),
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
@example(
    steps=[  # calls in the very instant that is settled to
        ("settle", 52, 0), ("record", 15, 5), ("record", 0, 2), ("settle", 12, 0), ("record", 33, 5), ("void", 0, 0),
    ]
)  # fmt: skip
@example(
    steps=[  # an event that never arrived, too old to be sent again and too young to be called lost
        ("settle", 52, 0), ("record", 15, 5), ("settle", 0, 0), ("fault", 0, 3), ("pass", 59, 0), ("record", 0, 2),
        ("record", 228, 5), ("settle", 1, 0), ("pass", 20, 0), ("pass", 41, 0), ("void", 0, 0),
    ]
)  # fmt: skip
def test_each_unit_is_at_stripe_once(story: Story, make_tenant: MakeTenant, steps: list[tuple[str, int, int]]) -> None:
    own = subscribed(story.simulator, make_tenant, since=timedelta(minutes=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporting, "RESENT_WITHIN", timedelta(hours=1))  # so that both ways are taken in a day
        run(own, steps)


def run(own: Story, steps: list[tuple[str, int, int]]) -> None:
    begun = own.account.period_start
    assert begun is not None
    for step, number, count in steps:
        if step == "record":
            own.record(count, at=max(begun, own.now - timedelta(minutes=number)))
        elif step == "settle":
            reporting.settle(account=own.account, until=max(begun, own.now - timedelta(minutes=number)), now=own.now)
        elif step == "fault":
            path = "/v1/billing/meter_events" if count % 2 else "/v1/billing"
            own.simulator.faults.add(FAULTS[number], path=path, count=count)
        elif step == "void":
            void(own)
        else:
            own.move(timedelta(minutes=number))
    own.simulator.faults.clear()
    own.move(reporting.RESENT_WITHIN + confirming.SURELY_VISIBLE + MINUTE)
    settle(own)
    own.move(confirming.SURELY_VISIBLE + MINUTE)  # all else is visible by then: what was lost is lost for certain
    until = own.now
    assert settle(own)
    units = usage.units_between(tenant_id=own.acme.tenant.id, period_start=begun, start=begun, end=until)
    assert own.accepted == units


def void(story: Story) -> None:
    """The first call that is not voided yet is."""
    done = adjustments.of_period(tenant_id=story.acme.tenant.id, period_start=story.account.period_start or story.now)
    calls = Call.objects.filter(tenant=story.acme.tenant).exclude(id__in=[one.call_id for one in done])
    call = calls.first()
    if call is not None:
        change = adjustments.planned_void(tenant=story.acme.tenant, call_id=call.id)
        adjustments.apply(change, actor="test", reason="twice")
