"""The seeded demo: every table tells the same story. Volumes are a sixtieth of the real ones, the code is the same."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection, transaction
from pytest_django import DjangoDbBlocker

from metering import periods
from metering.models import Allowance, Call, Quota
from sandbox import demo_data, story
from tenants.keys import KeyCache
from tenants.models import ApiKey, AuditEntry, Membership, Project, Role, User

STORIES = tuple(replace(told, used=told.used // 60) for told in (story.ACME, story.INITECH, story.UMBRA))
LEDGER_AGAINST_ROLLUP = """
WITH ledger AS (
    SELECT tenant_id, date_trunc('hour', occurred_at, 'UTC') AS hour, period_start, project_id, api_key_id, capability,
           sum(CASE WHEN outcome = 'billable' THEN calls ELSE 0 END) AS billable, sum(units) AS units,
           sum(CASE WHEN outcome = 'failed' THEN calls ELSE 0 END) AS failed,
           sum(CASE WHEN outcome = 'refused' THEN calls ELSE 0 END) AS refused,
           sum(CASE WHEN outcome = 'refused' THEN 0 ELSE calls END) AS measured
    FROM metering_call JOIN metering_quota USING (tenant_id)
    WHERE tenant_id = ANY(%(tenants)s) AND occurred_at >= period_start AND occurred_at < period_end GROUP BY 1, 2, 3, 4, 5, 6
), rollup AS (
    SELECT tenant_id, hour, period_start, project_id, api_key_id, capability, billable, units, failed, refused,
           (SELECT coalesce(sum(bucket), 0) FROM unnest(latency_counts) AS bucket) AS measured
    FROM metering_usage_hour WHERE tenant_id = ANY(%(tenants)s) AND hour >= %(kept_from)s
)
SELECT (SELECT count(*) FROM ledger), (SELECT count(*) FROM rollup),
       (SELECT count(*) FROM (SELECT * FROM ledger EXCEPT SELECT * FROM rollup) AS difference)
