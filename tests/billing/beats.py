"""What beat does every minute for usage, in this thread, and how to break a side past the product's own code."""

from datetime import datetime, timedelta
from typing import Any

from django.db import connection

from billing import charges, ended_periods, last_invoices, late_usage, reconcile, reporting, stripe_api
from billing.models import UsageReport
from billing.reconcile import Result
from tests.billing.plan_story import METER, Story

ADD_TO_HOUR = """
UPDATE metering_usage_hour SET units = units + %s WHERE (tableoid, ctid) = (
    SELECT tableoid, ctid FROM metering_usage_hour WHERE tenant_id = %s AND period_start = %s AND units > 0 ORDER BY hour LIMIT 1)
"""


def beat(now: datetime) -> None:
    """One round of the tasks that bring usage to Stripe and onto invoices."""
    reporting.make_due(now=now)
    reporting.send_due(now=now)
    reporting.confirm_due(now=now)
    ended_periods.bill_due(now=now)
    late_usage.settle_due(now=now)
    last_invoices.gather_due(now=now)
    charges.add_due(now=now)


def settle(story: Story, *, rounds: int = 3) -> None:
    """A few rounds, some minutes apart: afterwards everything is at rest."""
    for _ in range(rounds):
        beat(story.now)
        story.move(timedelta(minutes=6))


def reconciled(story: Story, *, back: timedelta = reconcile.YEAR) -> Result:
    return reconcile.run(now=story.now, tenant=story.acme.tenant, back=back)


def kinds(result: Result) -> list[tuple[str, int, str]]:
    """Class, units and side of each difference."""
    return [(one.difference.kind.value, one.difference.units, one.difference.side) for one in result.found]


def add_to_usage_hours(story: Story, units: int, *, period_start: datetime) -> None:
    """The rollup says so many more than the call log: a bug, or somebody with a database console."""
    with connection.cursor() as cursor:
        cursor.execute(ADD_TO_HOUR, [units, story.acme.tenant.pk, period_start])
        assert cursor.rowcount == 1


def add_to_reports(story: Story, units: int, *, period_start: datetime) -> None:
    """A report says another quantity than was sent."""
    report = UsageReport.objects.filter(account=story.account, period_start=period_start, state="confirmed")[0]
    UsageReport.objects.filter(pk=report.pk).update(quantity=report.quantity + units)


def add_to_stripe(story: Story, units: int, *, at: datetime) -> None:
    """Somebody else sends a meter event with our key."""
    payload: Any = {"stripe_customer_id": story.customer_id, "value": str(units)}
    stripe_api.client().v1.billing.meter_events.create(
        {"event_name": METER, "timestamp": int(at.timestamp()), "payload": payload}
    )
    story.move(timedelta(seconds=5))
