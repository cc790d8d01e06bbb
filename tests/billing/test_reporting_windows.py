"""Hour by hour: windows of usage, made by the beat, each unit in one of them, and in the right period."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from billing import (
    billed_periods,
    changes,
    consents,
    ended_periods,
    reporting,
    stops,
    stripe_api,
    stripe_usage,
    windows,
)
from billing.accounts import public_version
from billing.models import BilledPeriod, PlanChange, UsageReport
from metering.models import Policy
from tests.billing.plan_story import Story, subscribed
from tests.billing.usage_story import (
    HOUR,
    MICROSECOND,
    beat,
    billed,
    correct,
    cycle_invoices,
    finish,
    first_period,
    follow,
    kept,
    ledger,
    months_ago,
    periods_of,
    renew,
    reports,
    sent,
    use,
    whole_hour,
)  # fmt: skip
from tests.conftest import MakeTenant

State = UsageReport.State
__all__ = ["kept"]


@pytest.fixture
def story(kept: None, settings: Any, db: None, make_tenant: MakeTenant) -> Iterator[Story]:
    with months_ago(settings) as simulator:
        yield subscribed(simulator, make_tenant)


def test_each_closed_hour_is_a_window_stamped_with_its_start(story: Story) -> None:
    hour = whole_hour(story)
    use(story, 3, at=hour - 2 * HOUR)
    use(story, 4, at=hour - MICROSECOND)
    use(story, 5, at=hour)
    beat(story)
    assert sent(story) == [(hour - 2 * HOUR, 1, 3, State.CONFIRMED), (hour - HOUR, 1, 4, State.CONFIRMED)]
    assert [one.stamped_at for one in reports(story)] == [hour - 2 * HOUR, hour - HOUR]
    story.move(HOUR)
    beat(story)
    assert sent(story)[2:] == [(hour, 1, 5, State.CONFIRMED)]
    assert story.accepted == 12


def test_two_beats_and_no_beat_for_a_day_change_nothing(story: Story) -> None:
    hour = whole_hour(story)
    for number in range(24):
        use(story, number + 1, at=hour + number * HOUR)
    story.move(26 * HOUR)
    beat(story, times=3)
    assert [quantity for _, _, quantity, _ in sent(story)] == list(range(1, 25))
    assert story.accepted == 300


def test_what_a_flush_adds_later_is_a_further_revision_and_a_correction_a_negative_one(story: Story) -> None:
    hour = whole_hour(story)
    use(story, 7, at=hour - HOUR)
    beat(story)
    use(story, 2, at=hour - 30 * timedelta(minutes=1))
    beat(story)
    assert len(sent(story)) == 1  # scanned once an hour
    story.move(HOUR)
    beat(story)
    correct(story, 1, at=hour - HOUR)
    story.move(HOUR)
    beat(story)
    assert [(revision, quantity) for _, revision, quantity, _ in sent(story)] == [(1, 7), (2, 2), (3, -6)]
    assert story.accepted == sum(ledger(story)) == 3


def test_usage_at_the_last_microsecond_of_a_period_is_billed_in_it(story: Story) -> None:
    end = story.account.period_end
    assert end is not None
    beat(story)
    renew(story)
    use(story, 11, at=end - MICROSECOND)
    use(story, 5, at=end)
    finish(story)
    assert periods_of(story)[0].state == BilledPeriod.State.FINAL
    assert (ledger(story), billed(story)) == ([11, 5], [(11, 11), (5, 0)])
    assert [line["amount"] for line in cycle_invoices(story)[0]["lines"]["data"]] == [0, 100, 1900]


def test_the_last_usage_is_on_the_draft_when_its_making_is_heard_of(story: Story) -> None:
    beat(story)
    use(story, 30, at=(story.account.period_end or story.now) - 10 * MICROSECOND)
    renew(story)
    ended_periods.bill_account(account=story.account, now=story.now)  # what `invoice.created` leads to
    story.move(HOUR + timedelta(minutes=1))
    assert billed(story)[0] == (30, 30)


def test_nothing_is_sent_for_a_final_period(story: Story) -> None:
    use(story, 4, at=story.now - 3 * HOUR)
    reporting.make_due(now=story.now)
    renew(story)
    story.move(2 * HOUR)  # nobody sent anything in time
    beat(story, times=3)
    assert [state for *_, state in sent(story)] == [State.TOO_LATE]
    assert (story.accepted, first_period(story).billed_units) == (0, 0)
    assert first_period(story).charges.get().units == 4  # settled as late usage


def test_calls_that_a_change_may_price_otherwise_are_held_back(story: Story) -> None:
    hour = whole_hour(story)
    use(story, 10, at=hour - 3 * HOUR)
    use(story, 2, at=hour - 2 * HOUR)
    offered = consents.offer(account=story.account, now=story.now)
    assert offered is not None
    consents.give(account=story.account, offered=offered, fallback=Policy.RATE, actor="owner", now=story.now)
    beat(story)
    assert story.accepted == 10
    consents.withdraw(account=story.account, actor="owner", now=story.now)
    story.move(HOUR)
    beat(story)
    assert story.accepted == 12


def test_a_change_of_plan_cuts_the_windows_and_each_side_is_billed_by_its_terms(story: Story) -> None:
    use(story, 13, at=story.now - 2 * HOUR)
    beat(story)
    scale = public_version(plan_code="scale")
    change = changes.request(account=story.account, version=scale, actor="owner", now=story.now)
    assert change.cut_at is not None
    use(story, 6, at=change.cut_at)
    assert story.advance().state == PlanChange.State.APPLIED
    story.move(2 * HOUR)
    beat(story, times=3)
    old, new = periods_of(story)
    assert (old.end, old.state, old.billed_units) == (change.cut_at, BilledPeriod.State.FINAL, 13)
    assert (new.start, new.state) == (change.cut_at, BilledPeriod.State.OPEN)
    assert (ledger(story), billed(story)) == ([13, 6], [(13, 13), (6, 0)])


STEPS: dict[str, tuple[Any, str]] = {
    "made": (windows, "freeze"),
    "sent": (stripe_api, "send_meter_event"),
    "confirmed": (stripe_usage, "hourly_totals"),
}


@pytest.mark.parametrize("step", STEPS)
def test_one_tenant_s_failure_holds_up_nobody(
    story: Story, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whatever fails of one, and however: all of the others' usage is settled meanwhile, and its own afterwards."""
    others = [subscribed(story.simulator, make_tenant, since=timedelta(0)) for _ in range(3)]
    for one in (story, *others):
        use(one, 2, at=one.now)
    story.move(2 * HOUR)
    module, name = STEPS[step]
    act, customer_id, account_id = getattr(module, name), story.customer_id, story.acme.tenant.pk

    def broken(**options: Any) -> Any:
        if options.get("customer_id") == customer_id or getattr(options.get("period"), "account_id", "") == account_id:
            raise RuntimeError
        return act(**options)

    monkeypatch.setattr(module, name, broken)
    beat(story)
    settled = [[report.state for report in reports(one)] == [State.CONFIRMED] for one in (story, *others)]
    assert settled == [False, True, True, True]
    monkeypatch.undo()
    beat(story, times=2)
    assert [one.accepted for one in (story, *others)] == [2, 2, 2, 2]
    assert [report.state for report in reports(story)] == [State.CONFIRMED]


