"""A boundary that is learned late moves what was recorded on its wrong side, and nothing is counted twice or lost."""

import io
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, connections, transaction
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import Settings

from billing.onboarding import Onboarded
from metering import adjustments, allowances, boundaries, engine, invariants, ledger, limits, partitions, rebuild
from metering.clock import DatabaseClock
from metering.database import conninfo
from metering.ledger import commit
from metering.models import Allowance, Call, LimitKind
from metering.periods import Period, hour_of
from metering.recorder import Batch, call_id
from tests.conftest import MakeTenant, wait_until
from tests.metering.ledger import books
from tests.metering.test_limit_is_exact import attempt, caller_of
from tests.metering.test_recovery import Frozen, entry

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


OUTCOMES = st.sampled_from(["billable", "billable", "failed", "refused"])


def record_all(
    database: psycopg.Connection[tuple[object, ...]], tenant: Onboarded, calls: list[tuple[datetime, str]]
) -> None:
    """Calls of three units each, every one with a latency of its own, as an old boundary places them."""
    start, end, _ = rows(tenant)[-1]
    entries = [
        entry(
            tenant, id=call_id(at.timestamp()), occurred_at=at.timestamp(), period_start=start.timestamp(),
            period_end=end.timestamp(), outcome=outcome, units=3 if outcome == "billable" else 0, latency_us=200 * number,
        )
        for number, (at, outcome) in enumerate(calls)
    ]  # fmt: skip
    commit(database, Batch(tuple(entries), {}))


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
    assert boundaries.learn(tenant_id=acme.tenant.id, period=period, now=NOW)
    assert [used for _, _, used in rows(acme)][:2] == [3, 3]
    assert rows(acme)[1][:2] == (period.start, period.end)
    assert_right(acme)
    assert not boundaries.learn(tenant_id=acme.tenant.id, period=period, now=NOW)


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


def test_boundaries_that_keep_moving_make_a_flush_wait_and_nothing_is_set_aside(
    make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path
) -> None:
    settings.METERING = {**settings.METERING, "SPOOL_DIR": str(tmp_path)}
    acme, meter, placed = make_tenant(now=NOW, anchor=NOW - timedelta(days=5)), engine.Engine(), ledger.placed
    start, end, _ = rows(acme)[-1]
    old = {"period_start": start.timestamp(), "period_end": end.timestamp()}
    meter.buffer.append(entry(acme, occurred_at=NOW.timestamp(), **old))
    seconds_before = iter((60, 30, 15, 8))

    def move() -> None:
        boundary = NOW - timedelta(seconds=next(seconds_before))
        boundaries.learn(tenant_id=acme.tenant.id, period=Period(boundary, boundary + timedelta(days=30)), now=NOW)

    def placed_and_moved_again(*arguments: Any) -> Batch:
        batch = placed(*arguments)
        move()
        return batch

    move()
    with monkeypatch.context() as moving:
        moving.setattr(ledger, "placed", placed_and_moved_again)
        assert not meter.flush()
    assert books(acme.tenant.id).used == 0
    assert invariants.nothing_is_set_aside(tenant_id=acme.tenant.id) == []
    assert meter.flush()
    meter.database.close()
    assert [used for _, _, used in rows(acme)] == [0, 0, 0, 0, 1]
    assert_right(acme)


@pytest.mark.parametrize("is_boundary", [True, False])
def test_a_call_of_an_hours_last_instant_counts_where_the_database_rounds_it(
    make_tenant: MakeTenant, database: psycopg.Connection[tuple[object, ...]], is_boundary: bool
) -> None:
    acme = make_tenant(now=NOW, anchor=NOW - timedelta(days=5))
    start, end, _ = rows(acme)[-1]
    hour = hour_of(NOW)
    if is_boundary:
        boundaries.learn(tenant_id=acme.tenant.id, period=Period(hour, hour + timedelta(days=30)), now=NOW)
        end = hour
    old = {"period_start": start.timestamp(), "period_end": end.timestamp()}
    commit(database, Batch((entry(acme, occurred_at=math.nextafter(hour.timestamp(), 0), **old),), {}))
    assert Call.objects.get(tenant=acme.tenant).occurred_at == hour
    assert [used for _, _, used in rows(acme)] == ([0, 1] if is_boundary else [1])
    assert_right(acme)


