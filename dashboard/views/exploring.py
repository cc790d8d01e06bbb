"""Usage over any range: the page, its CSV."""

import re

from django.http import HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing import series
from billing.models import Account
from dashboard import usage_csv as csv_of
from dashboard import usage_filters
from dashboard.explorer import Reader, explorer, read
from dashboard.exports import csv_answer
from dashboard.pages import render_page, with_account
from tenants.access import Right, TenantRequest, tenant_page

REGION = "region"


def reader_of(request: TenantRequest) -> Reader:
    return Reader(getattr(request, "projects", None), Right.SEE_MONEY in request.rights)


@require_safe
@tenant_page
@with_account
def usage(request: TenantRequest, account: Account) -> HttpResponse:
    """The query is the API's, and `page` one of the table. htmx swaps everything after a filter changed, else the numbers."""
    asked = usage_filters.asked(request.GET, edited=request.htmx.trigger_name or "")
    number = request.GET.get("page", "")
    page = explorer(
        account=account,
        asked=asked,
        reader=reader_of(request),
        now=timezone.now(),
        page=int(number) if re.fullmatch("[1-9][0-9]{0,4}", number) else 1,
    )
    is_filtering = request.htmx.target == REGION
    partial = "region" if is_filtering else "live"
    context = {"account": account, "page": page, "slug": request.tenant.slug}
    answer = render_page(request, "dashboard/usage.html", partial, context)
    if is_filtering:  # the address that says the same in the fewest words
        answer["HX-Push-Url"] = _address(request, page.address)
    return answer


def _address(request: TenantRequest, query: str) -> str:
    return f"{reverse('usage', args=[request.tenant.slug])}{'?' if query else ''}{query}"


@require_safe
@tenant_page
@with_account
def usage_csv(request: TenantRequest, account: Account) -> HttpResponse:
    """The page's query as the API's fields; one without an answer leads to the page, which says why."""
    asked, now = usage_filters.asked(request.GET), timezone.now()
    try:
        query = read(account=account, asked=asked, reader=reader_of(request), now=now, is_export=True)
    except series.QueryRefused:
        return redirect(_address(request, usage_filters.canonical(asked)))
    name = f"usage-{request.tenant.slug}-{query.scope.start:%Y-%m-%d}-{query.scope.end:%Y-%m-%d}"
    rows = csv_of.rows(account=account, query=query, now=now)
    return csv_answer(name=name, header=csv_of.header(query), rows=rows)  # type: ignore[return-value]  # any answer will do
