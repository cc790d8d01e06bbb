"""acme has been on Launch for weeks; its months end when the clock is told so, and the beat comes by when it is asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections
from pytest_django import DjangoDbBlocker

from billing import billed_periods, charges, ended_periods, last_invoices, late_usage, reporting, subscriptions
from billing.models import BilledPeriod, UsageReport
from metering import adjustments, partitions, usage
from metering.ledger import commit
from metering.models import Call
from metering.recorder import Batch, call_id
from metering.testing import TestsDatabase
from sandbox.stripe_simulator import StripeSimulator
from tests.billing.plan_story import METER, SUBSCRIBED_FOR, Story, simulated_stripe
from tests.metering.test_recovery import entry

State = UsageReport.State
BEHIND = timedelta(days=75)  # so that two months are over by the wall clock, too
HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
FAULTS = ("drop_before", "drop_after", "error_500_before", "error_500_after", "rate_limit_429", "garbage")


@pytest.fixture(scope="module")
def kept(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The call log goes back far enough, for all tests of a module: making that many partitions takes a while."""
    with django_db_blocker.unblock():
        begun = datetime.now(UTC) - BEHIND - timedelta(days=1)
        made = partitions.ensure(calls_from=begun, hours_from=begun - timedelta(days=40), now=datetime.now(UTC))
        connections.close_all()
    yield
    with django_db_blocker.unblock(), connections["default"].cursor() as cursor:
        for name in made:
            cursor.execute(f"DROP TABLE {name}")
    with django_db_blocker.unblock():
        connections.close_all()


@contextmanager
def months_ago(settings: Any) -> Iterator[StripeSimulator]:
    """A Stripe of two months ago; whoever sends works in this test's transaction."""
    settings.BILLING = {**settings.BILLING, "REPORT_SENDERS": 1}
    with simulated_stripe(settings, behind=BEHIND - SUBSCRIBED_FOR) as simulator:
        yield simulator


def beat(story: Story, *, times: int = 1, apart: timedelta = timedelta(seconds=5)) -> None:
    """Every task of the timetable has run, so many times."""
    for _ in range(times):
        reporting.make_due(now=story.now)
        reporting.send_due(now=story.now)
        ended_periods.bill_due(now=story.now)
        late_usage.settle_due(now=story.now)
        last_invoices.gather_due(now=story.now)
        charges.add_due(now=story.now)
        story.move(apart)
        reporting.confirm_due(now=story.now)


def follow(story: Story) -> None:
    """The account is as Stripe says now, as after an event."""
    subscriptions.sync(account_id=story.acme.tenant.pk, now=story.now)


def use(story: Story, units: int, *, at: datetime | None = None) -> None:
    """One call of so many units is in the ledger, in the period that holds its instant."""
    instant = at or story.now - timedelta(seconds=1)
    period = usage.current_period(allowance=story.account.tenant.allowance, now=instant)
    one = entry(
        story.acme, id=call_id(instant.timestamp()), occurred_at=instant.timestamp(), units=units,
        period_start=period.start.timestamp(), period_end=period.end.timestamp(),
    )  # fmt: skip
    with TestsDatabase().connection() as connection:
        commit(connection, Batch((one,), {}))


def correct(story: Story, units: int, *, at: datetime) -> None:
    """The first call of the period that holds `at` costs so many units after all."""
    period = usage.current_period(allowance=story.account.tenant.allowance, now=at)
    found = Call.objects.filter(tenant=story.acme.tenant, occurred_at__gte=period.start, occurred_at__lt=period.end)
    call = found.order_by("occurred_at")[0]
    planned = adjustments.planned_amend(tenant=story.acme.tenant, call_id=call.id, units=units)
    adjustments.apply(planned, actor="test", reason="counted wrongly")


def renew(story: Story) -> None:
    """The period has ended a few seconds ago, its invoice is a draft, and the account has heard of it."""
    story.simulator.clock.to_next_invoice()
    story.move(timedelta(seconds=3))
    follow(story)


def finish(story: Story) -> None:
    """The draft's hour is over, and the beat has seen it."""
    beat(story, times=3)
    story.move(HOUR + timedelta(minutes=5))
    follow(story)
    beat(story, times=2)


def periods_of(story: Story) -> list[BilledPeriod]:
    return list(BilledPeriod.objects.filter(account=story.account).order_by("start"))


def first_period(story: Story) -> BilledPeriod:
    return periods_of(story)[0]


def reports(story: Story) -> list[UsageReport]:
    found = UsageReport.objects.filter(account=story.account)
    return list(found.order_by("window_start", "window_end", "revision"))


def sent(story: Story) -> list[tuple[datetime, int, int, str]]:
    return [(one.window_start, one.revision, one.quantity, one.state) for one in reports(story)]


def cycle_invoices(story: Story) -> list[dict[str, Any]]:
    """The invoices of renewals, the oldest first."""
    found = [one for one in story.simulator.invoices if one["customer"] == story.customer_id]
    return [one for one in found if one["billing_reason"] == "subscription_cycle"]


def billed(story: Story) -> list[tuple[int, int]]:
    """Units accepted and invoiced of each of Stripe's stretches, the oldest first."""
    found = [one for one in story.simulator.oracle()["periods"] if one["customer"] == story.customer_id]
    return [(one["accepted"], one["invoiced_quantity"]) for one in sorted(found, key=lambda one: one["start"])]


def named(invoice: dict[str, Any]) -> list[tuple[str, int]]:
    """Lines that we put on the invoice."""
    lines = [one for one in invoice["lines"]["data"] if "charge" in (one["metadata"] or {})]
    return [(one["description"], one["amount"]) for one in lines]


def ledger(story: Story) -> list[int]:
    """Units of each billed period, as the ledger has them."""
    return [billed_periods.units(period) for period in periods_of(story)]


def whole_hour(story: Story) -> datetime:
    """The last full hour before now."""
    return datetime.fromtimestamp(story.simulator.clock.now // 3600 * 3600, UTC)


def by_hour(story: Story) -> dict[datetime, int]:
    """Units of each hour in the call log, past the rollup that reports are made from."""
    found: dict[datetime, int] = {}
    for at, units in Call.objects.filter(tenant=story.acme.tenant).values_list("occurred_at", "units"):
        hour = at.replace(minute=0, second=0, microsecond=0)
        found[hour] = found.get(hour, 0) + units
    return found


def assert_each_hour_is_at_stripe(story: Story) -> None:
    """Not only the total: nothing that one hour lost is doubled in another."""
    for hour, units in by_hour(story).items():
        start = int(hour.timestamp())
        assert story.simulator.accepted(story.customer_id, METER, start=start, end=start + 3600) == units