def test_whose_reporting_is_stopped_sends_nothing_until_released(story: Story) -> None:
    use(story, 4, at=story.now - 2 * HOUR)
    stops.stop(account=story.account, why="a difference that nobody can explain", now=story.now)
    beat(story)
    assert story.accepted == 0
    stops.release(account=story.account, actor="operator", reason="explained", now=story.now)
    beat(story)
    assert story.accepted == 4


def test_one_period_can_be_stopped_and_resumed(story: Story) -> None:
    beat(story)
    billed_periods.stop(period=first_period(story), why="looked into")
    use(story, 4)
    story.move(2 * HOUR)
    beat(story)
    assert sent(story) == []
    billed_periods.resume(period=first_period(story))
    beat(story)
    assert story.accepted == 4


@pytest.mark.parametrize(("minutes", "expected"), [(15, [2, 4, 8]), (1440, [14])])
def test_other_widths(story: Story, settings: Any, minutes: int, expected: list[int]) -> None:
    settings.BILLING = {**settings.BILLING, "REPORT_WINDOW_MINUTES": minutes}
    day = whole_hour(story).replace(hour=0)
    for number, units in enumerate((2, 4, 8)):
        use(story, units, at=day + number * timedelta(minutes=15))
    story.move(25 * HOUR)
    beat(story)
    assert [one.quantity for one in reports(story)] == expected
    assert story.accepted == 14


def test_a_width_that_does_not_tile_the_day_is_refused(settings: Any) -> None:
    settings.BILLING = {**settings.BILLING, "REPORT_WINDOW_MINUTES": 50}
    with pytest.raises(windows.WindowsDoNotFit):
        windows.width()


def test_a_subscription_that_ends_is_billed_to_its_last_call(story: Story) -> None:
    beat(story)
    changes.cancel(account=story.account, actor="owner", now=story.now)
    end = story.account.period_end
    assert end is not None
    use(story, 25, at=end - MICROSECOND)
    story.simulator.clock.to(int(end.timestamp()))
    story.move()
    follow(story)
    assert not story.account.subscription_id
    finish(story)
    assert (first_period(story).state, first_period(story).billed_units) == (BilledPeriod.State.FINAL, 25)
    assert billed(story) == [(25, 25)]
