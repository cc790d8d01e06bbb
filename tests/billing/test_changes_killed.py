"""A worker that is killed at any step, and a Stripe that fails at any request: one change, one payment, each unit once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.db.models import QuerySet

from billing import accounts, changes, consents, stripe_api, upgrades
from billing.models import PlanChange
from metering.models import Policy, Quota
from tests.billing.plan_story import Story, customer, simulated_stripe, subscribed
from tests.conftest import MakeTenant
from tests.metering.ledger import books

State = PlanChange.State
ASKED = (
    "subscription", "subscriptions_of", "preview_replacement", "replace_prices", "subscribe", "schedule_prices",
    "scheduled_prices", "release_schedule", "set_cancels_at_period_end", "send_meter_event", "meter_total",
)  # fmt: skip
AGE = timedelta(minutes=10)
FIRST, EVERY = 1, 17  # of the points at which a worker may be killed; --long takes all of them


class Killed(BaseException):
    """The worker is gone, whatever it was doing."""


class Points:
    """Before and after each request to Stripe, before and after each commit, after each update: kills at one of them."""

    def __init__(self, number: int | None = None) -> None:
        self.left, self.passed = number, 0

    def reach(self) -> None:
        self.passed += 1
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Killed

    @contextmanager
    def armed(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in ASKED:
                patch.setattr(stripe_api, name, self._around(getattr(stripe_api, name)))
            patch.setattr(QuerySet, "update", self._after(QuerySet.update))
            patch.setattr(transaction.Atomic, "__exit__", self._commits(transaction.Atomic.__exit__))
            yield

    def _around(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*arguments: Any, **options: Any) -> Any:
            self.reach()
            answer = act(*arguments, **options)
            self.reach()
            return answer

        return asked

    def _after(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **options: Any) -> Any:
            answer = act(*arguments, **options)
            self.reach()
            return answer

        return changed

    def _commits(self, leave: Callable[..., Any]) -> Callable[..., Any]:
        def left(atomic: Any, kind: Any, error: Any, trace: Any) -> Any:
            if kind is not None:
                return leave(atomic, kind, error, trace)
            try:
                self.reach()
            except Killed as killed:
                leave(atomic, Killed, killed, killed.__traceback__)
                raise
            leave(atomic, None, None, None)
            self.reach()
            return None

        return left


def live(story: Story, begin: Callable[[Story], object], points: Points) -> None:
    """The change is begun, and the beat comes by, twice each time, until it is over."""
    with points.armed():
        for _ in range(30):
            try:
                if not PlanChange.objects.filter(account_id=story.acme.tenant.pk).exists():
                    begin(story)
                changes.advance_due(now=story.now)
                changes.advance_due(now=story.now)
            except Killed:
                pass
            known = PlanChange.objects.filter(account_id=story.acme.tenant.pk).first()
            story.move(timedelta(minutes=60) if known and known.state == State.ANNOUNCED else timedelta(seconds=2))
            if known is not None and not known.is_open:
                return
    known = PlanChange.objects.filter(account_id=story.acme.tenant.pk).first()
    pytest.fail(f"Killed at {points.passed}: {known} did not come to an end.")


def upgrade(story: Story) -> object:
    scale = accounts.public_version(plan_code="scale")
    return changes.request(account=story.account, version=scale, actor="owner", now=story.now)


def automatic(story: Story) -> object:
    if not story.account.consents.exists():
        offered = consents.offer(account=story.account, now=story.now)
        assert offered is not None
        consents.give(account=story.account, offered=offered, fallback=Policy.BLOCK, actor="owner", now=story.now)
    return upgrades.announce_due(now=story.now)


def cancel(story: Story) -> object:
    return changes.cancel(account=story.account, actor="owner", now=story.now)


def assert_once(story: Story, *, reported: int, moved: int, calls_minor: int) -> None:
    """One upgrade: applied, paid once, each unit at Stripe once, the period cut once."""
    change = PlanChange.objects.get(account_id=story.acme.tenant.pk)
    assert change.state == State.APPLIED, change.failure
    assert story.account.plan_version == change.to_version
    assert story.accepted == reported
    assert len(story.invoices()) == 1
    assert story.invoiced()[1] == calls_minor
    rows = Quota.objects.filter(tenant=story.acme.tenant, used__gt=0).order_by("period_start")
    assert [row.used for row in rows] == [reported, moved][: 2 if moved else 1]
    assert story.account.period_start == change.cut_at
    books(story.acme.tenant.id).assert_balanced()


def each_point(request: pytest.FixtureRequest, total: int) -> range:
    assert total > 20
    return range(FIRST, total + 1, 1 if request.config.getoption("--long") else EVERY)


@pytest.fixture
def simulator(settings: Any, db: None) -> Iterator[Any]:
    with simulated_stripe(settings) as made:
        yield made


def begun(simulator: Any, make_tenant: MakeTenant) -> Story:
    story = subscribed(simulator, make_tenant, since=AGE)
    story.record(13)
    return story


def test_an_upgrade_on_request(simulator: Any, make_tenant: MakeTenant, request: pytest.FixtureRequest) -> None:
    counted = Points()
    live(begun(simulator, make_tenant), upgrade, counted)
    for number in each_point(request, counted.passed):
        story = begun(simulator, make_tenant)
        live(story, upgrade, Points(number))
        assert_once(story, reported=13, moved=0, calls_minor=3_00)


def test_an_automatic_upgrade(simulator: Any, make_tenant: MakeTenant, request: pytest.FixtureRequest) -> None:
    def beyond() -> Story:
        story = subscribed(simulator, make_tenant, since=AGE)
        story.record(10, at=story.now - timedelta(minutes=5))
        story.record(40)
        return story

    counted = Points()
    live(beyond(), automatic, counted)
    for number in each_point(request, counted.passed):
        story = beyond()
        live(story, automatic, Points(number))
        assert_once(story, reported=10, moved=40, calls_minor=0)
        assert story.consent.end == "used"


def test_a_first_subscription_by_itself(
    simulator: Any, make_tenant: MakeTenant, request: pytest.FixtureRequest
) -> None:
    subscribed(simulator, make_tenant, since=AGE)  # makes the catalogue

    def free() -> Story:
        now = Story(simulator, None).now  # type: ignore[arg-type]
        globex = make_tenant("Globex", included=3, anchor=now - timedelta(days=3))
        customer(globex)
        story = Story(simulator, globex)
        story.record(5)
        return story

    counted = Points()
    live(free(), automatic, counted)
    for number in each_point(request, counted.passed):
        story = free()
        live(story, automatic, Points(number))
        assert story.change.state == State.APPLIED, story.change.failure
        mine = [one for one in simulator.subscriptions if one["customer"] == story.customer_id]
        paid = [one for one in simulator.invoices if one["customer"] == story.customer_id]
        assert (len(mine), [one["total"] for one in paid]) == (1, [19_00])


def test_a_cancellation(simulator: Any, make_tenant: MakeTenant, request: pytest.FixtureRequest) -> None:
    counted = Points()
    live(begun(simulator, make_tenant), cancel, counted)
    for number in each_point(request, counted.passed):
        story = begun(simulator, make_tenant)
        live(story, cancel, Points(number))
        assert story.account.cancels_at == story.account.period_end


FAULTS = ("drop_before", "drop_after", "error_500_before", "error_500_after", "rate_limit_429", "garbage")


@pytest.mark.parametrize("kind", FAULTS)
def test_stripe_fails_at_each_request(simulator: Any, make_tenant: MakeTenant, kind: str) -> None:
    story = begun(simulator, make_tenant)
    for method, path in (
        ("POST", "/v1/billing/meter_events"), ("GET", "/v1/billing/meters"), ("POST", "/v1/subscriptions"),
        ("GET", "/v1/subscriptions"), ("GET", "/v1/invoices"),
    ):  # fmt: skip
        simulator.faults.add(kind, method=method, path=path, count=2)
    live(story, upgrade, Points())
    assert_once(story, reported=13, moved=0, calls_minor=3_00)
