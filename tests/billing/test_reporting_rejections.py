"""What Stripe rejects, at once or afterwards: the window is reopened when the cause is gone, or set aside with an alert."""

import logging
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest
from stripe.events import V1BillingMeterErrorReportTriggeredEvent as ErrorReport

from billing import rejections, reporting, stripe_api
from billing.models import StripePrices, UsageReport
from sandbox.stripe_simulator.thin_events import MAX_SAMPLES
from tenants.models import AuditEntry, Notice
from tests.billing.plan_story import METER, Story, subscribed
from tests.billing.usage_story import HOUR, beat, kept, ledger, months_ago, sent, use, whole_hour
from tests.conftest import MakeTenant

__all__ = ["kept"]
State = UsageReport.State
MENDED = ("meter_event_customer_not_found", "archived_meter", "no_meter", "timestamp_in_future")
HOPELESS = (
    "meter_event_invalid_value", "meter_event_no_customer_defined", "meter_event_value_too_many_digits",
    "timestamp_too_far_in_past", "meter_event_dimension_count_too_high", "missing_dimension_payload_keys", "a_code_of_tomorrow",
)  # fmt: skip


@pytest.fixture
def story(kept: None, settings: Any, db: None, make_tenant: MakeTenant) -> Iterator[Story]:
    with months_ago(settings) as simulator:
        yield subscribed(simulator, make_tenant)


def send_rejected(story: Story, code: str) -> None:
    """Seven units were taken with 200, and the thin event about them has come."""
    story.simulator.faults.add("reject", event=METER, code=code)
    use(story, 7, at=story.now - 2 * HOUR)
    reporting.make_due(now=story.now)
    reporting.send_due(now=story.now)
    story.move()
    hear(story)


def hear(story: Story) -> None:
    """What the webhooks of the thin events lead to, those that came before among them."""
    for event in story.simulator.objects("v2.core.event"):
        rejections.record(event_id=event["id"])


def outcome(story: Story) -> list[tuple[int, int, str]]:
    return [(revision, quantity, state) for _, revision, quantity, state in sent(story)]


def test_each_code_that_stripe_knows_is_tried_here() -> None:
    hints = get_type_hints(ErrorReport.V1BillingMeterErrorReportTriggeredEventData.Reason.ErrorType)
    known = {one for part in get_args(hints["code"]) for one in get_args(part)}
    assert len(known) >= 10
    assert known <= {*MENDED, *HOPELESS}


@pytest.mark.parametrize("code", MENDED)
def test_once_the_cause_is_gone_another_revision_carries_the_units(
    story: Story, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    send_rejected(story, code)
    assert outcome(story) == [(1, 7, State.REJECTED)]
    assert code in caplog.text
    beat(story)
    assert outcome(story) == [(1, 7, State.REJECTED), (2, 7, State.CONFIRMED)]
    assert story.accepted == 7


@pytest.mark.parametrize("code", HOPELESS)
def test_what_cannot_be_mended_is_set_aside_with_an_alert(
    story: Story, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    send_rejected(story, code)
    beat(story, times=2)
    assert outcome(story) == [(1, 7, State.SET_ASIDE)]
    assert "is set aside" in caplog.text
    assert AuditEntry.objects.filter(tenant=story.acme.tenant, action="usage.set_aside").count() == 1
    notice = Notice.objects.get(tenant=story.acme.tenant, kind="usage.set_aside")
    assert notice.title == "7 calls are not on your invoice yet"
    assert rejections.reopen(report=UsageReport.objects.get(account=story.account), now=story.now)  # a person decided
    beat(story)
    assert outcome(story) == [(1, 7, State.REJECTED), (2, 7, State.CONFIRMED)]


def test_it_waits_while_the_cause_lasts_and_is_set_aside_after_a_day(story: Story) -> None:
    client, meter_id = stripe_api.client(), StripePrices.objects.exclude(meter_id="")[0].meter_id
    use(story, 7, at=story.now - 2 * HOUR)
    client.v1.billing.meters.deactivate(meter_id)
    beat(story, times=2)
    assert outcome(story) == [(1, 7, State.REJECTED)]  # refused at once
    client.v1.billing.meters.reactivate(meter_id)
    beat(story)
    assert outcome(story) == [(1, 7, State.REJECTED), (2, 7, State.CONFIRMED)]
    client.v1.billing.meters.deactivate(meter_id)
    use(story, 2)
    story.move(2 * HOUR)
    beat(story)
    story.move(25 * HOUR)
    beat(story)
    assert outcome(story)[2:] == [(1, 2, State.SET_ASIDE)]


def test_a_window_that_is_rejected_again_and_again_is_set_aside(story: Story) -> None:
    for _ in range(rejections.MOST_REJECTIONS):
        story.simulator.faults.add("reject", event=METER)
    use(story, 7, at=story.now - 2 * HOUR)
    for _ in range(rejections.MOST_REJECTIONS + 1):
        reporting.make_due(now=story.now)
        reporting.send_due(now=story.now)
        story.move()
        hear(story)
    assert [state for *_, state in outcome(story)] == [State.REJECTED] * 4 + [State.SET_ASIDE]
    assert story.accepted == 0


def test_what_was_confirmed_stays_so_whatever_an_event_says(story: Story, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    use(story, 7, at=story.now - 2 * HOUR)
    beat(story)
    rejections.reject(report=UsageReport.objects.get(account=story.account), code="no_meter", message="late news")
    assert outcome(story) == [(1, 7, State.CONFIRMED)]


def test_those_that_stripe_does_not_name_are_found_missing_after_a_day(
    story: Story, caplog: pytest.LogCaptureFixture
) -> None:
    """Of many events rejected for one reason its message names a few."""
    hour, count = whole_hour(story), 14
    story.simulator.faults.add("reject", event=METER, count=count)
    for number in range(count):
        use(story, number + 1, at=hour - (number + 1) * HOUR)
    reporting.make_due(now=story.now)
    reporting.send_due(now=story.now)
    story.move()
    hear(story)
    assert f"Stripe rejected {count} meter event(s)" in caplog.text
    beat(story)
    assert [state for *_, state in outcome(story)].count(State.DELIVERED) == count - MAX_SAMPLES
    story.move(HOUR)
    beat(story, times=2)
    assert story.accepted < sum(ledger(story))  # nobody knows yet: a summary may be late
    story.move(24 * HOUR)
    beat(story, times=3)
    assert story.accepted == sum(ledger(story)) == count * (count + 1) // 2
    assert {state for *_, state in outcome(story)} == {State.CONFIRMED, State.REJECTED}
    assert "has not counted usage reports" in caplog.text