def test_a_call_that_is_refused_when_its_period_has_just_ended_is_recorded_in_it(
    make_tenant: MakeTenant, settings: Settings
) -> None:
    settings.METERING = {**settings.METERING, "REFUSAL_MEMORY_SECONDS": 60.0}
    acme, frozen = make_tenant(included=0), Frozen()
    end = timezone.now() + timedelta(seconds=30)
    boundaries.learn(
        tenant_id=acme.tenant.id, period=Period(end - timedelta(days=30), end), now=end - timedelta(seconds=30)
    )
    meter = engine.Engine(clock=DatabaseClock(frozen), inline=True)
    with engine.replaced(meter):
        assert attempt(caller_of(acme.api_key), 1) == 0
        frozen.ahead += 40
        assert attempt(caller_of(acme.api_key), 1) == 0
        meter.stop()
    assert max(call.occurred_at for call in Call.objects.filter(tenant=acme.tenant)) == end - timedelta(microseconds=1)
    assert books(acme.tenant.id).quota_refused == 2
    assert_right(acme)


def test_calls_whose_allowance_is_gone_are_recorded_in_periods_that_do_not_overlap(
    make_tenant: MakeTenant, database: psycopg.Connection[tuple[object, ...]]
) -> None:
    acme = make_tenant(now=NOW, anchor=NOW - timedelta(days=5))
    Allowance.objects.filter(tenant=acme.tenant).delete()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM metering_quota WHERE tenant_id = %s", [acme.tenant.id])
    entries = []
    for days in (3, 1, 2):  # calls of three bounds that overlap, and none of them is known any more
        start = NOW - timedelta(days=days)
        bounds = {"period_start": start.timestamp(), "period_end": (start + timedelta(days=30)).timestamp()}
        entries.append(entry(acme, occurred_at=NOW.timestamp() - days * 3600, **bounds))
    commit(database, Batch(tuple(entries), {}))
    assert books(acme.tenant.id).used == 3
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
    acme = make_tenant(now=NOW, anchor=NOW - timedelta(days=240))
    old = NOW - timedelta(days=200)  # further back than any test keeps calls
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


MANY = hypothesis_settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MINUTES, HOURS = 7 * 24 * 60, 90 * 24


