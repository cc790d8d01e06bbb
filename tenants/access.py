"""Which tenant a page request is for, and whether this person may see it."""

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import Any

from django.contrib.auth.decorators import login_required
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django_htmx.middleware import HtmxDetails

from .models import Membership, Project, Role, Tenant, User


class Right(StrEnum):
    """What a role may be allowed beyond looking at usage, which every member may."""

    SEE_WHOLE = "see-whole"  # what adds up all projects: overview, trends, limits, members

    SEE_MONEY = "see-money"  # amounts, the plan, invoices
    CHANGE_MONEY = "change-money"  # the plan, payment, limits, alerts
    CHANGE_KEYS = "change-keys"  # projects and API keys
    CHANGE_TEAM = "change-team"  # members, invitations, the tenant's own settings
    SEE_AUDIT = "see-audit"


RIGHTS = {
    Role.OWNER: frozenset(Right),
    Role.BILLING: frozenset({Right.SEE_WHOLE, Right.SEE_MONEY, Right.CHANGE_MONEY, Right.SEE_AUDIT}),
    Role.DEVELOPER: frozenset({Right.SEE_WHOLE, Right.CHANGE_KEYS}),
    Role.VIEWER: frozenset({Right.SEE_WHOLE, Right.SEE_MONEY, Right.SEE_AUDIT}),  # sees everything, changes nothing
}
# Of the rights of its role, what stays with a member who is restricted to some projects: the others are about all of them.
RESTRICTED_RIGHTS = frozenset({Right.CHANGE_KEYS})


# Beside the right to change keys. All but the first scope reach the whole tenant, whatever project the key is of.
SCOPE_RIGHTS = {
    "calls": Right.CHANGE_KEYS,
    "usage:read": Right.SEE_WHOLE,
    "events:write": Right.SEE_WHOLE,
    "money:read": Right.SEE_MONEY,
    "audit:read": Right.SEE_AUDIT,
    "limits:write": Right.CHANGE_MONEY,
    "projects:write": Right.SEE_WHOLE,
    "keys:write": Right.SEE_WHOLE,
}


def scopes_to_give(rights: frozenset[Right]) -> frozenset[str]:
    """What a member may let an API key do: no more than they may do themselves."""
    if Right.CHANGE_KEYS not in rights:
        return frozenset()
    return frozenset(scope for scope, right in SCOPE_RIGHTS.items() if right in rights)


class TenantRequest(HttpRequest):
    """A page request after `tenant_page`: who asks, for which tenant, in which role, with which rights.

    `projects` are the ids of the projects that the member is restricted to, None for all of them. Usage, calls, projects and
    keys show only these, in partials, filters and downloads too; a restricted member adds no project.
    """

    user: User
    tenant: Tenant
    memberships: list[Membership]  # all of this person, by the tenant's name
    role: Role
    rights: frozenset[Right]
    projects: frozenset[int] | None
    htmx: HtmxDetails


def tenant_page(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """The view runs for members of the tenant that the address names; for all others the page does not exist (404)."""

    @login_required
    @wraps(view)
    def for_members(request: TenantRequest, tenant_slug: str, *args: Any, **kwargs: Any) -> HttpResponse:
        every = list(Membership.objects.filter(user=request.user).select_related("tenant").order_by("tenant__name"))
        membership = next((one for one in every if one.tenant.slug == tenant_slug), None)
        if membership is None:
            raise Http404
        request.memberships = every
        request.tenant = membership.tenant
        request.role = Role(membership.role)
        request.rights = rights_of(membership)
        request.projects = projects_of(membership)
        return view(request, *args, **kwargs)

    return for_members


def rights_of(membership: Membership) -> frozenset[Right]:
    """What this member may do."""
    rights = RIGHTS[Role(membership.role)]
    return rights & RESTRICTED_RIGHTS if membership.is_restricted else rights


def projects_of(membership: Membership) -> frozenset[int] | None:
    """The ids of the projects that this member sees; None for all, also for those to come."""
    if not membership.is_restricted:
        return None
    return frozenset(membership.seen.values_list("project_id", flat=True))


def visible_projects(request: TenantRequest) -> QuerySet[Project]:
    """The tenant's projects that this member sees, by name."""
    projects = Project.objects.filter(tenant=request.tenant)
    return projects if request.projects is None else projects.filter(pk__in=request.projects)


def memberships_of(user: User, *, named: str = "") -> QuerySet[Membership]:
    """This person's memberships by the tenant's name; with `named` only of tenants whose name or slug has it."""
    found = Membership.objects.filter(user=user).select_related("tenant").order_by("tenant__name", "pk")
    return found.filter(Q(tenant__name__icontains=named) | Q(tenant__slug__icontains=named)) if named else found


def tenants_of(user: User) -> list[Tenant]:
    """The tenants this person is a member of, by name."""
    return list(Tenant.objects.filter(memberships__user=user).order_by("name"))
