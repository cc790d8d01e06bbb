"""How a page becomes an answer: whole, or only the named partial that htmx swaps."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import resolve, reverse
from django.utils import timezone
from django.utils.cache import add_never_cache_headers, patch_vary_headers
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from billing.errors import BillingError
from billing.models import Account
from tenants.access import Right, TenantRequest, rights_of
from tenants.models import Membership, Tenant

from . import refusals
from .strips import Strip, kinds, strips


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the menu: the name of the page's address, what it is called, and the right to see it, if it needs one."""

    name: str
    label: Promise
    right: Right | None = None


LAST_TENANT = "last_tenant"
MOST_TENANTS = 10  # in the menu; a page of its own lists and finds all
PAGES: tuple[tuple[Promise, tuple[Entry, ...]], ...] = (
    (
        _("Usage"),
        (
            Entry("overview", _("Overview")),
            Entry("usage", _("Usage")),
            Entry("calls", _("Calls")),
            Entry("trends", _("Trends")),
        ),
    ),
    (
        _("Money"),
        (
            Entry("invoice", _("Projected invoice"), Right.SEE_MONEY),
            Entry("invoices", _("Invoices"), Right.SEE_MONEY),
            Entry("plan", _("Plan"), Right.SEE_MONEY),
            Entry("limits", _("Alerts and limits")),
        ),
    ),
    (
        _("Manage"),
        (
            Entry("projects", _("Projects")),
            Entry("keys", _("API keys")),
            Entry("team", _("Team")),
            Entry("audit", _("Audit log")),
            Entry("settings", _("Settings")),
        ),
    ),
)
BELOW = {
    "call": "calls",
    "why": "invoice",
    "invoice-detail": "invoices",
    "member": "team",
    "invite": "team",
    "change": "plan",
    "returned": "plan",
    "pay": "plan",
    "project": "projects",
    "archive-project": "projects",
    "new-key": "keys",
    "rotate-key": "keys",
    "revoke-key": "keys",
    "start": "overview",
    "webhooks": "limits",
    "webhook": "limits",
    "add-webhook": "limits",
    "act-on-webhook": "limits",
    "set-alert": "limits",
    "hard-limit": "limits",
}  # pages that the menu does not list


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a menu."""

    label: str
    detail: str
    address: str
    is_current: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Links of the menu that belong together, below their heading."""

    label: str
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """What surrounds every page of a tenant."""

    tenant: Tenant
    plan: str
    tenants: tuple[Link, ...]
    menu: tuple[Group, ...]
    admin_address: str
    is_demo: bool
    strips: tuple[Strip, ...]
    rights: frozenset[Right]

    @property
    def last(self) -> str:
        """What the strips tell of; a poll that finds something else asks for the page again."""
        return kinds(self.strips)

    @property
    def listed_tenants(self) -> tuple[Link, ...]:
        return self.tenants[:MOST_TENANTS]

    @property
    def has_more_tenants(self) -> bool:
        return len(self.tenants) > MOST_TENANTS

    @property
    def here(self) -> str:
        """The page of the menu that this is, or belongs to."""
        return next((link.label for group in self.menu for link in group.links if link.is_current), "")

    @property
    def may_see_whole(self) -> bool:
        return Right.SEE_WHOLE in self.rights

    @property
    def may_see_money(self) -> bool:
        return Right.SEE_MONEY in self.rights

    @property
    def may_change_money(self) -> bool:
        return Right.CHANGE_MONEY in self.rights

    @property
    def may_change_keys(self) -> bool:
        return Right.CHANGE_KEYS in self.rights

    @property
    def may_change_team(self) -> bool:
        return Right.CHANGE_TEAM in self.rights

    @property
    def may_see_audit(self) -> bool:
        return Right.SEE_AUDIT in self.rights


