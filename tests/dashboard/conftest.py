"""Tenants in the states that the pages show. Usage is written into the rollup itself: no page asks where it came from."""

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.db import connection
from django.test import Client
from django.utils import timezone

from billing.onboarding import Onboarded
from metering import periods
from metering.models import Allowance
from metering.recorder import call_id as new_call_id
from tenants.models import ApiKey, Project, Role, Tenant, User
from tests.billing.conftest import prices, stripe, subscribe

__all__ = ["prices", "stripe", "subscribe"]  # fixtures of theirs

ADD_HOUR = """
INSERT INTO metering_usage_hour AS h (tenant_id, hour, period_start, project_id, api_key_id, capability,
                                      billable, units, failed, refused, latency_start, latency_counts)
VALUES (%(tenant)s, %(hour)s, %(period)s, %(project)s, %(key)s, %(capability)s,
        %(billable)s, %(billable)s, %(failed)s, %(refused)s, 30, %(latencies)s)
ON CONFLICT (tenant_id, hour, period_start, project_id, api_key_id, capability) DO UPDATE
SET billable = h.billable + EXCLUDED.billable, units = h.units + EXCLUDED.units,
    failed = h.failed + EXCLUDED.failed, refused = h.refused + EXCLUDED.refused
"""
ADD_USED = """
UPDATE metering_quota SET used = used + %(billable)s, failed = failed + %(failed)s, refused = refused + %(refused)s
WHERE tenant_id = %(tenant)s AND period_start = %(period)s
"""
MIDDLE = timedelta(days=20)


@dataclass(frozen=True)
class Used:
    """Calls of one capability at one moment."""

    at: datetime
    capability: str = "auth"
    billable: int = 0
    failed: int = 0
    refused: int = 0

    def row(self, key: ApiKey, period: periods.Period) -> dict[str, Any]:
        answered = self.billable + self.failed
        return {
            "tenant": key.tenant_id,
            "hour": max(periods.hour_of(self.at), periods.hour_of(period.start)),
            "period": period.start,
            "project": key.project_id,
            "key": key.pk,
            "capability": self.capability,
            "billable": self.billable,
            "failed": self.failed,
            "refused": self.refused,
            "latencies": [answered * 6 // 10, answered * 3 // 10, answered - answered * 6 // 10 - answered * 3 // 10],
        }


def add_all(key: ApiKey, usage: Iterable[Used]) -> None:
    """These calls are in the rollup and the quota, each in the hour and the period of its moment."""
    anchor = Allowance.objects.get(pk=key.tenant_id).anchor
    rows = [used.row(key, periods.containing(anchor, used.at)) for used in usage]
    totals: dict[datetime, dict[str, Any]] = {}
    for row in rows:
        total = totals.setdefault(
            row["period"], {"tenant": row["tenant"], "period": row["period"], "billable": 0, "failed": 0, "refused": 0}
        )
        for name in ("billable", "failed", "refused"):
            total[name] += row[name]
    with connection.cursor() as cursor:
        cursor.executemany(ADD_HOUR, rows)
        cursor.executemany(ADD_USED, list(totals.values()))


def add_usage(
    key: ApiKey, at: datetime, *, capability: str = "auth", billable: int = 0, failed: int = 0, refused: int = 0
) -> None:
    """These calls of one moment are in the rollup and the quota."""
    add_all(key, [Used(at, capability, billable, failed, refused)])


ADD_CALL = """
INSERT INTO metering_call (tenant_id, occurred_at, id, project_id, api_key_id, capability, outcome, reason, status, calls, units,
                           latency_us, batch_id)
VALUES (%(tenant)s, %(at)s, %(id)s, %(project)s, %(key)s, %(capability)s, %(outcome)s, %(reason)s, %(status)s, %(calls)s, %(units)s,
        12345, %(id)s)
"""


def add_call(
    key: ApiKey, at: datetime, *, outcome: str = "billable", status: int = 200, reason: str = "", calls: int = 1
) -> UUID:
    """This call is in the log, the rollup and the quota; returns its id."""
    counted: dict[str, Any] = {outcome: calls}
    add_usage(key, at, capability="storage", **counted)
    call_id = UUID(new_call_id(at.timestamp()))
    values: dict[str, Any] = {
        "tenant": key.tenant_id, "at": at, "id": call_id, "project": key.project_id, "key": key.pk, "capability": "storage",
        "outcome": outcome, "reason": reason, "status": status, "calls": calls, "units": calls if outcome == "billable" else 0,
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(ADD_CALL, values)
    return call_id


def add_days(
    key: ApiKey, *, now: datetime, days: int, calls: int, capabilities: Iterable[str] = ("auth", "database", "storage")
) -> None:
    """About so many calls on each of the last days, weekends quieter; every capability has its part."""
    usage = []
    for back in range(days):
        at = now - timedelta(days=back)
        weight = 6 if at.weekday() > 4 else 10
        for place, capability in enumerate(capabilities):
            billable = calls * (place + 2) * (weight + back % 3) // 120
            usage.append(Used(at, capability, billable, failed=billable // 300))
    add_all(key, usage)


class OneRound(PBKDF2PasswordHasher):
    """Django's own hash, which any server verifies, with one round instead of a million."""

    iterations = 1


@pytest.fixture(autouse=True)
def _hash_passwords_fast(settings: Any) -> None:
    """Every test has people in it, and a real hash takes a third of a second."""
    settings.PASSWORD_HASHERS = [f"{__name__}.OneRound"]


@dataclass(frozen=True)
class Visitor:
    """A signed-in owner and what they own."""

    client: Client
    owned: Onboarded

    @property
    def slug(self) -> str:
        return self.owned.tenant.slug

    def page(self, name: str = "", **options: Any) -> str:
        """The text of one of the tenant's pages."""
        response = self.client.get(f"/t/{self.slug}/{name}", **options)
        assert response.status_code == 200
        return response.content.decode()

    def becomes(self, role: Role, *, projects: Iterable[Project] | None = None) -> None:
        """This person has another role from now on, restricted to these projects where some are given."""
        be(self.owned.tenant, role, projects=projects)


def be(tenant: Tenant, role: Role, *, projects: Iterable[Project] | None = None) -> None:
    """The tenant's first owner has this role; somebody else owns it, since somebody must."""
    if role != Role.OWNER:
        other = User.objects.create_user(f"other-{uuid.uuid4().hex[:10]}@example.com")
        tenant.memberships.create(user=other, role=Role.OWNER)
    membership = tenant.memberships.earliest("created_at")
    membership.role, membership.is_restricted = role, projects is not None
    membership.save(update_fields=["role", "is_restricted"])
    membership.seen.all().delete()
    for project in projects or ():
        membership.seen.create(tenant=tenant, project=project)


Visit = Callable[..., Visitor]


@pytest.fixture
def visit(db: None, make_tenant: Callable[..., Onboarded]) -> Visit:
    """The owner of a new tenant, signed in, by default twenty days into the period."""

    def enter(name: str = "Acme", *, into: timedelta = MIDDLE, **options: Any) -> Visitor:
        owned = make_tenant(name, anchor=timezone.now() - into, **options)
        client = Client()
        client.force_login(owned.user)
        return Visitor(client, owned)

    return enter
