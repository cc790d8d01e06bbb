"""How a page becomes an answer: whole, or only the named partial that htmx swaps."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from django.conf import settings
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import add_never_cache_headers, patch_vary_headers
from django.utils.translation import gettext_lazy as _

from billing.models import Account
from tenants.access import TenantRequest, tenants_of
from tenants.models import Tenant

LAST_TENANT = "last_tenant"
PAGES = (
    ("overview", _("Overview")),
    ("usage", _("Usage")),
    ("trends", _("Trends")),
    ("invoice", _("Projected invoice")),
    ("plan", _("Plan")),
)


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a menu."""

    label: str
    detail: str
    address: str
    is_current: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """What surrounds every page of a tenant."""

    tenant: Tenant
    plan: str
    tenants: tuple[Link, ...]
    pages: tuple[Link, ...]
    admin_address: str
    is_demo: bool


def with_account(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """The view gets the tenant's account; a tenant without one gets a page that says so. Below `tenant_page`."""

    @wraps(view)
    def for_accounts(request: TenantRequest) -> HttpResponse:
        account = (
            Account.objects.select_related("tenant__allowance", "plan_version__plan")
            .filter(tenant_id=request.tenant.pk)
            .first()
        )
        if account is None:
            return render_page(request, "dashboard/no_plan.html", "content", {})
        return view(request, account)

    return for_accounts


def render_page(request: TenantRequest, template: str, partial: str, context: dict[str, Any]) -> HttpResponse:
    """The whole page, or for an htmx swap only its named partial."""
    htmx = request.htmx
    if htmx and not (htmx.boosted or htmx.history_restore_request):
        template = f"{template}#{partial}"
    else:
        context = {**context, "frame": frame(request, context.get("account"))}
        remember(request)
    response = render(request, template, context)
    patch_vary_headers(response, ["HX-Request", "HX-Boosted", "HX-History-Restore-Request"])
    add_never_cache_headers(response)
    return response


def remember(request: TenantRequest) -> None:
    """The next visit begins with this tenant."""
    if request.session.get(LAST_TENANT) != request.tenant.slug:
        request.session[LAST_TENANT] = request.tenant.slug


def frame(request: TenantRequest, account: Account | None) -> Frame:
    """The tenant's header and menu."""
    here = request.resolver_match.url_name if request.resolver_match else ""
    slug = request.tenant.slug
    return Frame(
        tenant=request.tenant,
        plan=account.plan_version.plan.name if account else "",
        tenants=tuple(
            Link(tenant.name, tenant.slug, reverse("overview", args=[tenant.slug]), tenant.slug == slug)
            for tenant in tenants_of(request.user)
        ),
        pages=tuple(Link(str(label), "", reverse(name, args=[slug]), name == here) for name, label in PAGES),
        admin_address=reverse("admin:index") if request.user.is_staff else "",
        is_demo=settings.SANDBOX,
    )
