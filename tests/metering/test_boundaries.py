"""A boundary that is learned late moves what was recorded on its wrong side, and nothing is counted twice or lost."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from django.db import connection
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.onboarding import Onboarded
from metering import allowances, boundaries, engine, invariants, limits, partitions
from metering.database import conninfo
from metering.ledger import commit
from metering.models import Allowance, LimitKind, Policy
from metering.periods import Period
from metering.recorder import Batch
from tests.conftest import MakeTenant
from tests.metering.ledger import books
from tests.metering.test_limit_is_exact import attempt, caller_of
from tests.metering.test_recovery import entry

pytestmark = pytest.mark.usefixtures("committed")
NOW = datetime.now(UTC).replace(minute=17, second=3, microsecond=250)
Rows = list[tuple[datetime, datetime, int]]


@pytest.fixture(autouse=True)
def _days(committed: None) -> None:
    partitions.ensure(calls_from=NOW - timedelta(days=7), hours_from=NOW - timedelta(days=70), now=NOW)


@pytest.fixture
def database(committed: None) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(conninfo(), autocommit=True) as opened:
        yield opened


def rows(tenant: Onboarded) -> Rows:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT period_start, period_end, used FROM metering_quota WHERE tenant_id = %s ORDER BY 1",
            [tenant.tenant.id],
        )
        return list(cursor.fetchall())


def by_time(tenant: Onboarded) -> Rows:
    """What each period should count: its calls by when they occurred."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT q.period_start, q.period_end, coalesce(sum(c.units), 0)::bigint FROM metering_quota q "
            "LEFT JOIN metering_call c ON c.tenant_id = q.tenant_id AND c.occurred_at >= q.period_start "
            "AND c.occurred_at < q.period_end WHERE q.tenant_id = %s GROUP BY 1, 2 ORDER BY 1",
            [tenant.tenant.id],
        )
        return list(cursor.fetchall())


def record(database: psycopg.Connection[tuple[object, ...]], tenant: Onboarded, *instants: datetime) -> None:
    start, end, _ = rows(tenant)[-1]
    commit(
        database,
        Batch(
            tuple(
                entry(tenant, occurred_at=at.timestamp(), period_start=start.timestamp(), period_end=end.timestamp())
                for at in instants
            ),
            {},
        ),
    )


def assert_right(tenant: Onboarded) -> None:
    assert rows(tenant) == by_time(tenant)
    assert invariants.broken(tenant_id=tenant.tenant.id) == {}
    books(tenant.tenant.id).assert_balanced()


def test_calls_after_the_boundary_move_with_their_hour(
    make_tenant: MakeTenant, database: psycopg.Connection[tuple[object, ...]]
) -> None:
    acme = make_tenant(now=NOW, anchor=NOW - timedelta(days=5))
    boundary = NOW.replace(minute=10)
    record(database, acme, *(boundary + timedelta(minutes=m) for m in (-90, -9, -1, 0, 1, 5)))
    period = Period(boundary, boundary + timedelta(days=30))
    moved = boundaries.learn(tenant_id=acme.tenant.id, period=period, now=NOW)
    assert moved == boundaries.Moved(3, periods_changed=True)
    assert [used for _, _, used in rows(acme)][:2] == [3, 3]
    assert rows(acme)[1][:2] == (period.start, period.end)
    assert_right(acme)
    assert boundaries.learn(tenant_id=acme.tenant.id, period=period, now=NOW) == boundaries.Moved(
        0, periods_changed=False
    )


def test_a_call_that_is_flushed_late_lands_in_the_period_that_holds_it(
    make_tenant: MakeTenant, database: psycopg.Connection[tuple[object, ...]]
) -> None:
    acme = make_tenant(now=NOW, anchor=NOW - timedelta(days=5))
    start, end, _ = rows(acme)[-1]
    boundary = NOW - timedelta(minutes=5)
    boundaries.learn(tenant_id=acme.tenant.id, period=Period(boundary, boundary + timedelta(days=30)), now=NOW)
    old = {"period_start": start.timestamp(), "period_end": end.timestamp()}
    commit(
        database,
        Batch(tuple(entry(acme, occurred_at=(NOW + timedelta(minutes=m)).timestamp(), **old) for m in (-9, -4, 0)), {}),
    )
    assert [used for _, _, used in rows(acme)][:2] == [1, 2]
    assert_right(acme)


