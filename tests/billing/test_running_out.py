"""When the included calls ran out: the cut of an automatic upgrade."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import upgrades
from metering import adjustments, partitions, usage
from metering.database import conninfo
from metering.ledger import commit
from metering.periods import Period
from metering.recorder import Batch, call_id
from tests.conftest import MakeTenant
from tests.metering.test_recovery import entry

pytestmark = pytest.mark.usefixtures("committed")
NOW = datetime.now(UTC).replace(minute=17, second=3, microsecond=250)
BEGIN = NOW - timedelta(hours=4, minutes=30)


@pytest.fixture(autouse=True)
def _days(committed: None) -> None:
    partitions.ensure(calls_from=NOW - timedelta(days=3), hours_from=NOW - timedelta(days=70), now=NOW)


@pytest.fixture
def database(committed: None) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(conninfo(), autocommit=True) as opened:
        yield opened


SECONDS = st.integers(0, 4 * 3600)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.lists(st.tuples(SECONDS, st.integers(0, 9)), max_size=25),
    backfilled=st.lists(st.tuples(SECONDS, st.integers(1, 9)), max_size=3),
    included=st.integers(0, 60),
)  # fmt: skip
def test_it_is_the_instant_of_the_first_call_beyond(
    make_tenant: MakeTenant,
    database: psycopg.Connection[tuple[object, ...]],
    calls: list[tuple[int, int]],
    backfilled: list[tuple[int, int]],
    included: int,
) -> None:
    acme = make_tenant(plan="launch", included=included, anchor=BEGIN, now=NOW)
    period = usage.current_period(allowance=acme.tenant.allowance, now=NOW)
    entries = [
        entry(
            acme, id=call_id((period.start + timedelta(seconds=second)).timestamp()), units=units,
            occurred_at=(period.start + timedelta(seconds=second)).timestamp(),
            period_start=period.start.timestamp(), period_end=period.end.timestamp(),
        )
        for second, units in calls
    ]  # fmt: skip
    commit(database, Batch(tuple(entries), {}))
    for second, units in backfilled:
        change = adjustments.planned_backfill(
            tenant=acme.tenant, key=acme.key, capability="storage", calls=1, units=units, now=NOW,
            occurred_at=period.start + timedelta(seconds=second),
        )  # fmt: skip
        adjustments.apply(change, actor="test", reason="lost")
    expected = None
    for second in sorted(second for second, _ in [*calls, *backfilled]):
        if sum(units for at, units in [*calls, *backfilled] if at <= second) > included:
            expected = period.start + timedelta(seconds=second)
            break
    found = upgrades.ran_out_at(account=acme.account, period=period)
    assert found == expected
    if found is not None:
        before = usage.units_between(tenant_id=acme.tenant.id, period_start=period.start, start=period.start, end=found)
        assert before <= included


def test_an_unlimited_plan_never_runs_out(make_tenant: MakeTenant) -> None:
    acme = make_tenant(plan="enterprise", now=NOW)
    period = usage.current_period(allowance=acme.tenant.allowance, now=NOW)
    assert upgrades.ran_out_at(account=acme.account, period=period) is None


def test_of_an_hour_that_the_log_has_forgotten_it_is_the_beginning(
    make_tenant: MakeTenant, database: psycopg.Connection[tuple[object, ...]]
) -> None:
    old = datetime(2026, 3, 5, 7, 30, tzinfo=UTC)
    start = old.replace(day=1, hour=0, minute=0)
    acme = make_tenant(plan="launch", included=4, anchor=start, now=NOW)
    bounds = {"period_start": start.timestamp(), "period_end": start.replace(month=4).timestamp()}
    commit(database, Batch((entry(acme, occurred_at=old.timestamp(), units=5, **bounds),), {}))
    period = Period(start, start.replace(month=4))
    assert upgrades.ran_out_at(account=acme.account, period=period) == old.replace(minute=0)
