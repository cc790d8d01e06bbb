"""The demo's data: four tenants on four plans with more than a year behind them, an operator, and an agency's reader.

Accounts come into being through the product's own code; all of it is one transaction, so an interrupted seeding leaves
nothing behind.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import monotonic

from django.conf import settings
from django.db import connection, transaction

from billing import onboarding
from billing.models import Account
from metering import partitions, periods
from tenants import audit, directory, keys, members
from tenants.models import ApiKey, AuditEntry, Membership, Project, Role, Tenant, User

from . import history, story
from .loading import Loader

ACTOR = "command seed_demo"
SEEDED = "demo.seeded"
OPERATOR = "admin@meterhouse.example"
READER = "sam@agency.example"
READS = ("acme", "globex")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Login:
    """`password` is None for a person who had one already."""

    email: str
    password: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class SeededTenant:
    tenant: Tenant
    plan: str
    owner: Login
    api_keys: tuple[str, ...] = field(repr=False)  # the first one is the one to show


@dataclass(frozen=True, slots=True)
class Seeded:
    """What exists now, with secrets that cannot be read again."""

    admin: Login
    tenants: tuple[SeededTenant, ...]
    also: tuple[tuple[Login, tuple[str, ...]], ...]


def seed(*, now: datetime, say: Say, stories: tuple[story.TenantStory, ...] = story.TENANTS) -> Seeded | None:
    """The demo's data is in the database; None when it was there before. Raises SlugTaken when another tenant has a name."""
    if AuditEntry.objects.filter(tenant=None, action=SEEDED).exists():
        return None
    frame = history.frame(now=now)
    partitions.ensure(calls_from=kept_from(now), hours_from=frame.anchor, now=now)
    with transaction.atomic():
        seeded = Seeded(
            admin=_person(OPERATOR, name="Operator", is_staff=True, is_superuser=True),
            tenants=tuple(_tenant(told, frame, say) for told in stories),
            also=((_reader(), READS),),
        )
        audit.record(tenant=None, actor=ACTOR, action=SEEDED, subject="demo")
    say("Collecting statistics for the query planner")
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE metering_usage_hour, metering_call, metering_quota")
    return seeded


def kept_from(now: datetime) -> datetime:
    """The first instant whose calls are in the call log: the retention job keeps whole days."""
    return periods.day_of(now - timedelta(days=settings.CALL_LOG_DAYS))


def _tenant(told: story.TenantStory, frame: history.Frame, say: Say) -> SeededTenant:
    """The tenant exists with its owner, projects, keys and history."""
    made = onboarding.onboard(
        name=told.name, slug=told.slug, email=told.email, plan_code=told.plan, actor=ACTOR, now=frame.now,
        anchor=frame.anchor, agreed=told.agreed, hard_limit=told.hard_limit, project_name=told.projects[0],
    )  # fmt: skip
    projects = {told.projects[0]: made.key.project}
    for name in told.projects[1:]:
        projects[name] = directory.add_project(tenant=made.tenant, name=name, actor=ACTOR)
    issued = [(made.key, made.api_key)]
    for key in told.keys[1:]:
        issued.append(keys.issue(project=projects[key.project], name=key.name, actor=ACTOR, created_by=made.user))
    rows = [row for row, _ in issued]
    _load(told, made.tenant, rows, frame, say)
    return SeededTenant(
        made.tenant, told.plan, Login(made.user.email, made.password), tuple(api_key for _, api_key in issued)
    )


def _load(told: story.TenantStory, tenant: Tenant, rows: list[ApiKey], frame: history.Frame, say: Say) -> None:
    started = monotonic()
    cells = history.cells(story=told, frame=frame)
    kept = kept_from(frame.now).timestamp()
    past, recent = [cell for cell in cells if cell.hour < kept], [cell for cell in cells if cell.hour >= kept]
    loader = Loader(
        tenant_id=tenant.id, keys=[(row.project_id, row.pk) for row in rows], frame=frame, seed=f"{told.slug} calls"
    )
    loader.load_hours(past)
    loader.open_periods()
    calls = loader.load_calls(recent)
    _backdate(told, tenant, rows, cells, frame)
    say(f"{told.name}: {len(cells):,} usage hours and {calls:,} calls in {monotonic() - started:.1f} s")


def _backdate(
    told: story.TenantStory, tenant: Tenant, rows: list[ApiKey], cells: list[history.Cell], frame: history.Frame
) -> None:
    """Everything is as old as its history says. Only the audit entries keep their real time: nothing changes them."""
    Tenant.objects.filter(pk=tenant.pk).update(created_at=frame.anchor)
    Account.objects.filter(pk=tenant.pk).update(created_at=frame.anchor)
    Project.objects.filter(tenant=tenant).update(created_at=frame.anchor)
    Membership.objects.filter(tenant=tenant).update(created_at=frame.anchor)
    last = {cell.key: cell.hour for cell in cells}
    for place, (row, key) in enumerate(zip(rows, told.keys, strict=True)):
        used_at = min(datetime.fromtimestamp(last[place] + history.HOUR, UTC), frame.now) - timedelta(minutes=place)
        ApiKey.objects.filter(pk=row.pk).update(
            name=key.name, created_at=history.key_since(key.since_days, frame), last_used_at=used_at
        )


def _reader() -> Login:
    login = _person(READER, name="Sam Reader")
    for tenant in Tenant.objects.filter(slug__in=READS):
        members.add(tenant=tenant, user=User.objects.get(email=READER), role=Role.VIEWER, actor=ACTOR)
    return login


def _person(email: str, *, name: str, is_staff: bool = False, is_superuser: bool = False) -> Login:
    if User.objects.filter(email=email).exists():
        return Login(email, None)
    password = secrets.token_urlsafe(12)
    User.objects.create_user(email, password, name=name, is_staff=is_staff, is_superuser=is_superuser)
    return Login(email, password)
