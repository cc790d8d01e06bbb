"""The team page: who is a member, in which role and for which projects, and who is invited."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from allauth.mfa.models import Authenticator
from django.core.paginator import Page, Paginator
from django.db.models import Exists, OuterRef, Q
from django.utils.translation import gettext as _

from tenants import invitations, members
from tenants.errors import TenantsError
from tenants.models import Invitation, Membership, Project, Role, Tenant

PAGE_SIZE = 50
FACTORS = (Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN)


@dataclass(frozen=True, slots=True)
class Member:
    """A row. `projects` are names, None for all."""

    id: int
    email: str
    name: str
    role: str
    projects: tuple[str, ...] | None
    since: datetime
    has_second_factor: bool
    is_reader: bool
    is_active: bool


@dataclass(frozen=True, slots=True)
class Invited:
    """An open invitation."""

    id: UUID
    email: str
    role: str
    projects: tuple[str, ...] | None
    by: str
    sent_at: datetime
    expires_at: datetime
    is_expired: bool


@dataclass(frozen=True, slots=True)
class Team:
    """The page. Whoever is restricted to some projects sees nobody else."""

    members: tuple[Member, ...]
    paging: "Page[Any]"
    invited: tuple[Invited, ...]
    sees_all: bool


def team(*, tenant: Tenant, reader: Membership, sees_all: bool, number: str, now: datetime) -> Team:
    """The tenant's people, those who were there first first; invitations beside them on the first page."""
    everyone = Membership.objects.filter(tenant=tenant).order_by("created_at", "pk")
    shown = everyone if sees_all else everyone.filter(pk=reader.pk)
    second = Authenticator.objects.filter(user_id=OuterRef("user_id"), type__in=FACTORS)
    rows = shown.select_related("user").prefetch_related("projects").annotate(has_second=Exists(second))
    paging = Paginator(rows, PAGE_SIZE).get_page(number)
    return Team(
        members=tuple(_member(row, reader) for row in paging.object_list),
        paging=paging,
        invited=tuple(_invited(tenant, now)) if sees_all else (),
        sees_all=sees_all,
    )


def projects_of(tenant: Tenant) -> list[Project]:
    """Those that a member may be restricted to."""
    return list(Project.objects.filter(tenant=tenant).order_by("name"))


def words(error: TenantsError) -> str:
    """What was refused, and what to do, to people."""
    said = {
        members.LastOwner: _(
            "A tenant keeps at least one owner. Make somebody else an owner first; nothing has changed."
        ),
        members.NoMember: _("This person is no longer a member."),
        members.NotRestrictable: _(
            "Only developers and viewers are restricted, and to projects of this tenant. Nothing has changed."
        ),
        invitations.AlreadyMember: _("This address belongs to a member already."),
        invitations.TooManyInvitations: _(
            "So many invitations were sent in the last 24 hours that no more are sent today. Try again tomorrow."
        ),
        invitations.InvitationOver: _("This invitation was accepted or withdrawn meanwhile."),
    }
    return said.get(type(error), str(error))


def _member(row: Membership, reader: Membership) -> Member:
    return Member(
        id=row.pk,
        email=row.user.email,
        name=row.user.name,
        role=str(Role(row.role).label),
        projects=tuple(project.name for project in row.projects.all()) if row.is_restricted else None,
        since=row.created_at,
        has_second_factor=row.has_second,  # type: ignore[attr-defined]  # annotated
        is_reader=row.pk == reader.pk,
        is_active=row.user.is_active,
    )


def _invited(tenant: Tenant, now: datetime) -> list[Invited]:
    rows = list(tenant.invitations.filter(Q(accepted_at=None), Q(revoked_at=None))[:PAGE_SIZE])
    wanted = {pk for row in rows for pk in row.project_ids or ()}
    names = dict(Project.objects.filter(tenant=tenant, pk__in=wanted).values_list("pk", "name")) if wanted else {}
    return [_invited_row(row, names, now) for row in rows]


def _invited_row(row: Invitation, names: dict[int, str], now: datetime) -> Invited:
    projects = None if row.project_ids is None else tuple(names[pk] for pk in row.project_ids if pk in names)
    return Invited(
        id=row.pk,
        email=row.email,
        role=str(Role(row.role).label),
        projects=projects,
        by=row.invited_by,
        sent_at=row.expires_at - invitations.VALID_FOR,
        expires_at=row.expires_at,
        is_expired=row.expires_at <= now,
    )
