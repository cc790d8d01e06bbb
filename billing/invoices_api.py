"""The management API on money: invoices, the next one, and why. Read with the scope `money:read`, which ordinary keys lack."""

from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from metering import usage
from tenants.problems import Problem

from . import estimates, explain, invoice_documents, invoices
from .api import ManagementView
from .series_api import Instant


class NoSuchInvoice(Problem):
    status_code = 404
    slug = "not-found"
    title = "Not found"
    default_detail = "There is no such invoice."


class MoneyView(ManagementView):
    """Amounts are for programs that were given them: keys of developers' programs read usage."""

    required_scope = "money:read"


class PageQuery(serializers.Serializer[dict[str, Any]]):
    """Query of a list: `page` from 1 on."""

    page = serializers.IntegerField(min_value=1, max_value=10_000, default=1)


class InvoicesView(MoneyView):
    """`GET /api/v1/invoices?page=1`: the newest first, 50 a page; `next_page` is null on the last one.

    `total_minor` is Stripe's, `local_total_minor` ours; `GET /api/v1/invoices/<id>` names every part of a difference.
    """

    def get(self, request: Request) -> Response:
        account = self.account(request)
        query = PageQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        page, most = query.validated_data["page"], invoice_documents.A_PAGE
        found = invoices.of_account(account=account, first=(page - 1) * most, count=most + 1)
        return Response(
            {
                "tenant": account.tenant.slug,
                "invoices": [invoice_documents.row(one) for one in found[:most]],
                "next_page": page + 1 if len(found) > most else None,
            }
        )


class InvoiceView(MoneyView):
    """`GET /api/v1/invoices/<id>`: one invoice with its lines, and each part of a difference to our records."""

    def get(self, request: Request, invoice_id: str) -> Response:
        compared = invoices.one(account=self.account(request), invoice_id=invoice_id)
        if compared is None:
            raise NoSuchInvoice
        return Response(invoice_documents.whole(compared))


class PreviewView(MoneyView):
    """`GET /api/v1/invoices/preview`: the running period's invoice so far and as projected, before tax."""

    def get(self, request: Request) -> Response:
        account = self.account(request)
        statement = estimates.statement(account=account, now=timezone.now())
        return Response(invoice_documents.preview(account=account, statement=statement))


class ExplainQuery(serializers.Serializer[dict[str, Any]]):
    """Query of an explanation: `period` is any instant or day of it; without one it is the running period."""

    period = Instant(required=False)


class ExplainView(MoneyView):
    """`GET /api/v1/explain?period=2026-11-01`: why that period costs what it costs, down to days, capabilities and keys."""

    def get(self, request: Request) -> Response:
        account = self.account(request)
        query = ExplainQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        now = timezone.now()
        instant = min(query.validated_data.get("period") or now, now)
        period = usage.current_period(allowance=account.tenant.allowance, now=instant)
        found = explain.explain(account=account, period=period, now=now)
        return Response(invoice_documents.explanation(account, found))
