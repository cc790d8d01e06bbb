"""Usage reports under faults: Stripe failing in every way, senders killed at every step, two beats at once, a long outage."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections

from billing import catalogue, confirming, reporting, stripe_api, stripe_usage, subscriptions
from billing.accounts import public_version
from billing.models import Account, BilledPeriod, StripePrices, UsageReport
from sandbox.stripe_simulator import StripeSimulator
from tests.billing import test_changes_killed as killing
from tests.billing.plan_story import Story, customer, prices_of, simulated_stripe, subscribed
from tests.billing.usage_story import (
    FAULTS,
    HOUR,
    assert_each_hour_is_at_stripe,
    beat,
    kept,
    ledger,
    months_ago,
    reports,
    use,
    whole_hour,
)
from tests.conftest import MakeTenant

__all__ = ["kept"]
State = UsageReport.State
KINDS = (*FAULTS, "timeout")
WINDOWS, TENANTS = 80, 5
LONG_WINDOWS, LONG_TENANTS = 2_000, 10
PROBABILITY = 0.3
SETTLED = {State.CONFIRMED, State.REJECTED}


@pytest.fixture
def is_long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long"))


@pytest.fixture
def story(kept: None, settings: Any, db: None, make_tenant: MakeTenant) -> Iterator[Story]:
    settings.STRIPE_TIMEOUT_SECONDS = 0.1
    with months_ago(settings) as simulator:
        yield subscribed(simulator, make_tenant)


def fail(story: Story, *, seed: int) -> None:
    """From now on about three of ten requests go wrong, each in one of the ways."""
    story.simulator.faults.seed(seed)
    share = 1 - (1 - PROBABILITY) ** (1 / len(KINDS))
    for kind in KINDS:
        story.simulator.faults.add(kind, path="/v1/billing", probability=share, count=10**6, seconds=0.15)


def assert_exact(*stories: Story) -> None:
    """Stripe's own total is the ledger's, to the unit, and nothing is in doubt."""
    for one in stories:
        assert one.accepted == sum(ledger(one))
        assert_each_hour_is_at_stripe(one)
        assert {report.state for report in reports(one)} <= SETTLED
        keys = [(report.window_start, report.window_end, report.revision) for report in reports(one)]
        assert len(keys) == len(set(keys))


def test_with_three_of_ten_requests_failing_each_unit_is_at_stripe_once(
    story: Story, make_tenant: MakeTenant, is_long: bool
) -> None:
    windows, count = (LONG_WINDOWS, LONG_TENANTS) if is_long else (WINDOWS, TENANTS)
    tenants = [story, *(subscribed(story.simulator, make_tenant, since=timedelta(0)) for _ in range(count - 1))]
    story.simulator.clock.to(int((whole_hour(story) + HOUR).timestamp()))  # so that an hour is a window
    chance, started = random.Random(7), time.monotonic()
    fail(story, seed=7)
    for number in range(windows // count):
        for one in tenants:
            use(one, chance.randint(1, 99), at=whole_hour(one) + timedelta(seconds=chance.randint(0, 3_599)))
        if number and chance.random() < 0.2:  # a flush that commits late
            use(story, 1, at=story.now - chance.randint(1, min(number, 9)) * HOUR)
        story.move(HOUR)
        if number % 2:
            beat(story)
    fired = sum(rule["fired"] for rule in story.simulator.faults.rules())
    story.simulator.faults.clear()
    beat(story, times=4, apart=timedelta(minutes=20))
    story.move(25 * HOUR)
    beat(story, times=4, apart=timedelta(minutes=20))
    assert_exact(*tenants)
    made = [report for one in tenants for report in reports(one)]
    assert len({(one.account_id, one.window_start) for one in made}) == windows
    print(  # noqa: T201
        f"\n{windows:,} windows of {count} tenants in {len(made):,} reports, {fired:,} requests failed: "
        f"{sum(one.accepted for one in tenants):,} units at Stripe and in the ledger, {time.monotonic() - started:.0f} s"
    )


def test_thirty_hours_of_outage_leave_nothing_in_doubt_and_nothing_twice(story: Story) -> None:
    use(story, 5, at=story.now - 2 * HOUR)
    story.simulator.faults.add(
        "drop_after", method="POST", path="/v1/billing/meter_events"
    )  # taken, and the answer is lost
    beat(story)
    use(story, 7)
    story.simulator.faults.add("drop_before", path="/v1/", count=10**6)
    for _ in range(30):
        story.move(HOUR)
        use(story, 1)
        beat(story)
    doubtful = {report.pk for report in reports(story) if report.state == State.SENDING}
    assert len(doubtful) > 1
    story.simulator.faults.clear()
    with pytest.MonkeyPatch.context() as patch:
        again = asked_again(patch)
        beat(story, times=4, apart=timedelta(minutes=15))
    forgotten = UsageReport.objects.filter(pk__in=doubtful, attempted_at__lt=story.now - timedelta(hours=24))
    assert forgotten
    assert not again & {str(one.pk) for one in forgotten}
    story.move(26 * HOUR)
    beat(story, times=4, apart=timedelta(minutes=15))
    assert_exact(story)


def asked_again(patch: pytest.MonkeyPatch) -> set[str]:
    """The identifiers that are sent from now on."""
    seen: set[str] = set()
    send = stripe_api.send_meter_event

    def noted(**options: Any) -> None:
        seen.add(options["identifier"])
        send(**options)

    patch.setattr(stripe_api, "send_meter_event", noted)
    return seen


class Points(killing.Points):
    """Also around what reports ask of Stripe."""

    @contextmanager
    def armed(self) -> Iterator[None]:
        with super().armed(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(stripe_usage, "hourly_totals", self._around(stripe_usage.hourly_totals))
            yield


def test_a_sender_killed_at_any_step_doubles_and_loses_nothing(
    kept: None, settings: Any, db: None, make_tenant: MakeTenant, is_long: bool
) -> None:
    with months_ago(settings) as simulator:
        first = subscribed(simulator, make_tenant)
        passed = survive(first, Points())
        assert passed > 15
        for number in range(1, passed + 1, 1 if is_long else 7):
            story = subscribed(simulator, make_tenant, since=timedelta(0))
            survive(story, Points(number))
            assert_exact(story)
            if is_long:  # and the same with three of ten requests failing besides
                story = subscribed(simulator, make_tenant, since=timedelta(0))
                fail(story, seed=number)
                survive(story, Points(number))
                story.simulator.faults.clear()
                story.move(26 * HOUR)
                beat(story, times=4, apart=timedelta(minutes=15))
                assert_exact(story)


def survive(story: Story, points: Points) -> int:
    """Reports of three hours are made, sent and confirmed by a beat that is killed once, and the next ones."""
    use(story, 3, at=story.now)
    story.move(HOUR)
    use(story, 4, at=story.now)
    story.move(HOUR)
    with points.armed():
        for _ in range(4):
            try:
                reporting.make_due(now=story.now)
                reporting.send_due(now=story.now)
                story.move()
                reporting.confirm_due(now=story.now)
            except killing.Killed:
                pass
            story.move()
    story.move(HOUR)
    use(story, 5, at=story.now - HOUR)
    beat(story, times=2)
    return points.passed


def test_several_beats_at_once_are_one(
    kept: None, committed: None, settings: Any, make_tenant: MakeTenant, now: Any
) -> None:
    """Real threads, each with a connection of its own: windows are made once, and one sender speaks for an account."""
    settings.BILLING = {**settings.BILLING, "REPORT_SENDERS": 2}
    with simulated_stripe(settings) as simulator:
        catalogue.make(now=now)
        tenants = [payer(simulator, make_tenant) for _ in range(3)]
        for one in tenants:
            for number in range(4):
                use(one, number + 1, at=one.now + number * HOUR)
        tenants[0].move(6 * HOUR)
        mine = [one.acme.tenant.pk for one in tenants]
        threads = [threading.Thread(target=whole_beat, args=(tenants[0].now,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        tenants[0].move()
        whole_beat(tenants[0].now)
        tenants[0].move()
        reporting.confirm_due(now=tenants[0].now)
        assert_exact(*tenants)
        assert UsageReport.objects.filter(account__in=mine).count() == 12
        statuses = [one.status for one in simulator.requests if "meter_events" in one.path]
        assert 429 not in statuses
        forget(mine)


def payer(simulator: StripeSimulator, make_tenant: MakeTenant) -> Story:
    """A customer of the public Launch: a version of this test's own would stay for sale in the others."""
    story = Story(simulator, make_tenant(anchor=datetime.fromtimestamp(simulator.clock.now, UTC)))
    account_id = story.acme.tenant.pk
    stripe_api.subscribe(
        customer_id=customer(story.acme), tenant_id=account_id, currency="usd", anchor=None, key=str(account_id),
        prices=prices_of(public_version(plan_code="launch")),
    )  # fmt: skip
    subscriptions.sync(account_id=account_id, now=story.now)
    return story


def whole_beat(now: Any) -> None:
    try:
        reporting.make_due(now=now)
        reporting.send_due(now=now)
        reporting.confirm_due(now=now)
    finally:
        if threading.current_thread() is not threading.main_thread():
            connections.close_all()


def forget(ids: list[Any]) -> None:
    """These tests' database outlives their Stripes, whose ids begin anew."""
    UsageReport.objects.filter(account__in=ids).delete()
    BilledPeriod.objects.filter(account__in=ids).delete()
    StripePrices.objects.all().delete()
    Account.objects.filter(pk__in=ids).update(customer_id=None, subscription_id=None, state="none", past_due_since=None)


def test_lost_reports_are_told_apart_by_what_was_counted() -> None:
    lost = [UsageReport(quantity=quantity) for quantity in (3, 5, 9)]
    assert confirming.which(lost, 8) == lost[:2]
    assert confirming.which(lost, 0) == []
    assert confirming.which(lost, 17) == lost
    assert confirming.which(lost, 4) is None
