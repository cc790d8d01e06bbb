"""After the invoice is final: late calls are written off by name or carried as a dated item, corrections are credits."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from billing import changes, charges, late_usage
from billing.models import Account, Charge
from tenants.models import AuditEntry
from tests.billing.plan_story import Story, subscribed
from tests.billing.usage_story import (
    HOUR,
    beat,
    correct,
    cycle_invoices,
    finish,
    first_period,
    follow,
    kept,
    ledger,
    months_ago,
    named,
    periods_of,
    renew,
    use,
)
from tests.conftest import MakeTenant

__all__ = ["kept"]
State = Charge.State


@pytest.fixture
def story(kept: None, settings: Any, db: None, make_tenant: MakeTenant) -> Iterator[Story]:
    """acme has used 14 of its ten calls in the first month, whose invoice is final."""
    with months_ago(settings) as simulator:
        acme = subscribed(simulator, make_tenant)
        use(acme, 14, at=acme.now - HOUR)
        beat(acme)
        renew(acme)
        finish(acme)
        assert first_period(acme).billed_units == 14
        yield acme


def late(story: Story, units: int) -> None:
    use(story, units, at=first_period(story).end - timedelta(minutes=1))
    beat(story, times=2)


def afterwards(story: Story) -> list[tuple[str, int, int, str]]:
    rows = Charge.objects.filter(account=story.account, kind__in=late_usage.AFTERWARDS).order_by("created_at")
    return [(row.kind, row.units, row.amount_minor, row.state) for row in rows]


def next_invoice(story: Story) -> dict[str, Any]:
    renew(story)
    finish(story)
    return cycle_invoices(story)[1]


def test_late_calls_are_written_off_by_name(story: Story) -> None:
    late(story, 3)
    assert afterwards(story) == [("late", 3, 300, State.WRITTEN_OFF)]
    assert story.accepted == 14  # never a meter event
    assert AuditEntry.objects.filter(tenant=story.acme.tenant, action="usage.late").count() == 1
    late(story, 2)
    beat(story, times=2)
    assert afterwards(story)[1:] == [("late", 2, 200, State.WRITTEN_OFF)]
    assert ledger(story)[0] == 19


def test_or_they_are_a_dated_item_of_the_next_invoice(story: Story, settings: Any) -> None:
    settings.BILLING = {**settings.BILLING, "LATE_USAGE": "next_invoice"}
    late(story, 3)
    assert afterwards(story) == [("late", 3, 300, State.ADDED)]
    period = first_period(story)
    says = f"3 calls that were counted late, {period.start:%d %b %Y} to {period.end:%d %b %Y}"
    assert named(next_invoice(story)) == [(says, 300)]


def test_a_correction_of_a_closed_period_is_a_credit_with_its_derivation(story: Story) -> None:
    correct(story, 8, at=first_period(story).start)
    beat(story, times=2)
    assert afterwards(story) == [("correction", -6, -400, State.ADDED)]
    row = Charge.objects.get(kind="correction")
    assert {name: row.derivation[name] for name in ("units_before", "units_after", "minor_before", "minor_after")} == {
        "units_before": 14, "units_after": 8, "minor_before": 1900 + 400, "minor_after": 1900,
    }  # fmt: skip
    invoice = next_invoice(story)
    assert [amount for _, amount in named(invoice)] == [-400]
    assert invoice["total"] == 1900 - 400


def test_what_makes_no_difference_in_money_is_on_record_all_the_same(story: Story) -> None:
    correct(story, 8, at=first_period(story).start)
    beat(story)
    late(story, 1)
    assert afterwards(story)[1:] == [("late", 1, 0, State.NOTHING)]


def test_a_credit_after_the_subscription_has_ended_is_a_credit_note(story: Story) -> None:
    changes.cancel(account=story.account, actor="owner", now=story.now)
    end = story.account.period_end
    assert end is not None
    story.simulator.clock.to(int(end.timestamp()))
    story.move()
    follow(story)
    finish(story)
    correct(story, 8, at=first_period(story).start)
    story.simulator.faults.add("drop_after", method="POST", path="/v1/credit_notes")
    beat(story, times=2)
    assert afterwards(story) == [("correction", -6, -400, State.ADDED)]
    notes = story.simulator.objects("credit_note").all()
    assert [(note["invoice"], note["amount"]) for note in notes] == [(first_period(story).invoice_id, 400)]
    late(story, 6)  # nobody to bill them to
    assert afterwards(story)[1:] == [("late", 6, 400, State.WRITTEN_OFF)]


@pytest.mark.parametrize("fault", ["drop_before", "drop_after", "error_500_after", "garbage"])
def test_an_item_is_added_once_whatever_answer_was_lost(story: Story, settings: Any, fault: str) -> None:
    settings.BILLING = {**settings.BILLING, "LATE_USAGE": "next_invoice"}
    story.simulator.faults.add(fault, method="POST", path="/v1/invoiceitems", count=2)
    late(story, 3)
    story.move(timedelta(hours=26))  # the idempotency key is forgotten meanwhile
    beat(story, times=3)
    assert afterwards(story) == [("late", 3, 300, State.ADDED)]
    assert [amount for _, amount in named(next_invoice(story))] == [300]


def test_the_limit_in_money_is_kept_by_a_named_line(story: Story) -> None:
    Account.objects.filter(pk=story.account.pk).update(hard_limit_minor=250)
    use(story, 16, at=story.now - timedelta(seconds=1))
    story.move(2 * HOUR)
    beat(story)
    invoice = next_invoice(story)
    assert [amount for _, amount in named(invoice)] == [250 - 600]
    assert invoice["total"] == 1900 + 250


def test_rating_a_draft_again_charges_nothing_twice(story: Story) -> None:
    Account.objects.filter(pk=story.account.pk).update(hard_limit_minor=250)
    use(story, 16, at=story.now - timedelta(seconds=1))
    renew(story)
    for more in (0, 5, 0):
        if more:
            use(story, more, at=periods_of(story)[1].end - timedelta(minutes=1))
        story.move(timedelta(minutes=6))
        beat(story, times=2)
    finish(story)
    invoice = cycle_invoices(story)[1]
    assert [amount for _, amount in named(invoice)] == [250 - 600, -500]
    assert invoice["total"] == 1900 + 250
    charges.add_due(now=story.now)
