"""Single calls: the list, its CSV, and a page for each."""

from uuid import UUID

from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing import calls_api, series
from billing.calls_api import fields
from billing.models import Account
from dashboard import calls as calls_of
from dashboard.exports import csv_answer
from dashboard.pages import render_page, with_account
from metering import call_log
from tenants.access import Right, TenantRequest, tenant_page

from .exploring import REGION, reader_of


@require_safe
@tenant_page
@with_account
def calls(request: TenantRequest, account: Account) -> HttpResponse:
    """The query is the API's, and `id` of one call: it leads to the call's page."""
    asked, reader = calls_of.asked_by(request.GET), reader_of(request)
    call_id = calls_of.single(asked)
    if call_id is not None and call_log.find(
        tenant_id=account.tenant_id, call_id=call_id, project_ids=reader.project_ids
    ):
        return _to_call(request, call_id)
    page = calls_of.calls(
        account=account, asked=asked, cursor=request.GET.get("cursor", ""), reader=reader, now=timezone.now()
    )
    answer = render_page(request, "dashboard/calls.html", "region", {"account": account, "page": page})
    if request.htmx.target == REGION:
        address = reverse("calls", args=[request.tenant.slug])
        answer["HX-Push-Url"] = f"{address}{'?' if page.address else ''}{page.address}"
    return answer


def _to_call(request: TenantRequest, call_id: UUID) -> HttpResponse:
    address = reverse("call", args=[request.tenant.slug, call_id])
    if not request.htmx:
        return redirect(address)
    answer = HttpResponse(status=204)
    answer["HX-Redirect"] = address
    return answer


@require_safe
@tenant_page
@with_account
def calls_csv(request: TenantRequest, account: Account) -> HttpResponse:
    """The page's query as the API's fields, every call of it; one without an answer leads to the page, which says why."""
    asked = calls_of.asked_by(request.GET)
    try:
        wanted = calls_of.read(account=account, asked=asked, reader=reader_of(request), now=timezone.now())
    except series.QueryRefused:
        return redirect(f"{reverse('calls', args=[request.tenant.slug])}?{request.GET.urlencode()}")
    known = calls_api.names(account)
    rows = (fields(row, known).values() for row in call_log.stream(wanted))
    name = f"calls-{request.tenant.slug}-{wanted.start:%Y-%m-%d}-{wanted.end:%Y-%m-%d}"
    return csv_answer(name=name, header=calls_api.FIELDS, rows=rows)  # type: ignore[return-value]  # any answer will do


@require_safe
@tenant_page
@with_account
def call(request: TenantRequest, account: Account, call_id: UUID) -> HttpResponse:
    """One call; another tenant's is not found, and neither is one that the log does not keep any more."""
    page = calls_of.call_page(account=account, call_id=call_id, reader=reader_of(request), now=timezone.now())
    if page is None:
        raise Http404
    context = {"account": account, "page": page, "may_see_money": Right.SEE_MONEY in request.rights}
    return render_page(request, "dashboard/call.html", "content", context)