"""
QUOTA_AGAINST_ROLLUP = """
SELECT count(*) FROM metering_quota q LEFT JOIN (
    SELECT tenant_id, period_start, sum(units) AS used, sum(failed) AS failed, sum(refused) AS refused
    FROM metering_usage_hour GROUP BY 1, 2
) h USING (tenant_id, period_start)
WHERE tenant_id = ANY(%(tenants)s) AND (q.used, q.failed, q.refused, q.reserved) IS DISTINCT FROM (h.used, h.failed, h.refused, 0)
"""
UNMEASURED = """
SELECT count(*) FROM metering_usage_hour WHERE tenant_id = ANY(%(tenants)s)
AND billable + failed <> (SELECT coalesce(sum(bucket), 0) FROM unnest(latency_counts) AS bucket)
"""


@dataclass(frozen=True)
class Demo:
    now: datetime
    seeded: demo_data.Seeded

    def row(self, sql: str) -> tuple[int, ...]:
        parameters: dict[str, Any] = {
            "tenants": [made.tenant.id for made in self.seeded.tenants],
            "kept_from": demo_data.kept_from(self.now),
        }
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            row: tuple[int, ...] = cursor.fetchone()
        return row

    def tenant(self, slug: str) -> demo_data.SeededTenant:
        return next(made for made in self.seeded.tenants if made.tenant.slug == slug)


@pytest.fixture(scope="module")
def demo(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Demo]:
    """Seeded once for this file, in a transaction that never commits."""
    now = datetime.now(UTC)
    with django_db_blocker.unblock(), transaction.atomic():
        seeded = demo_data.seed(now=now, say=lambda _: None, stories=(*STORIES, story.GLOBEX))
        assert seeded is not None
        yield Demo(now, seeded)
        transaction.set_rollback(True)


def test_the_call_log_is_the_rollup_for_the_days_it_keeps(demo: Demo) -> None:
    ledger, rollup, differing = demo.row(LEDGER_AGAINST_ROLLUP)
    assert ledger == rollup > 500
    assert differing == 0


def test_the_quota_of_every_period_is_the_sum_of_its_usage_hours(demo: Demo) -> None:
    assert demo.row(QUOTA_AGAINST_ROLLUP) == (0,)


def test_every_answered_call_is_in_a_latency_histogram(demo: Demo) -> None:
    assert demo.row(UNMEASURED) == (0,)


def test_the_running_period_holds_what_the_story_says(demo: Demo) -> None:
    for told in (*STORIES, story.GLOBEX):
        quota = Quota.objects.get(tenant__slug=told.slug, period_start__lte=demo.now, period_end__gt=demo.now)
        assert quota.used == told.used


def test_each_tenant_has_thirteen_whole_periods_behind_it(demo: Demo) -> None:
    for made in demo.seeded.tenants:
        anchor = Allowance.objects.get(pk=made.tenant.id).anchor
        running = periods.containing(anchor, demo.now)
        starts = set(Quota.objects.filter(tenant=made.tenant, used__gt=0).values_list("period_start", flat=True))
        assert {period.start for period in periods.last(anchor, running, 14)} <= starts


def test_a_blocked_tenant_was_refused_by_its_quota(demo: Demo) -> None:
    globex = demo.tenant("globex").tenant
    allowance = Allowance.objects.get(pk=globex.id)
    quota = Quota.objects.get(tenant=globex, period_start__lte=demo.now, period_end__gt=demo.now)
    assert quota.used == allowance.admits == 5_000
    assert quota.refused > 0
    assert set(Call.objects.filter(tenant=globex, outcome="refused").values_list("reason", "status")) == {
        ("quota", 429)
    }


def test_no_call_lies_in_the_future(demo: Demo) -> None:
    tenants = [made.tenant for made in demo.seeded.tenants]
    assert not Call.objects.filter(tenant__in=tenants, occurred_at__gt=demo.now).exists()
    assert not ApiKey.objects.filter(tenant__in=tenants, last_used_at__gt=demo.now).exists()


def test_umbra_has_the_terms_that_were_agreed(demo: Demo) -> None:
    version = demo.tenant("umbra").tenant.account.plan_version
    assert (version.included, version.fee_minor, version.sla) == (300_000, 499_00, "99.9 % per month")
    assert Allowance.objects.get(pk=demo.tenant("umbra").tenant.id).hard_limit == 2_000_000


def test_every_key_that_was_shown_works(demo: Demo) -> None:
    for made in demo.seeded.tenants:
        for api_key in made.api_keys:
            assert KeyCache().verify(api_key, now=demo.now).tenant_slug == made.tenant.slug
    assert len(demo.tenant("acme").api_keys) == 3
    assert Project.objects.filter(tenant=demo.tenant("acme").tenant).count() == 3


def test_the_logins_that_were_shown_work(demo: Demo) -> None:
    admin = User.objects.get(email=demo.seeded.admin.email)
    assert admin.is_superuser
    assert admin.check_password(demo.seeded.admin.password or "")
    for made in demo.seeded.tenants:
        assert Membership.objects.get(tenant=made.tenant, user__email=made.owner.email).role == Role.OWNER
    [(reader, slugs)] = demo.seeded.also
    reads = Membership.objects.filter(user__email=reader.email, role=Role.VIEWER)
    assert sorted(reads.values_list("tenant__slug", flat=True)) == sorted(slugs) == ["acme", "globex"]


def test_the_products_own_audit_trail_tells_how_they_came_to_be(demo: Demo) -> None:
    actions = set(AuditEntry.objects.filter(tenant=demo.tenant("acme").tenant).values_list("action", flat=True))
    assert {"tenant.opened", "account.opened", "project.added", "key.issued"} <= actions


def test_seeding_again_changes_nothing(demo: Demo) -> None:
    before = Call.objects.count()
    assert demo_data.seed(now=demo.now, say=lambda _: None) is None
    assert Call.objects.count() == before