def with_account(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """The view gets the tenant's account; a tenant without one gets a page that says so. Below `tenant_page`."""

    @wraps(view)
    def for_accounts(request: TenantRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        account = account_of(request)
        if account is None:
            return render_page(request, "dashboard/no_plan.html", "content", {})
        return view(request, account, *args, **kwargs)

    return for_accounts


def account_of(request: TenantRequest) -> Account | None:
    """The tenant's account, with what pages ask of it."""
    found = Account.objects.select_related("tenant__allowance", "plan_version__plan", "next_version__plan")
    return found.filter(tenant_id=request.tenant.pk).first()


def needs(right: Right) -> Callable[[Callable[..., HttpResponse]], Callable[..., HttpResponse]]:
    """The view runs for members who have this right; others get a page (403) that says who has it. Below `tenant_page`.

    The menu lists a page for those who have what it needs, and for no others.
    """

    def decorate(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        @wraps(view)
        def for_some(request: TenantRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            return view(request, *args, **kwargs) if right in request.rights else not_yours(request, right)

        for_some.needed = needed_by(view) | {right}  # type: ignore[attr-defined]
        return for_some

    return decorate


def needed_by(view: Callable[..., Any]) -> frozenset[Right]:
    """The rights without which the view answers `not_yours`."""
    return getattr(view, "needed", frozenset())


@cache
def needed_for(page: str) -> frozenset[Right]:
    """The rights that the page of this name needs."""
    return needed_by(resolve(reverse(page, args=["any"])).func)


def not_yours(request: TenantRequest, right: Right) -> HttpResponse:
    """The page that says who may do this; nothing has changed."""
    response = render_page(request, "dashboard/not_yours.html", "content", {"right": right.value})
    response.status_code = 403
    return response


def money_form(page: str) -> Callable[[Callable[..., HttpResponse]], Callable[..., HttpResponse]]:
    """The view gets forms that were posted from `page` by owners and billing members. Below `tenant_page`.

    Others are told why not; whatever is refused is told on the page it came from, and nothing has changed.
    """

    def decorate(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        @wraps(view)
        def for_posts(request: TenantRequest) -> HttpResponse:
            if request.method != "POST":
                return redirect(page, tenant_slug=request.tenant.slug)
            if Right.CHANGE_MONEY not in request.rights:
                return not_yours(request, Right.CHANGE_MONEY)
            try:
                return view(request)
            except BillingError as error:
                messages.error(request, refusals.words(error))
                return redirect(page, tenant_slug=request.tenant.slug)

        return for_posts

    return decorate


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
    name = (request.resolver_match.url_name if request.resolver_match else "") or ""
    here = BELOW.get(name, name)
    slug = request.tenant.slug
    return Frame(
        tenant=request.tenant,
        plan=account.plan_version.plan.name if account else "",
        tenants=tuple(tenant_link(one, slug) for one in request.memberships[: MOST_TENANTS + 1]),
        menu=menu(slug=slug, here=here, rights=request.rights),
        admin_address=reverse("admin:index") if request.user.is_staff else "",
        is_demo=settings.SANDBOX,
        strips=_strips(request, account) if account else (),
        rights=request.rights,
    )


def tenant_link(membership: Membership, current: str = "") -> Link:
    """To the first page of the tenant that this member sees."""
    tenant = membership.tenant
    page = "overview" if needed_for("overview") <= rights_of(membership) else "usage"
    return Link(tenant.name, tenant.slug, reverse(page, args=[tenant.slug]), tenant.slug == current)


def _strips(request: TenantRequest, account: Account) -> tuple[Strip, ...]:
    return strips(account=account, now=timezone.now(), sees_money=Right.SEE_MONEY in request.rights)


def menu(*, slug: str, here: str, rights: frozenset[Right]) -> tuple[Group, ...]:
    """The tenant's pages that these rights may see, in groups; a group without any is left out."""
    groups = (
        Group(
            str(label),
            tuple(
                Link(str(entry.label), "", reverse(entry.name, args=[slug]), entry.name == here)
                for entry in entries
                if (entry.right is None or entry.right in rights) and needed_for(entry.name) <= rights
            ),
        )
        for label, entries in PAGES
    )
    return tuple(group for group in groups if group.links)