def periods_of(places: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Some periods, each a start and a length in minutes or hours."""
    return st.lists(st.tuples(st.integers(0, places - 1), st.integers(1, places)), min_size=1, max_size=5)


def assert_learned(tenant: Onboarded, period: Period, begin: datetime) -> None:
    boundaries.learn(tenant_id=tenant.tenant.id, period=period, now=NOW)
    kept = rows(tenant)
    assert (period.start, period.end) in [(start, end) for start, end, _ in kept]
    assert all(before[1] == after[0] for before, after in pairwise(kept))
    assert_right(tenant)
    end = hour_of(NOW) + timedelta(hours=1)
    assert not rebuild.rebuild(tenant_id=tenant.tenant.id, start=hour_of(begin), end=end, apply=False)


@MANY
@given(
    calls=st.lists(st.tuples(st.integers(0, MINUTES - 1), OUTCOMES), min_size=1, max_size=25),
    learned=periods_of(MINUTES),
)
def test_any_boundaries_leave_every_call_in_its_own_period(
    make_tenant: MakeTenant,
    database: psycopg.Connection[tuple[object, ...]],
    calls: list[tuple[int, str]],
    learned: list[tuple[int, int]],
) -> None:
    begin = NOW - timedelta(minutes=MINUTES)
    acme = make_tenant(now=NOW, anchor=begin - timedelta(days=1))
    record_all(database, acme, [(begin + timedelta(minutes=minute), outcome) for minute, outcome in calls])
    for start, length in learned:
        from_ = begin + timedelta(minutes=start)
        assert_learned(acme, Period(from_, from_ + timedelta(minutes=length)), begin)
    assert sum(used for _, _, used in rows(acme)) == 3 * sum(outcome == "billable" for _, outcome in calls)


@MANY
@given(
    anchor_day=st.integers(1, 31),
    calls=st.lists(st.tuples(st.integers(0, HOURS - 1), OUTCOMES), min_size=1, max_size=25),
    learned=periods_of(HOURS),
)
def test_any_whole_hours_bound_periods_of_months_that_the_call_log_no_longer_keeps(
    make_tenant: MakeTenant,
    database: psycopg.Connection[tuple[object, ...]],
    anchor_day: int,
    calls: list[tuple[int, str]],
    learned: list[tuple[int, int]],
) -> None:
    begin = hour_of(NOW - timedelta(hours=HOURS))
    acme = make_tenant(now=NOW, anchor=datetime(2025, 1, anchor_day, 5, tzinfo=UTC))
    record_all(database, acme, [(begin + timedelta(hours=hour, minutes=7), outcome) for hour, outcome in calls])
    for start, length in learned:
        from_ = begin + timedelta(hours=start)
        assert_learned(acme, Period(from_, from_ + timedelta(hours=length)), begin)
    assert sum(used for _, _, used in rows(acme)) == 3 * sum(outcome == "billable" for _, outcome in calls)


def test_corrections_move_with_their_calls(
    make_tenant: MakeTenant, database: psycopg.Connection[tuple[object, ...]]
) -> None:
    acme = make_tenant(now=NOW, anchor=NOW - timedelta(days=5))
    boundary = NOW.replace(minute=10)
    record_all(database, acme, [(boundary - timedelta(minutes=1), "billable"), (boundary, "billable")])
    for call in Call.objects.filter(tenant=acme.tenant):
        change = adjustments.planned_amend(tenant=acme.tenant, call_id=call.id, units=5)
        adjustments.apply(change, actor="test", reason="priced wrongly")
    boundaries.learn(tenant_id=acme.tenant.id, period=Period(boundary, boundary + timedelta(days=30)), now=NOW)
    assert [used for _, _, used in rows(acme)] == [5, 5]
    assert invariants.broken(tenant_id=acme.tenant.id) == {}
    books_end = hour_of(NOW) + timedelta(hours=1)
    assert not rebuild.rebuild(tenant_id=acme.tenant.id, start=hour_of(boundary), end=books_end, apply=False)


def test_a_cut_hour_that_counts_in_the_wrong_period_is_found_out(
    make_tenant: MakeTenant, database: psycopg.Connection[tuple[object, ...]]
) -> None:
    acme = make_tenant(now=NOW, anchor=NOW - timedelta(days=5))
    boundary = NOW.replace(minute=10)
    record(database, acme, *(boundary + timedelta(minutes=m) for m in (-9, -1, 0, 1, 5)))
    boundaries.learn(tenant_id=acme.tenant.id, period=Period(boundary, boundary + timedelta(days=30)), now=NOW)
    assert invariants.broken(tenant_id=acme.tenant.id) == {}
    with connection.cursor() as cursor:  # one call counts before the boundary that was made after it: all sums stay
        for units, which in ((1, "min"), (-1, "max")):
            for table, columns in (("metering_usage_hour", ("units", "billable")), ("metering_quota", ("used",))):
                changes = ", ".join(f"{column} = {column} + {units}" for column in columns)
                cursor.execute(
                    f"UPDATE {table} SET {changes} WHERE tenant_id = %(t)s AND period_start = "
                    f"(SELECT {which}(period_start) FROM metering_usage_hour WHERE tenant_id = %(t)s)",
                    {"t": acme.tenant.id},
                )
    (violation,) = invariants.broken(tenant_id=acme.tenant.id)["call log"]
    assert violation.detail.startswith("1 hour(s) from")
    end = hour_of(NOW) + timedelta(hours=1)
    assert len(rebuild.rebuild(tenant_id=acme.tenant.id, start=hour_of(NOW), end=end, apply=True).hours) == 2
    assert_right(acme)


@pytest.mark.parametrize("minute", [2, 14], ids=("early in its hour", "a moment ago"))
@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM metering_usage_hour",
        "UPDATE metering_usage_hour SET units = 0",
        "UPDATE metering_usage_hour SET capability = 'auth'",
    ],
)
def test_a_cut_hour_that_was_summed_up_wrongly_is_made_anew(
    make_tenant: MakeTenant, database: psycopg.Connection[tuple[object, ...]], minute: int, damage: str
) -> None:
    acme = make_tenant(now=NOW, anchor=NOW - timedelta(days=5))
    boundary = NOW.replace(minute=minute)
    record(database, acme, *(boundary + timedelta(minutes=m) for m in (-1, 0, 1)))
    with connection.cursor() as cursor:
        cursor.execute(f"{damage} WHERE tenant_id = %s", [acme.tenant.id])
    boundaries.learn(tenant_id=acme.tenant.id, period=Period(boundary, boundary + timedelta(days=30)), now=NOW)
    assert [used for _, _, used in rows(acme)][:2] == [1, 2]
    assert_right(acme)


def test_a_correction_in_the_wrong_period_is_found_out(
    make_tenant: MakeTenant, database: psycopg.Connection[tuple[object, ...]]
) -> None:
    acme = make_tenant(now=NOW, anchor=NOW - timedelta(days=5))
    record(database, acme, NOW)
    change = adjustments.planned_backfill(
        tenant=acme.tenant, key=acme.key, capability="storage", occurred_at=NOW, calls=1, now=NOW
    )
    adjustments.apply(change, actor="test", reason="lost")
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL meterhouse.moving_boundary = 'on'")
        cursor.execute(
            "UPDATE metering_adjustment SET period_start = period_start - interval '1 day' WHERE tenant_id = %s",
            [acme.tenant.id],
        )
    assert set(invariants.broken(tenant_id=acme.tenant.id)) == {"call log"}


def test_calls_of_no_period_are_named_and_left_alone(
    make_tenant: MakeTenant, database: psycopg.Connection[tuple[object, ...]]
) -> None:
    acme = make_tenant(now=NOW, anchor=NOW - timedelta(days=5))
    record(database, acme, NOW)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM metering_quota WHERE tenant_id = %s", [acme.tenant.id])
    assert set(invariants.broken(tenant_id=acme.tenant.id)) == {"quotas", "call log"}
    with pytest.raises(CommandError, match="lie in no period"):
        call_command("rebuild_usage", "--tenant", acme.tenant.slug, "--apply")
    allowances.open_period(allowance=Allowance.objects.get(pk=acme.tenant.id), instant=NOW)
    call_command("rebuild_usage", "--tenant", acme.tenant.slug, "--apply", stdout=io.StringIO())
    assert_right(acme)


def test_what_a_learned_period_leaves_of_a_predicted_one_is_predicted_anew(make_tenant: MakeTenant) -> None:
    acme = make_tenant(now=NOW, anchor=NOW - timedelta(days=5))
    period = Period(NOW - timedelta(days=10), NOW + timedelta(days=20))
    boundaries.learn(tenant_id=acme.tenant.id, period=period, now=NOW)
    assert rows(acme)[-1][:2] == (
        period.start,
        period.end,
    )  # and no period of some days with a month's allowance after it


def test_time_that_was_never_opened_is_in_a_period_too(make_tenant: MakeTenant) -> None:
    acme = make_tenant(now=NOW - timedelta(days=80), anchor=NOW - timedelta(days=85))
    boundaries.learn(tenant_id=acme.tenant.id, period=Period(NOW, NOW + timedelta(days=30)), now=NOW)
    kept = rows(acme)
    assert len(kept) == 4
    assert all(before[1] == after[0] for before, after in pairwise(kept))


def test_what_a_clock_ahead_of_ours_recorded_keeps_its_period(
    make_tenant: MakeTenant, database: psycopg.Connection[tuple[object, ...]]
) -> None:
    acme = make_tenant(now=NOW, anchor=NOW - timedelta(days=5))
    record(database, acme, NOW - timedelta(minutes=5))
    end, now = NOW - timedelta(minutes=30), NOW - timedelta(hours=1)
    boundaries.learn(tenant_id=acme.tenant.id, period=Period(NOW - timedelta(days=30), end), now=now)
    assert [used for _, _, used in rows(acme)] == [0, 1]
    assert_right(acme)


def test_processes_hear_of_a_boundary_once(make_tenant: MakeTenant) -> None:
    acme = make_tenant(now=NOW, anchor=NOW - timedelta(days=5))
    heard = [Allowance.objects.get(pk=acme.tenant.id).changed_at]
    for _ in range(2):
        boundaries.learn(tenant_id=acme.tenant.id, period=Period(NOW, NOW + timedelta(days=30)), now=NOW)
        heard.append(Allowance.objects.get(pk=acme.tenant.id).changed_at)
    assert heard[0] < heard[1] == heard[2]


class Answering:
    """A process that meters a tenant's calls while the periods change."""

    def __init__(self, tenant: Onboarded) -> None:
        self.tenant = tenant
        self.meter = engine.Engine()
        self.meter._tend()

    def answer(self, calls: int) -> int:
        """So many calls are admitted, and flushed one by one; returns how many were answered."""
        for _ in range(calls):
            ticket = self.meter.leases.admit(self.tenant.tenant.id)
            self.meter.buffer.append(
                entry(
                    self.tenant, id=call_id(ticket.occurred_at), occurred_at=ticket.occurred_at,
                    period_start=ticket.bounds.start, period_end=ticket.bounds.end,
                    lease_id=ticket.lease.id if ticket.lease else None,
                )
            )  # fmt: skip
            assert self.meter.flush()
            self.meter.leases.release([self.tenant.tenant.id])
        assert self.meter.flush(everything=True)
        self.meter.database.close()
        return calls


def test_units_on_lease_are_reserved_in_the_running_period(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100)
    answering = Answering(acme)
    answering.meter.leases.admit(acme.tenant.id)
    held = books(acme.tenant.id).reserved
    boundary = timezone.now() - timedelta(seconds=1)
    boundaries.learn(
        tenant_id=acme.tenant.id, period=Period(boundary, boundary + timedelta(days=30)), now=timezone.now()
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT reserved FROM metering_quota WHERE tenant_id = %s ORDER BY period_start", [acme.tenant.id]
        )
        assert cursor.fetchall() == [(0,), (held,)]
    assert held > 0
    answering.meter.leases.release_all()
    answering.answer(0)


def test_learning_while_calls_are_recorded_loses_none_and_waits_for_nobody(
    make_tenant: MakeTenant, caplog: pytest.LogCaptureFixture
) -> None:
    tenants = [make_tenant(included=10**6) for _ in range(2)]
    answering = [Answering(tenant) for tenant in tenants for _ in range(2)]
    with ThreadPoolExecutor(max_workers=len(answering)) as pool:
        answered = [pool.submit(each.answer, 40) for each in answering]
        while not all(each.done() for each in answered):
            for tenant in tenants:
                boundary = timezone.now() - timedelta(milliseconds=1)
                period = Period(boundary, boundary + timedelta(days=30))
                boundaries.learn(tenant_id=tenant.tenant.id, period=period, now=timezone.now())
        assert sum(each.result() for each in answered) == 160
    for tenant in tenants:
        assert_right(tenant)
        kept = books(tenant.tenant.id)
        assert (kept.used, kept.reserved) == (80, 0)
    assert "Flush failed" not in caplog.text  # a deadlock would be one


OPENS = (
    "SELECT metering_open_period(%(tenant)s, %(start)s, %(end)s, %(at)s)",
    "INSERT INTO metering_quota (tenant_id, period_start, period_end) VALUES (%(tenant)s, %(start)s, %(end)s)",
)


@pytest.mark.parametrize("statement", OPENS, ids=("opened", "inserted"))
def test_no_period_is_opened_over_one_that_is_being_learned(
    make_tenant: MakeTenant, database: psycopg.Connection[tuple[object, ...]], statement: str
) -> None:
    acme = make_tenant(now=NOW - timedelta(days=31), anchor=NOW - timedelta(days=31))  # its period has ended
    end = rows(acme)[-1][1]
    wanted = {"tenant": acme.tenant.id, "start": end, "end": end + timedelta(days=31), "at": NOW}

    def open_another() -> None:
        with psycopg.connect(conninfo(), autocommit=True) as other:
            other.execute(statement, wanted)

    with ThreadPoolExecutor(max_workers=1) as pool:
        with transaction.atomic():
            begin = end + timedelta(hours=2)
            boundaries.learn(tenant_id=acme.tenant.id, period=Period(begin, begin + timedelta(days=31)), now=NOW)
            opening = pool.submit(open_another)
            wait_until(lambda: opening.done() or is_waiting(database), what="the other's wait for this transaction")
        if statement == OPENS[1]:
            with pytest.raises(psycopg.Error, match="has another period"):
                opening.result()
        else:
            opening.result()
    assert_right(acme)


def test_learning_takes_the_allowance_before_the_quotas_as_a_push_does(
    make_tenant: MakeTenant, database: psycopg.Connection[tuple[object, ...]]
) -> None:
    acme = make_tenant(now=NOW, anchor=NOW - timedelta(days=5))

    def learn() -> None:
        try:
            boundaries.learn(tenant_id=acme.tenant.id, period=Period(NOW, NOW + timedelta(days=30)), now=NOW)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(max_workers=1) as pool:
        with transaction.atomic():
            Allowance.objects.select_for_update().get(pk=acme.tenant.id)
            learning = pool.submit(learn)
            wait_until(lambda: is_waiting(database), what="the wait for the allowance")
            rebuild.lock(acme.tenant.id)
        learning.result()
    assert rows(acme)[-1][0] == NOW


def is_waiting(database: psycopg.Connection[tuple[object, ...]], application: str = "%") -> bool:
    """Whether a statement of this application, or of any, waits for another's lock."""
    sql = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
        "AND application_name LIKE %s"
    )
    return database.execute(sql, [application]).fetchone() is not None
