"""Reconciliation of closed periods: what came late, what an invoice missed, and periods whose calls are rated here."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing import reconcile
from billing.models import Charge, Drift
from billing.reconcile import Result
from tests.billing.beats import kinds, reconciled
from tests.billing.plan_story import Story, subscribed
from tests.billing.usage_story import beat, finish, kept, months_ago, periods_of, renew, use
from tests.conftest import MakeTenant

__all__ = ["kept"]
HOUR = timedelta(hours=1)
Start = Callable[..., Story]


@pytest.fixture
def closed(kept: None, settings: Any, db: None, make_tenant: MakeTenant) -> Any:
    """A month of twelve calls whose invoice is final: closed(), or closed(BILL_USAGE_BY="invoice_items")."""
    opened = []

    def start(**billing: Any) -> Story:
        settings.BILLING = {**settings.BILLING, **billing}
        context = months_ago(settings)
        opened.append(context)
        story = subscribed(context.__enter__(), make_tenant)
        use(story, 12, at=story.now - 5 * HOUR)
        beat(story, times=2)
        renew(story)
        finish(story)
        story.move(5 * HOUR)
        assert periods_of(story)[0].state == "final"
        return story

    yield start
    for context in opened:
        context.__exit__(None, None, None)


def reconciled_today(story: Story) -> Result:
    """By the wall clock, which says when calls were recorded."""
    return reconcile.run(now=datetime.now(UTC), tenant=story.acme.tenant)


def test_calls_after_the_final_invoice_are_late_before_and_after_they_are_written_off(closed: Start) -> None:
    story = closed()
    assert kinds(reconciled_today(story)) == []
    period = periods_of(story)[0]
    use(story, 3, at=period.end - HOUR)
    (waits,) = reconciled_today(story).found
    beat(story)
    (done,) = reconciled_today(story).found
    assert kinds(reconciled(story)) == [("late", 3, "")]
    assert {(one.difference.kind.value, one.difference.units) for one in (waits, done)} == {("late", 3)}
    assert waits.difference.mend != done.difference.mend
    drift = Drift.objects.get(account=story.account, period_start=period.start)
    assert (drift.ledger, drift.reported, drift.written_off, drift.stripe, drift.invoiced) == (15, 12, 3, 12, 12)
    assert not reconcile.is_stopped(story.acme.tenant.pk)


def test_a_period_that_is_rated_here_is_held_against_the_lines_of_its_invoice(closed: Start) -> None:
    story = closed(BILL_USAGE_BY="invoice_items")
    result = reconciled(story)
    assert (result.checked, kinds(result), result.unread) == (1, [], [])
    charge = Charge.objects.get(account=story.account, kind="overage")
    assert charge.units == 2
    Charge.objects.filter(pk=charge.pk).update(amount_minor=charge.amount_minor + 1)
    assert kinds(reconciled(story)) == [("unexplained", -2, "invoice")]
    Charge.objects.filter(pk=charge.pk).update(amount_minor=charge.amount_minor)
    assert kinds(reconciled(story)) == []
    again = Charge.objects.get(pk=charge.pk)
    again.pk, again.number = uuid.uuid4(), 2
    again.save(force_insert=True)  # said to be added, and on no invoice
    assert kinds(reconciled(story)) == [("unexplained", -2, "invoice")]
    assert reconcile.is_stopped(story.acme.tenant.pk)


def test_a_period_of_whose_rating_a_call_is_missing_is_found(closed: Start) -> None:
    story = closed(BILL_USAGE_BY="invoice_items")
    period = periods_of(story)[0]
    period.billed_units = 11
    period.save(update_fields=["billed_units"])
    assert [kind for kind, _, _ in kinds(reconciled(story))] == ["unexplained"]
