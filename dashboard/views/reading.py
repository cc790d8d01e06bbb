"""The pages that show usage and money. What is shown is decided in the modules beside the views."""

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing.models import Account
from dashboard import alerts, invoices
from dashboard.arithmetic import projected_invoice
from dashboard.explanations import EXPLANATIONS
from dashboard.overview import overview as overview_of
from dashboard.pages import needs, render_page, with_account
from dashboard.trends import trends as trends_of
from tenants.access import Right, TenantRequest, tenant_page

RECENT_ALERTS = 3


@require_safe
@tenant_page
@needs(Right.SEE_WHOLE)
@with_account
def overview(request: TenantRequest, account: Account) -> HttpResponse:
    sees_money = Right.SEE_MONEY in request.rights
    page = overview_of(account=account, now=timezone.now(), sees_money=sees_money)
    fired = alerts.recent(tenant=account.tenant, sees_money=sees_money, limit=RECENT_ALERTS)
    context: dict[str, Any] = {"account": account, "page": page, "fired": fired}
    if sees_money and not request.htmx:
        context["recent_invoices"] = invoices.recent(account=account)
    return render_page(request, "dashboard/overview.html", "live", context)


@require_safe
@tenant_page
@needs(Right.SEE_WHOLE)
@with_account
def trends(request: TenantRequest, account: Account) -> HttpResponse:
    page = trends_of(account=account, now=timezone.now(), sees_money=Right.SEE_MONEY in request.rights)
    return render_page(request, "dashboard/trends.html", "content", {"account": account, "page": page})


@require_safe
@tenant_page
@needs(Right.SEE_MONEY)
@with_account
def invoice(request: TenantRequest, account: Account) -> HttpResponse:
    page = projected_invoice(account=account, now=timezone.now())
    return render_page(request, "dashboard/invoice.html", "content", {"account": account, "page": page})


@require_safe
def problem(request: HttpRequest, slug: str) -> HttpResponse:
    """What an error answer's `type` links to; public."""
    if slug not in EXPLANATIONS:
        raise Http404
    return render(request, "dashboard/problem.html", {"slug": slug, "problem": EXPLANATIONS[slug]})
