"""A change of plan on request: what is told before, what happens to calls and money, what stands in its way."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from billing import accounts, catalogue, changes, subscriptions
from billing.models import PaymentState, PlanChange
from metering.models import Policy, Quota
from tenants import directory
from tenants.models import Notice
from tests.billing.plan_story import Story, prices_of, simulated_stripe, subscribed, terms_of
from tests.conftest import MakeTenant
from tests.metering.ledger import books

Kind, State = PlanChange.Kind, PlanChange.State


@pytest.fixture
def story(settings: Any, db: None, make_tenant: MakeTenant) -> Iterator[Story]:
    with simulated_stripe(settings) as simulator:
        yield subscribed(simulator, make_tenant)


def scale(story: Story) -> Any:
    return accounts.public_version(plan_code="scale")


def used_since(story: Story, cut_at: datetime | None) -> int:
    """Units of the period that begins with the cut."""
    assert cut_at is not None
    return Quota.objects.get(tenant=story.acme.tenant, period_start=cut_at).used


def test_an_upgrade_ends_the_period_and_begins_another(story: Story) -> None:
    story.record(14)
    began, ends = story.account.period_start, story.account.period_end
    told = changes.preview(account=story.account, version=scale(story), now=story.now)
    assert (told.kind, told.usage_minor, told.next_fee_minor, told.conflicts) == (Kind.UPGRADE, 4_00, 49_00, ())
    assert 0 < told.due_minor - told.usage_minor < 30_00
    change = changes.request(
        account=story.account, version=scale(story), actor="owner@acme.example", now=story.now,
        previewed_minor=told.due_minor, proration_at=told.at,
    )  # fmt: skip
    assert change.state == State.SETTLING
    cut_at = change.cut_at
    assert story.advance().state == State.APPLIED
    fees, calls = story.invoiced()
    assert (fees + calls, calls) == (told.due_minor, 4_00)
    assert story.account.plan_version == scale(story)
    assert (story.account.period_start, story.account.period_end) == (cut_at, ends)
    rows = Quota.objects.filter(tenant=story.acme.tenant, period_start__gte=began).order_by("period_start")
    assert [(row.period_start, row.period_end, row.used, row.included) for row in rows] == [
        (began, cut_at, 14, rows[0].included), (cut_at, ends, 0, 1_000_000),
    ]  # fmt: skip
    assert story.accepted == 14
    assert story.serve(3) == 3
    assert used_since(story, cut_at) == 3
    books(story.acme.tenant.id).assert_balanced()


def test_calls_between_the_cut_and_stripes_answer_belong_to_the_new_terms(story: Story) -> None:
    story.record(4)
    change = changes.request(account=story.account, version=scale(story), actor="owner", now=story.now)
    story.record(2, at=change.cut_at)
    assert story.serve(3) == 3
    assert story.advance().state == State.APPLIED
    assert story.accepted == 4
    assert used_since(story, change.cut_at) == 5
    assert story.invoiced()[1] == 0


def test_a_refused_card_changes_nothing(story: Story) -> None:
    story.record(12)
    story.use_card("declines")
    before = Quota.objects.filter(tenant=story.acme.tenant).values_list("period_start", "period_end", "used")
    expected = list(before)
    changes.request(account=story.account, version=scale(story), actor="owner", now=story.now)
    change = story.advance()
    assert (change.state, story.account.plan_version.plan.code) == (State.FAILED, "launch")
    assert "declined" in change.failure
    assert list(before.all()) == expected
    assert story.invoices() == []
    assert Notice.objects.filter(tenant=story.acme.tenant, kind="plan.change_failed").count() == 1
    story.use_card("works")
    changes.request(account=story.account, version=scale(story), actor="owner", now=story.now)
    assert story.advance().state == State.APPLIED
    assert story.invoiced()[1] == 2_00
    assert story.accepted == 12


def test_a_downgrade_happens_at_the_periods_end(story: Story) -> None:
    cheap = terms_of(story.acme, "launch", fee_minor=900, included=5)
    catalogue.make(now=story.now)
    told = changes.preview(account=story.account, version=cheap, now=story.now)
    assert (told.kind, told.due_minor, told.at) == (Kind.DOWNGRADE, 0, story.account.period_end)
    first = changes.request(account=story.account, version=cheap, actor="owner", now=story.now)
    assert first.state == State.APPLIED
    assert (story.account.next_version, story.account.plan_version.included) == (cheap, 10)
    assert changes.request(account=story.account, version=cheap, actor="owner", now=story.now) == first
    with pytest.raises(changes.ChangeIsScheduled):
        changes.request(account=story.account, version=scale(story), actor="owner", now=story.now)
    ends = story.account.period_end
    assert ends is not None
    story.move(ends - story.now + timedelta(hours=2))
    subscriptions.sync(account_id=story.account.pk, now=story.now)
    assert (story.account.plan_version, story.account.period_start) == (cheap, ends)


def test_a_scheduled_change_is_taken_back(story: Story) -> None:
    cheap = terms_of(story.acme, "launch", fee_minor=900, included=5)
    catalogue.make(now=story.now)
    with pytest.raises(changes.NothingToTakeBack):
        changes.reactivate(account=story.account, actor="owner", now=story.now)
    changes.request(account=story.account, version=cheap, actor="owner", now=story.now)
    assert changes.reactivate(account=story.account, actor="owner", now=story.now).state == State.APPLIED
    assert story.account.next_version is None
    assert changes.cancel(account=story.account, actor="owner", now=story.now).state == State.APPLIED
    assert story.account.cancels_at == story.account.period_end
    told = changes.preview(account=story.account, version=scale(story), now=story.now)
    assert "ends on" in told.conflicts[0]
    assert changes.reactivate(account=story.account, actor="owner", now=story.now).state == State.APPLIED
    assert (story.account.cancels_at, story.account.state) == (None, PaymentState.ACTIVE)


def test_cancelling_a_plan_whose_downgrade_is_scheduled(story: Story) -> None:
    cheap = terms_of(story.acme, "launch", fee_minor=900, included=5)
    catalogue.make(now=story.now)
    changes.request(account=story.account, version=cheap, actor="owner", now=story.now)
    changes.cancel(account=story.account, actor="owner", now=story.now)
    assert (story.account.next_version, story.account.cancels_at) == (None, story.account.period_end)


def test_projects_that_the_plan_has_no_room_for_are_named(story: Story) -> None:
    small = terms_of(story.acme, "launch", fee_minor=900, max_projects=1)
    catalogue.make(now=story.now)
    directory.add_project(tenant=story.account.tenant, name="Skunkworks", actor="test")
    told = changes.preview(account=story.account, version=small, now=story.now)
    assert "Default, Skunkworks" in told.conflicts[0]
    with pytest.raises(changes.TooManyProjects) as refused:
        changes.request(account=story.account, version=small, actor="owner", now=story.now)
    assert refused.value.names == ("Default", "Skunkworks")
    free = accounts.public_version(plan_code="free")
    told = changes.preview(account=story.account, version=free, now=story.now)
    assert (told.kind, told.conflicts) == (Kind.CANCEL, ())
    assert "2 projects stay" in told.explanation


def test_a_preview_holds_for_a_quarter_of_an_hour(story: Story) -> None:
    told = changes.preview(account=story.account, version=scale(story), now=story.now)
    wanted: dict[str, Any] = {
        "account": story.account,
        "version": scale(story),
        "actor": "owner",
        "proration_at": told.at,
    }
    story.move(timedelta(minutes=14))
    with pytest.raises(changes.PreviewIsStale):
        changes.request(now=story.now, previewed_minor=told.due_minor - 1, **wanted)
    story.move(timedelta(minutes=2))
    with pytest.raises(changes.PreviewIsStale):
        changes.request(now=story.now, previewed_minor=told.due_minor, **wanted)
    assert not PlanChange.objects.filter(account=story.account).exists()


def test_a_second_click_gets_the_same_change(story: Story) -> None:
    one = changes.request(account=story.account, version=scale(story), actor="owner", now=story.now)
    assert changes.request(account=story.account, version=scale(story), actor="owner", now=story.now) == one
    with pytest.raises(changes.ChangeIsOpen):
        changes.cancel(account=story.account, actor="owner", now=story.now)
    with pytest.raises(changes.TooLate):
        changes.undo(change=one, actor="owner", now=story.now)


def test_what_cannot_be_changed(story: Story, make_tenant: MakeTenant, now: datetime) -> None:
    globex, initech = make_tenant("Globex"), make_tenant("Initech")
    with pytest.raises(changes.NotASubscriber):
        changes.request(account=globex.account, version=scale(story), actor="owner", now=now)
    with pytest.raises(changes.SamePlan):
        changes.request(account=story.account, version=story.account.plan_version, actor="owner", now=story.now)
    initechs = terms_of(initech, "scale", included=7)
    with pytest.raises(accounts.NotOffered):
        changes.request(account=story.account, version=initechs, actor="owner", now=story.now)
    type(story.account).objects.filter(pk=story.account.pk).update(
        state=PaymentState.PAST_DUE, past_due_since=story.now
    )
    with pytest.raises(changes.PaymentIsDue):
        changes.request(account=story.account, version=scale(story), actor="owner", now=story.now)
    assert not PlanChange.objects.exists()


def test_usage_that_cannot_be_settled_fails_the_change_in_the_end(story: Story) -> None:
    story.record(3)
    story.simulator.faults.add("rate_limit_429", path="/v1/billing/meter_events", count=10**6)
    changes.request(account=story.account, version=scale(story), actor="owner", now=story.now)
    assert story.advance().state == State.SETTLING
    story.move(timedelta(hours=24))
    change = story.advance()
    assert (change.state, story.account.plan_version.plan.code) == (State.FAILED, "launch")
    assert story.invoices() == []


def test_two_upgrades_in_a_period_make_three_periods(story: Story) -> None:
    story.record(11)
    first = changes.request(account=story.account, version=scale(story), actor="owner", now=story.now)
    story.advance()
    dear = terms_of(story.acme, "enterprise", fee_minor=99_00, included=5_000_000, policy=Policy.RATE)
    catalogue.make(now=story.now)
    story.record(7)
    second = changes.request(account=story.account, version=dear, actor="owner", now=story.now)
    assert story.advance().state == State.APPLIED
    used = Quota.objects.filter(tenant=story.acme.tenant, used__gt=0).order_by("period_start")
    assert [(row.period_end, row.used) for row in used] == [(first.cut_at, 11), (second.cut_at, 7)]
    assert story.accepted == 18
    assert prices_of(dear).usage_price_id
    assert story.account.period_start == second.cut_at
