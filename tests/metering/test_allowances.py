"""Billing pushes an allowance: its bounds are enforced, what was used stays used, and periods follow what is known of them."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from django.db import connection, connections
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.onboarding import Onboarded
from metering import allowances, boundaries, engine, partitions, periods
from metering.models import Allowance, Policy
from tests.conftest import MakeTenant
from tests.metering.test_boundaries import assert_right, rows
from tests.metering.test_limit_is_exact import attempt, caller_of

pytestmark = pytest.mark.usefixtures("committed")


def terms(tenant: Onboarded, **changes: object) -> allowances.Terms:
    allowance = Allowance.objects.get(pk=tenant.tenant.id)
    values = {
        "label": "Free", "included": 100, "hard_limit": None, "policy": Policy.BLOCK, "burst_per_second": 10,
        "anchor": allowance.anchor,
    }  # fmt: skip
    return allowances.Terms(**{**values, **changes})  # type: ignore[arg-type]


def admits(tenant: Onboarded) -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT admits FROM metering_quota WHERE tenant_id = %s ORDER BY period_start", [tenant.tenant.id]
        )
        return [admitted for (admitted,) in cursor.fetchall()]


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


def test_a_known_period_wins_over_what_the_anchor_predicts(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100, burst_per_second=10**6)
    attempt(caller_of(acme.api_key), 7)
    engine.stop()
    now = timezone.now()
    known = periods.Period(now - timedelta(days=3), now + timedelta(days=11))
    anchor = now - timedelta(days=9)
    allowances.push(tenant_id=acme.tenant.id, terms=terms(acme, anchor=anchor, period=known, included=50), now=now)
    assert rows(acme)[-1] == (known.start, known.end, 7)
    assert admits(acme)[-1] == 50
    before = rows(acme)
    allowances.push(tenant_id=acme.tenant.id, terms=terms(acme, anchor=anchor, period=known, included=50), now=now)
    assert rows(acme) == before
    assert_right(acme)


def test_the_period_after_a_new_anchors_is_a_whole_month(make_tenant: MakeTenant) -> None:
    now = datetime(2027, 1, 10, 9, tzinfo=UTC)
    acme = make_tenant(now=now, anchor=datetime(2027, 1, 1, tzinfo=UTC))
    anchor = datetime(2026, 12, 25, tzinfo=UTC)
    allowances.push(tenant_id=acme.tenant.id, terms=terms(acme, anchor=anchor), now=now)
    allowance = Allowance.objects.get(pk=acme.tenant.id)
    allowances.open_period(allowance=allowance, instant=datetime(2027, 1, 25, 1, tzinfo=UTC))
    starts = [start for start, _, _ in rows(acme)]
    assert starts == [anchor, datetime(2027, 1, 25, tzinfo=UTC)]
    assert rows(acme)[-1][1] == datetime(2027, 2, 25, tzinfo=UTC)


def test_bounds_reach_the_running_and_the_coming_period(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100)
    end = rows(acme)[-1][1]
    assert allowances.open_periods(now=end - timedelta(hours=3)) >= 1
    assert allowances.open_periods(now=end - timedelta(hours=3)) == 0
    assert rows(acme)[-1][0] == end
    allowances.push(tenant_id=acme.tenant.id, terms=terms(acme, included=42), now=timezone.now())
    assert admits(acme) == [42, 42]


def test_bounds_of_a_period_that_has_ended_stay(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100, now=timezone.now() - timedelta(days=40))
    allowances.push(tenant_id=acme.tenant.id, terms=terms(acme, included=42), now=timezone.now())
    assert admits(acme) == [100, 42]


def test_a_period_that_turns_out_to_run_still_has_todays_bounds(make_tenant: MakeTenant) -> None:
    now = timezone.now()
    acme = make_tenant(included=100, now=now - timedelta(days=40))
    allowances.push(tenant_id=acme.tenant.id, terms=terms(acme, included=42), now=now)
    period = periods.Period(rows(acme)[0][0], now + timedelta(days=2))
    boundaries.learn(tenant_id=acme.tenant.id, period=period, now=now)
    assert rows(acme)[0][:2] == (period.start, period.end)
    assert admits(acme) == [42]


def test_periods_are_opened_for_more_tenants_than_fit_one_statement(
    make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowances, "AT_ONCE", 2)
    tenants = [make_tenant() for _ in range(5)]
    last = max(rows(tenant)[-1][1] for tenant in tenants)
    allowances.open_periods(now=last + timedelta(hours=1))
    assert all(len(rows(tenant)) == 2 for tenant in tenants)


def test_a_boundary_that_cannot_be_drawn_any_more_does_not_lift_the_limits(
    make_tenant: MakeTenant, caplog: pytest.LogCaptureFixture
) -> None:
    now = timezone.now()
    partitions.ensure(calls_from=now, hours_from=now, now=now)
    acme = make_tenant(now=now - timedelta(days=380), included=100)
    half_past = periods.hour_of(now - timedelta(days=370)) + timedelta(minutes=30)
    start, *_ = rows(acme)[0]
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metering_usage_hour (tenant_id, hour, period_start, project_id, api_key_id, capability) "
            "VALUES (%s, %s, %s, 1, 1, 'auth')",
            [acme.tenant.id, periods.hour_of(half_past), start],
        )
    a_year = periods.Period(half_past, now + timedelta(days=5))
    allowances.push(tenant_id=acme.tenant.id, terms=terms(acme, included=42, period=a_year), now=now)
    assert admits(acme) == [100, 42]
    assert "keeps its periods: A boundary lies inside" in caplog.text


def test_two_anchors_pushed_at_once_leave_periods_of_one_of_them(make_tenant: MakeTenant) -> None:
    now = timezone.now()
    acme = make_tenant(now=now)
    both = [terms(acme, anchor=periods.hour_of(now) - timedelta(days=days)) for days in (3, 11)]

    def push(wanted: allowances.Terms) -> None:
        try:
            for _ in range(10):
                allowances.push(tenant_id=acme.tenant.id, terms=wanted, now=now)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(push, both))
    anchor = Allowance.objects.get(pk=acme.tenant.id).anchor
    (running,) = [(start, end) for start, end, _ in rows(acme) if start <= now < end]
    assert running == (periods.containing(anchor, now).start, periods.containing(anchor, now).end)
    assert_right(acme)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 40), st.none() | st.tuples(st.integers(1, 31), st.integers(0, 23))),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_anchors_follow_each_other_periods_tile(
    make_tenant: MakeTenant, changes: list[tuple[int, tuple[int, int] | None]]
) -> None:
    now = datetime(2027, 1, 1, 12, 30, tzinfo=UTC)
    acme = make_tenant(now=now)
    for days, day_and_hour in changes:
        for _ in range(days):  # as the beat does
            now += timedelta(days=1)
            allowances.open_period(allowance=Allowance.objects.get(pk=acme.tenant.id), instant=now)
        before = rows(acme)
        changed: dict[str, object] = {}
        if day_and_hour is not None:
            day, hour = day_and_hour
            changed["anchor"] = datetime(2026, 12, day, hour, tzinfo=UTC)
        wanted = terms(acme, **changed)
        allowances.push(tenant_id=acme.tenant.id, terms=wanted, now=now)
        kept = rows(acme)
        assert all(one[1] == other[0] for one, other in pairwise(kept))
        (running,) = [(start, end) for start, end, _ in kept if start <= now < end]
        if day_and_hour is None:
            assert kept == before
        else:
            predicted = periods.containing(wanted.anchor, now)
            assert running == (predicted.start, predicted.end)
