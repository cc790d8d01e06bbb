"""What was used, by capability, project, key and outcome, over any range of hours: always what the ledger says."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.onboarding import Onboarded
from metering import adjustments, engine, periods, usage
from metering.database import conninfo
from metering.ledger import commit
from metering.models import Call
from metering.recorder import Batch, call_id
from metering.usage import Counts, Granularity, GroupBy, Scope
from tenants import directory
from tenants.keys import issue
from tests.conftest import MakeTenant
from tests.metering.test_limit_is_exact import attempt, caller_of
from tests.metering.test_recovery import entry
from tests.metering.test_several_limits import second_key, try_one

pytestmark = pytest.mark.usefixtures("committed")
BEGIN = datetime(2026, 9, 28, 5, tzinfo=UTC)
HOURS = 24 * 40  # from one month over the next into a third
FORMATS = {Granularity.HOUR: "%Y%m%d%H", Granularity.DAY: "%Y%m%d", Granularity.MONTH: "%Y%m"}
CALLS = st.lists(
    st.tuples(
        st.integers(0, HOURS * 60 - 1),
        st.sampled_from(["auth", "storage"]),
        st.integers(0, 1),  # which key
        st.sampled_from(["billable", "billable", "failed", "refused"]),
        st.integers(1, 9),  # cost
        st.integers(0, 3_000_000),  # latency
    ),
    max_size=40,
)


@pytest.fixture
def database(committed: None) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(conninfo(), autocommit=True) as opened:
        yield opened


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=CALLS, first=st.integers(0, HOURS), length=st.integers(1, HOURS), granularity=st.sampled_from(Granularity),
    group_by=st.sampled_from([None, *GroupBy]), only=st.sampled_from([None, "auth", "storage"]),
)  # fmt: skip
def test_any_range_and_grouping_is_the_sum_of_its_calls(
    make_tenant: MakeTenant,
    database: psycopg.Connection[tuple[object, ...]],
    calls: list[tuple[int, str, int, str, int, int]],
    first: int,
    length: int,
    granularity: Granularity,
    group_by: GroupBy | None,
    only: str | None,
) -> None:
    acme = make_tenant(plan="scale", anchor=BEGIN)
    other = directory.add_project(tenant=acme.tenant, name="Other", actor="test")
    keys = [acme.key, issue(project=other, name="other", actor="test")[0]]
    start, end = BEGIN + timedelta(hours=first), BEGIN + timedelta(hours=first + length)
    entries, expected = [], Counter[tuple[str, str, str]]()
    for minute, capability, key, outcome, cost, latency in calls:
        at = BEGIN + timedelta(minutes=minute)
        units = cost if outcome == "billable" else 0
        entries.append(
            entry(
                acme, id=call_id(at.timestamp()), occurred_at=at.timestamp(), capability=capability, outcome=outcome,
                units=units, latency_us=latency, project_id=keys[key].project_id, key_id=keys[key].id,
                period_start=BEGIN.timestamp(), period_end=(BEGIN + timedelta(days=365)).timestamp(),
            )
        )  # fmt: skip
        if start <= at < end and only in {None, capability}:
            group = {
                None: "", GroupBy.CAPABILITY: capability, GroupBy.PROJECT: str(keys[key].project_id),
                GroupBy.KEY: str(keys[key].id), GroupBy.OUTCOME: outcome,
            }[group_by]  # fmt: skip
            bucket = f"{at:{FORMATS[granularity]}}"
            expected[bucket, group, outcome] += 1
            expected[bucket, group, "units"] += units
    commit(database, Batch(tuple(entries), {}))
    found = usage.series(Scope(acme.tenant.id, start, end, capability=only), granularity=granularity, group_by=group_by)
    assert flat([(f"{point.start:{FORMATS[granularity]}}", point.group, point.counts) for point in found]) == +expected
    if group_by is not None:
        groups = usage.groups(Scope(acme.tenant.id, start, end, capability=only), group_by=group_by)
        assert sum((group.counts for group in groups), Counts()) == sum((point.counts for point in found), Counts())
    by_day = usage.daily(Scope(acme.tenant.id, start, end, capability=only), group_by=group_by)
    assert sum((counts for _, _, counts in by_day), Counts()) == sum((point.counts for point in found), Counts())


def flat(found: list[tuple[str, str, Counts]]) -> dict[tuple[str, str, str], int]:
    """Each count that is not zero, by bucket, group and outcome."""
    return {
        (bucket, group, name): getattr(counts, name)
        for bucket, group, counts in found
        for name in ("billable", "units", "failed", "refused")
        if getattr(counts, name)
    }


def test_percentiles_are_over_all_calls_of_the_range(
    make_tenant: MakeTenant, database: psycopg.Connection[tuple[object, ...]]
) -> None:
    acme = make_tenant(anchor=BEGIN)
    entries = [
        entry(acme, occurred_at=(BEGIN + timedelta(hours=hour)).timestamp(), latency_us=latency)
        for hour in range(50)
        for latency in (1_000, 1_000, 1_000, 1_000_000)
    ]
    commit(database, Batch(tuple(entries), {}))
    month = usage.series(Scope(acme.tenant.id, BEGIN, BEGIN + timedelta(hours=2)), granularity=Granularity.MONTH)
    assert [point.counts.billable for point in month] == [8]
    assert month[0].latency.p50_us == pytest.approx(1_000, rel=0.1)
    assert month[0].latency.p95_us == pytest.approx(1_000_000, rel=0.1)


def test_a_statement_shows_the_same_groups_as_the_usage_of_its_period(
    make_tenant: MakeTenant, database: psycopg.Connection[tuple[object, ...]]
) -> None:
    acme = make_tenant(anchor=BEGIN)  # at 05:00: the first day of the period is cut
    before, period = periods.last(BEGIN, periods.containing(BEGIN, BEGIN + timedelta(days=45)), 2)
    entries = [
        entry(acme, occurred_at=at.timestamp(), latency_us=1_000 * hour, capability=("auth", "storage")[hour % 2])
        for hour in range(1, 80)
        for at in (before.end - timedelta(hours=hour), period.start + timedelta(hours=hour))
    ]
    commit(database, Batch(tuple(entries), {}))
    recent = usage.recent(
        tenant_id=acme.tenant.id, since=before.start, now=period.start + timedelta(days=4), period=period, before=before
    )
    scope = Scope.of_period(acme.tenant.id, period)
    assert usage.recent_groups(recent, scope=scope, with_latency=True) == usage.groups(scope)
    assert [group.counts.billable for group in usage.groups(scope)] == [40, 39]
    assert {row.day.hour for row in recent} == {0}


@pytest.fixture
def acme(make_tenant: MakeTenant) -> Onboarded:
    """A period that began just now: five calls of one key, one of them failed, one of another that costs 3, one refused."""
    made = make_tenant(included=7, burst_per_second=10**6, anchor=datetime.now(UTC) - timedelta(seconds=1))
    attempt(caller_of(made.api_key), 5, status=lambda number: 500 if number == 2 else 200)
    try_one(second_key(made), cost=3)
    assert try_one(caller_of(made.api_key)).problem is not None
    engine.stop()
    return made


def series(call: Callable[..., Any], tenant: Onboarded, query: str = "") -> Any:
    answer = call(tenant.api_key, f"/api/v1/usage/series{query}")
    assert answer.status_code == 200, answer.content
    return answer.json()


def test_calls_of_the_hour_in_which_the_period_began_are_in_its_series(
    acme: Onboarded, call: Callable[..., Any]
) -> None:
    found = series(call, acme)
    assert [(point["billable"], point["units"]) for point in found["series"]] == [(5, 7)]
    assert found["as_of"] >= found["from"]


def test_a_range_is_widened_to_whole_hours_and_says_so(acme: Onboarded, call: Callable[..., Any]) -> None:
    at = Call.objects.filter(tenant=acme.tenant).earliest("occurred_at").occurred_at
    hour = at.replace(minute=0, second=0, microsecond=0)
    start, end = hour.replace(minute=59), hour.replace(minute=59, second=1)
    found = series(call, acme, f"?granularity=hour&from={start:%Y-%m-%dT%H:%M:%SZ}&to={end:%Y-%m-%dT%H:%M:%SZ}")
    assert [found["from"], found["to"]] == [
        f"{hour:%Y-%m-%dT%H:00:00Z}",
        f"{hour + timedelta(hours=1):%Y-%m-%dT%H:00:00Z}",
    ]
    assert sum(point["billable"] for point in found["series"]) > 0


def test_the_series_by_outcome_names_each_that_there_was(acme: Onboarded, call: Callable[..., Any]) -> None:
    points = series(call, acme, "?granularity=month&group_by=outcome")["series"]
    told = {point["group"]: (point["billable"], point["units"], point["failed"], point["rejected"]) for point in points}
    assert told == {"billable": (5, 7, 0, 0), "failed": (0, 0, 1, 0), "rejected": (0, 0, 0, 1)}


def test_the_series_is_narrowed_to_a_key_a_project_or_a_capability(acme: Onboarded, call: Callable[..., Any]) -> None:
    project = acme.key.project.slug
    for query, units in (
        (f"?key={acme.key.prefix}", 4), (f"?project={project}", 7), (f"?project={project}&key={acme.key.prefix}", 4),
        ("?capability=storage", 7), ("?capability=auth", 0),
    ):  # fmt: skip
        points = series(call, acme, f"{query}&group_by=capability&granularity=month")["series"]
        assert sum(point["units"] for point in points) == units, query


def test_initech_cannot_name_a_project_or_key_of_acme(make_tenant: MakeTenant, call: Callable[..., Any]) -> None:
    acme, initech = make_tenant(plan="scale"), make_tenant("Initech")
    skunkworks = directory.add_project(tenant=acme.tenant, name="Skunkworks", actor="test")
    for query in (f"key={acme.key.prefix}", f"project={skunkworks.slug}", "project=%00", "to=9999-12-31T23:59:59"):
        answer = call(initech.api_key, f"/api/v1/usage/series?{query}")
        assert answer.status_code == 400, query


def test_corrections_are_part_of_usage(acme: Onboarded, call: Callable[..., Any]) -> None:
    dear = Call.objects.get(tenant=acme.tenant, units=3)
    change = adjustments.planned_amend(tenant=acme.tenant, call_id=dear.id, units=13)
    adjustments.apply(change, actor="test", reason="priced wrongly")
    voided = Call.objects.filter(tenant=acme.tenant, units=1)[0]
    adjustments.apply(adjustments.planned_void(tenant=acme.tenant, call_id=voided.id), actor="test", reason="twice")
    points = series(call, acme)["series"]
    assert [(point["billable"], point["units"]) for point in points] == [(4, 16)]
    document = call(acme.api_key, "/api/v1/usage").json()
    assert (document["calls"]["billable"], document["calls"]["units"]) == (4, 16)
