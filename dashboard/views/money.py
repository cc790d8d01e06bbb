"""Invoices, and why any amount is what it is."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.http import Http404, HttpResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing import invoice_documents
from billing.models import Account
from dashboard import exports
from dashboard import invoices as invoices_of
from dashboard.pages import needs, render_page, with_account
from dashboard.why import why as why_of
from tenants.access import Right, TenantRequest, tenant_page

MOST_PAGES = 10_000
LONGEST_AGO = timedelta(days=3_660)


@require_safe
@tenant_page
@needs(Right.SEE_MONEY)
@with_account
def invoices(request: TenantRequest, account: Account) -> HttpResponse:
    """`?page=` from 1 on; anything else is read as the first."""
    asked = request.GET.get("page", "")
    page = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < len(str(MOST_PAGES)) else 1
    found = invoices_of.list_of(account=account, page=max(1, page))
    return render_page(request, "dashboard/invoices.html", "content", {"account": account, "page": found})


@require_safe
@tenant_page
@needs(Right.SEE_MONEY)
@with_account
def invoices_file(request: TenantRequest, account: Account) -> Any:
    """Every invoice as CSV, with the API's names."""
    name = f"invoices-{account.tenant.slug}"
    return exports.csv_answer(name=name, header=invoice_documents.COLUMNS, rows=invoice_documents.every_row(account))


@require_safe
@tenant_page
@needs(Right.SEE_MONEY)
@with_account
def one_invoice(request: TenantRequest, account: Account, invoice_id: str) -> HttpResponse:
    page = invoices_of.one(account=account, invoice_id=invoice_id)
    if page is None:
        raise Http404
    return render_page(request, "dashboard/one_invoice.html", "content", {"account": account, "page": page})


@require_safe
@tenant_page
@needs(Right.SEE_MONEY)
@with_account
def why(request: TenantRequest, account: Account) -> HttpResponse:
    """`?period=` a day or an instant of it, `?day=` one to look at; what cannot be read is the running period, and no day."""
    now = timezone.now()
    instant = _instant(request.GET.get("period", ""), now) or now
    page = why_of(account=account, instant=instant, day=_day(request.GET.get("day", "")), now=now)
    return render_page(request, "dashboard/why.html", "content", {"account": account, "page": page})


def _instant(text: str, now: datetime) -> datetime | None:
    """A past instant of the last years; None for all else."""
    try:
        at = datetime.fromisoformat(text)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return at if now - LONGEST_AGO < at <= now else None


def _day(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return None
