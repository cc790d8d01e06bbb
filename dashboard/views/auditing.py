"""The audit log: its page and its file."""

import json
from collections.abc import Iterator
from dataclasses import replace

from django.http import HttpResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from dashboard.audit_page import LONGEST, asked_of, log
from dashboard.exports import csv_answer
from dashboard.pages import account_of, needs, render_page
from tenants import audit_log
from tenants.access import Right, TenantRequest, tenant_page
from tenants.models import Tenant


@require_safe
@tenant_page
@needs(Right.SEE_AUDIT)
def audit(request: TenantRequest) -> HttpResponse:
    """`?actor=&action=&from=&to=`, and `after` a place in the log."""
    page = log(tenant=request.tenant, query=request.GET.dict())
    context = {"account": account_of(request), "page": page}
    return render_page(request, "dashboard/audit.html", "content", context)


@require_safe
@tenant_page
@needs(Right.SEE_AUDIT)
def audit_csv(request: TenantRequest) -> HttpResponse:
    """The page's filters; without a first day the last thirteen months."""
    asked = asked_of(request.GET.dict())
    if asked.start is None:
        asked = replace(asked, start=timezone.now() - LONGEST)
    name = f"audit-{request.tenant.slug}-{asked.start:%Y-%m-%d}"
    rows = _rows(request.tenant, asked)
    return csv_answer(name=name, header=audit_log.COLUMNS, rows=rows)  # type: ignore[return-value]  # any answer will do


def _rows(tenant: Tenant, asked: audit_log.Filter) -> Iterator[tuple[object, ...]]:
    for entry in audit_log.streamed(tenant, asked):
        detail = json.dumps(entry.detail, ensure_ascii=False, sort_keys=True)
        yield (entry.at, entry.actor, entry.action, entry.subject, detail)