def test_leases_follow_to_the_running_period(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100, burst_per_second=10**6)
    limits.put(tenant=acme.tenant, kind=LimitKind.KEY, subject_id=acme.key.id, calls=90, actor="test")
    attempt(caller_of(acme.api_key), 40)
    engine.engine().flush()
    boundary = timezone.now() - timedelta(seconds=30)
    boundaries.learn(
        tenant_id=acme.tenant.id, period=Period(boundary, boundary + timedelta(days=30)), now=timezone.now()
    )
    assert invariants.broken(tenant_id=acme.tenant.id) == {}
    engine.engine().leases.release([acme.tenant.id])
    engine.engine().flush()
    assert attempt(caller_of(acme.api_key), 100) == 50  # of the key's 90, 40 are used in the new period
    engine.stop()
    assert_right(acme)
    assert books(acme.tenant.id).reserved == 0


def test_an_hour_that_the_call_log_no_longer_keeps_is_not_cut(make_tenant: MakeTenant) -> None:
    acme = make_tenant(now=NOW, anchor=NOW - timedelta(days=60))
    old = NOW - timedelta(days=20)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metering_usage_hour (tenant_id, hour, period_start, project_id, api_key_id, capability, billable, units) "
            "VALUES (%s, %s, %s, %s, %s, 'auth', 5, 5)",
            [
                acme.tenant.id,
                old.replace(minute=0, second=0, microsecond=0),
                rows(acme)[0][0],
                acme.key.project_id,
                acme.key.id,
            ],
        )
    before = rows(acme)
    with pytest.raises(boundaries.BoundaryTooOld, match="Use a whole hour"):
        boundaries.learn(tenant_id=acme.tenant.id, period=Period(old, old + timedelta(days=30)), now=NOW)
    assert rows(acme) == before


def terms(tenant: Onboarded, **changes: object) -> allowances.Terms:
    allowance = Allowance.objects.get(pk=tenant.tenant.id)
    values = {
        "label": "Free", "included": 100, "hard_limit": None, "policy": Policy.BLOCK, "burst_per_second": 10,
        "anchor": allowance.anchor,
    }  # fmt: skip
    return allowances.Terms(**{**values, **changes})  # type: ignore[arg-type]


def test_a_plan_change_never_resets_what_was_used(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100, burst_per_second=10**6)
    attempt(caller_of(acme.api_key), 7)
    engine.stop()
    before = rows(acme)
    allowances.push(tenant_id=acme.tenant.id, terms=terms(acme, included=500), now=timezone.now())
    assert rows(acme) == before
    assert before[-1][2] == 7


def test_a_new_anchor_begins_a_period_and_none_overlap(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100, burst_per_second=10**6)
    attempt(caller_of(acme.api_key), 7)
    engine.stop()
    anchor = timezone.now() + timedelta(seconds=1)
    allowances.push(tenant_id=acme.tenant.id, terms=terms(acme, anchor=anchor, included=50), now=anchor)
    assert [used for _, _, used in rows(acme)] == [7, 0]
    assert rows(acme)[0][1] == rows(acme)[1][0] == anchor
    assert_right(acme)


def test_bounds_reach_the_running_and_the_coming_period(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100)
    end = rows(acme)[-1][1]
    opened = allowances.open_periods(now=end - timedelta(hours=3))
    assert opened >= 1
    assert allowances.open_periods(now=end - timedelta(hours=3)) == 0
    assert rows(acme)[-1][0] == end
    allowances.push(tenant_id=acme.tenant.id, terms=terms(acme, included=42), now=timezone.now())
    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT admits FROM metering_quota WHERE tenant_id = %s", [acme.tenant.id])
        assert cursor.fetchall() == [(42,)]


MINUTES = 7 * 24 * 60


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.lists(st.integers(0, MINUTES - 1), min_size=1, max_size=25),
    learned=st.lists(st.tuples(st.integers(0, MINUTES - 1), st.integers(1, 2 * MINUTES)), min_size=1, max_size=4),
)
def test_any_boundaries_leave_every_call_in_its_own_period(
    make_tenant: MakeTenant,
    database: psycopg.Connection[tuple[object, ...]],
    calls: list[int],
    learned: list[tuple[int, int]],
) -> None:
    begin = NOW - timedelta(minutes=MINUTES)
    acme = make_tenant(now=NOW, anchor=begin - timedelta(days=1))
    record(database, acme, *(begin + timedelta(minutes=minute) for minute in calls))
    for start, length in learned:
        period = Period(begin + timedelta(minutes=start), begin + timedelta(minutes=start + length))
        boundaries.learn(tenant_id=acme.tenant.id, period=period, now=NOW)
        assert (period.start, period.end) in [(start, end) for start, end, _ in rows(acme)]
        assert_right(acme)
    assert sum(used for _, _, used in rows(acme)) == len(calls)
