"""Which tenant a page request is for, and whether this person may see it."""

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django_htmx.middleware import HtmxDetails

from .models import Membership, Role, Tenant, User


class Right(StrEnum):
    """What a role may be allowed beyond looking at usage, which every member may."""

    SEE_MONEY = "see-money"  # amounts, the plan, invoices
    CHANGE_MONEY = "change-money"  # the plan, payment, limits, alerts
    CHANGE_KEYS = "change-keys"  # projects and API keys
    CHANGE_TEAM = "change-team"  # members, invitations, the tenant's own settings
    SEE_AUDIT = "see-audit"


RIGHTS = {
    Role.OWNER: frozenset(Right),
    Role.BILLING: frozenset({Right.SEE_MONEY, Right.CHANGE_MONEY, Right.SEE_AUDIT}),
    Role.DEVELOPER: frozenset({Right.CHANGE_KEYS}),
    Role.VIEWER: frozenset({Right.SEE_MONEY, Right.SEE_AUDIT}),  # sees everything, changes nothing
}


class TenantRequest(HttpRequest):
    """A page request after `tenant_page`: who asks, for which tenant, in which role, with which rights."""

    user: User
    tenant: Tenant
    role: Role
    rights: frozenset[Right]
    htmx: HtmxDetails


def tenant_page(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """The view runs for members of the tenant that the address names; for all others the page does not exist (404)."""

    @login_required
    @wraps(view)
    def for_members(request: TenantRequest, tenant_slug: str, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            membership = Membership.objects.select_related("tenant").get(tenant__slug=tenant_slug, user=request.user)
        except Membership.DoesNotExist:
            raise Http404 from None
        request.tenant = membership.tenant
        request.role = Role(membership.role)
        request.rights = RIGHTS[request.role]
        return view(request, *args, **kwargs)

    return for_members


def tenants_of(user: User) -> list[Tenant]:
    """The tenants this person is a member of, by name."""
    return list(Tenant.objects.filter(memberships__user=user).order_by("name"))
