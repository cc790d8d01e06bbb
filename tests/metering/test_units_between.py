"""The units of any stretch of a period, to the instant: what is settled with Stripe."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metering import adjustments, boundaries, partitions, usage
from metering.database import conninfo
from metering.ledger import commit
from metering.models import Call
from metering.periods import Period
from metering.recorder import Batch, call_id
from tests.conftest import MakeTenant
from tests.metering.test_recovery import entry

pytestmark = pytest.mark.usefixtures("committed")
NOW = datetime.now(UTC).replace(minute=17, second=3, microsecond=250)
HOURS = 5
SPAN = HOURS * 3600 * 10**6


@pytest.fixture(autouse=True)
def _days(committed: None) -> None:
    partitions.ensure(calls_from=NOW - timedelta(days=3), hours_from=NOW - timedelta(days=70), now=NOW)


@pytest.fixture
def database(committed: None) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(conninfo(), autocommit=True) as opened:
        yield opened


# Whole hours, the period's own ends and anything between: where the ways of counting meet.
INSTANTS = st.one_of(
    st.integers(0, SPAN), st.integers(0, HOURS).map(lambda hour: hour * 3600 * 10**6), st.sampled_from([0, SPAN])
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.lists(st.tuples(INSTANTS, st.integers(1, 9)), max_size=30),
    corrections=st.lists(st.tuples(INSTANTS, st.integers(1, 9)), max_size=4), void=st.booleans(),
    first=INSTANTS, second=INSTANTS, boundary=INSTANTS,
)  # fmt: skip
def test_any_stretch_is_the_sum_of_its_calls(
    make_tenant: MakeTenant,
    database: psycopg.Connection[tuple[object, ...]],
    calls: list[tuple[int, int]],
    corrections: list[tuple[int, int]],
    void: bool,
    first: int,
    second: int,
    boundary: int,
) -> None:
    begin = NOW.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS + 1)
    acme = make_tenant(plan="scale", anchor=begin - timedelta(days=3), now=NOW)

    def at(offset: int) -> datetime:
        return begin + timedelta(microseconds=offset)

    (start, end), cut = sorted((at(first), at(second))), at(boundary)
    old = Period(begin - timedelta(days=3), begin + timedelta(days=20))
    entries = [
        entry(
            acme, id=call_id(at(offset).timestamp()), occurred_at=at(offset).timestamp(), units=units,
            period_start=old.start.timestamp(), period_end=old.end.timestamp(),
        )
        for offset, units in calls
    ]  # fmt: skip
    commit(database, Batch(tuple(entries), {}))
    for offset, units in corrections:
        change = adjustments.planned_backfill(
            tenant=acme.tenant,
            key=acme.key,
            capability="storage",
            occurred_at=at(offset),
            calls=1,
            units=units,
            now=NOW,
        )
        adjustments.apply(change, actor="test", reason="lost")
    voided = Call.objects.filter(tenant=acme.tenant).first() if void else None
    if voided is not None:
        adjustments.apply(adjustments.planned_void(tenant=acme.tenant, call_id=voided.id), actor="test", reason="twice")
    boundaries.learn(tenant_id=acme.tenant.id, period=Period(cut, cut + timedelta(days=30)), now=NOW)
    found = [*calls, *corrections]
    if voided is not None:
        offset = (voided.occurred_at - begin) // timedelta(microseconds=1)
        found.append((offset, -voided.units))
    with connection.cursor() as cursor:
        cursor.execute("SELECT period_start FROM metering_quota WHERE tenant_id = %s", [acme.tenant.id])
        starts = [row[0] for row in cursor.fetchall()]
    counted = {
        period: usage.units_between(tenant_id=acme.tenant.id, period_start=period, start=start, end=end)
        for period in starts
    }
    after = sum(units for offset, units in found if start <= at(offset) < end and at(offset) >= cut)
    before = sum(units for offset, units in found if start <= at(offset) < end and at(offset) < cut)
    assert counted[cut] == after
    assert sum(counted.values()) == before + after


def test_a_cut_hour_that_is_no_longer_in_the_log_is_refused(
    make_tenant: MakeTenant, database: psycopg.Connection[tuple[object, ...]]
) -> None:
    old = datetime(2026, 3, 5, 7, 30, tzinfo=UTC)
    anchor = old.replace(day=1, hour=0, minute=0)
    acme = make_tenant(plan="scale", anchor=anchor, now=NOW)
    period = Period(anchor, anchor.replace(month=4))
    bounds = {"period_start": period.start.timestamp(), "period_end": period.end.timestamp()}
    commit(database, Batch((entry(acme, occurred_at=old.timestamp(), units=5, **bounds),), {}))

    def units(start: datetime, end: datetime) -> int:
        return usage.units_between(tenant_id=acme.tenant.id, period_start=period.start, start=start, end=end)

    hour = old.replace(minute=0)
    assert units(hour, hour + timedelta(hours=1)) == 5
    assert units(period.start, period.end) == 5
    assert units(period.start, hour - timedelta(minutes=1)) == 0  # nothing was used in the hour that is cut
    with pytest.raises(usage.CutHourForgotten):
        units(hour, old)
    with pytest.raises(usage.CutHourForgotten):
        units(old, period.end)
    assert units(old, old) == 0
