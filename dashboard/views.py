"""One function a page: it reads, and hands what it read to a template. What is shown is decided in the modules beside it."""

from django.conf import settings
from django.contrib.auth.views import LoginView
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_safe
from django_htmx.http import HttpResponseClientRedirect

from billing.models import Account
from metering import usage as metered
from tenants.access import TenantRequest, tenant_page, tenants_of
from tenants.models import User

from . import breakdown
from .arithmetic import projected_invoice
from .explanations import EXPLANATIONS
from .explorer import explorer
from .forms import SignInForm
from .offers import offers
from .overview import overview as overview_of
from .pages import LAST_TENANT, render_page, with_account
from .trends import trends as trends_of

sign_in = LoginView.as_view(
    template_name="dashboard/login.html",
    authentication_form=SignInForm,
    redirect_authenticated_user=True,
    extra_context={"is_demo": settings.SANDBOX},
)


def login(request: TenantRequest) -> HttpResponseBase:
    """Sign in. A poll whose session has ended is sent here by the browser, so that no form lands inside a page."""
    if request.htmx:
        return HttpResponseClientRedirect(request.get_full_path())
    return sign_in(request)


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """The tenant that was looked at last, else the first; a person without a tenant is told what to do."""
    if not isinstance(request.user, User):
        return redirect("login")
    slugs = [tenant.slug for tenant in tenants_of(request.user)]
    if not slugs:
        return render(request, "dashboard/no_tenant.html", {"is_demo": settings.SANDBOX})
    last = request.session.get(LAST_TENANT)
    return redirect("overview", tenant_slug=last if last in slugs else slugs[0])


@require_safe
@tenant_page
@with_account
def overview(request: TenantRequest, account: Account) -> HttpResponse:
    page = overview_of(account=account, now=timezone.now())
    return render_page(request, "dashboard/overview.html", "live", {"account": account, "page": page})


@require_safe
@tenant_page
@with_account
def usage(request: TenantRequest, account: Account) -> HttpResponse:
    """`?by=` capability, project or key; anything else is read as capability."""
    wanted = request.GET.get("by", "")
    group_by = metered.GroupBy(wanted) if wanted in breakdown.CHOICES else metered.GroupBy.CAPABILITY
    page = explorer(account=account, group_by=group_by, now=timezone.now())
    return render_page(request, "dashboard/usage.html", "live", {"account": account, "page": page})


@require_safe
@tenant_page
@with_account
def trends(request: TenantRequest, account: Account) -> HttpResponse:
    page = trends_of(account=account, now=timezone.now())
    return render_page(request, "dashboard/trends.html", "content", {"account": account, "page": page})


@require_safe
@tenant_page
@with_account
def invoice(request: TenantRequest, account: Account) -> HttpResponse:
    page = projected_invoice(account=account, now=timezone.now())
    return render_page(request, "dashboard/invoice.html", "content", {"account": account, "page": page})


@require_safe
@tenant_page
@with_account
def plan(request: TenantRequest, account: Account) -> HttpResponse:
    page = offers(account=account)
    return render_page(request, "dashboard/plan.html", "content", {"account": account, "page": page})


@require_safe
def problem(request: HttpRequest, slug: str) -> HttpResponse:
    """What an error answer's `type` links to; public."""
    if slug not in EXPLANATIONS:
        raise Http404
    return render(request, "dashboard/problem.html", {"slug": slug, "problem": EXPLANATIONS[slug]})
