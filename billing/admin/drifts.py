"""Reconciliation: what was found, what was stopped, and its release."""

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.safestring import SafeString

from billing import reconcile, stops
from billing.models import (
    Account,
    Drift,
    ReportingStop,
)  # fmt: skip
from metering.admin import BoundedPaginator
from tenants.admin import KEY_HELP, actor, link, links
from tenants.models import Tenant

from .records import OfAccount


class ReleaseForm(ActionForm):
    """What a release needs beside the rows."""

    reason = forms.CharField(required=False, max_length=500, label="Reason, to release")


@admin.register(Drift)
class DriftAdmin(OfAccount):
    """What the last reconciliation read for each tenant, meter and period. A row's own page explains it."""

    paginator = BoundedPaginator
    show_facets = admin.ShowFacets.NEVER
    list_display = (
        "period_start", "tenant", "kind", "units", "ledger", "reported", "written_off", "stripe", "invoiced", "is_stopped",
        "first_seen", "last_seen", "acknowledged_by",
    )  # fmt: skip
    list_filter = ("kind", ("acknowledged_at", admin.EmptyFieldListFilter))
    search_fields = ("account__tenant__name", "account__tenant__slug", "account__customer_id__exact")
    search_help_text = f"Tenant's name or address, Stripe's cus_, or an API key. {KEY_HELP}"
    date_hierarchy = "period_start"
    action_form = ReleaseForm
    actions = ("read_again", "explain", "release")
    fields = (
        "tenant", "meter_id", "period_start", "period_end", "kind", "units", "detail", "mend", "rows", "ledger", "reported",
        "written_off", "stripe", "invoiced", "is_stopped", "first_seen", "last_seen", "acknowledged_by", "acknowledged_at",
        "reason",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Drift]:
        stopped = ReportingStop.objects.filter(account=OuterRef("account"), released_at=None)
        rows: QuerySet[Drift] = super().get_queryset(request)
        return rows.annotate(is_stopped=Exists(stopped))

    @admin.display(description="Reporting stopped", boolean=True)
    def is_stopped(self, drift: Drift) -> bool:
        return bool(drift.__dict__["is_stopped"])

    @admin.display(description="What it is made of")
    def rows(self, drift: Drift) -> SafeString:
        start, end = drift.period_start.isoformat(), drift.period_end.isoformat()
        own = {"account__tenant__id__exact": drift.account_id}
        return links(
            link(
                "billing_usagereport_changelist", "the period's usage reports", window_start__gte=start,
                window_start__lt=end, **own,
            ),
            link("billing_billedperiod_changelist", "the tenant's billed periods", **own),
            link("billing_charge_changelist", "what was charged or written off apart", **own),
            link("metering_adjustment_changelist", "its corrections", tenant__id__exact=drift.account_id),
            link("metering_usagehour_changelist", "its usage hours", tenant__id__exact=drift.account_id),
            link("billing_planchange_changelist", "its changes of plan", **own),
            link("billing_stripeevent_changelist", "Stripe's events", q=drift.account.customer_id or ""),
            link("billing_reportingstop_changelist", "when reporting was stopped", **own),
        )  # fmt: skip

    def has_read_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.change_drift")

    @admin.action(description="Read again: ledger, reports and Stripe, as they are now", permissions=["read"])
    def read_again(self, request: HttpRequest, queryset: QuerySet[Drift]) -> None:
        for tenant in Tenant.objects.filter(account__drifts__in=queryset).distinct():
            result = reconcile.run(now=timezone.now(), tenant=tenant)
            for why in result.unread:
                messages.warning(request, f"Not read: {why}")
            if result.checked:
                messages.success(request, f"{tenant}: {result.checked} periods read, {len(result.found)} differences.")

    @admin.action(description="Explain: what the difference is made of")
    def explain(self, request: HttpRequest, queryset: QuerySet[Drift]) -> HttpResponse | None:
        if queryset.count() != 1:
            messages.warning(request, "Choose one row to explain.")
            return None
        return redirect("admin:billing_drift_change", queryset.values_list("pk", flat=True)[0])

    @admin.action(
        description="Release: accept what was found and report the tenant's usage again", permissions=["read"]
    )
    def release(self, request: HttpRequest, queryset: QuerySet[Drift]) -> None:
        for account in Account.objects.filter(drifts__in=queryset).select_related("tenant").distinct():
            try:
                reason = request.POST.get("reason", "")
                done = stops.release(account=account, actor=actor(request), reason=reason, now=timezone.now())
            except stops.SayWhy as error:
                messages.error(request, str(error))
                return
            said = "released" if done else "nothing was stopped or found"
            messages.success(request, f"{account.tenant}: {said}.")


@admin.register(ReportingStop)
class ReportingStopAdmin(OfAccount):
    """When and why reporting was stopped, and who released it. Released under Drift, with the reason."""

    list_display = ("stopped_at", "tenant", "why", "released_at", "released_by", "reason")
    list_filter = (("released_at", admin.EmptyFieldListFilter),)
    search_fields = ("account__tenant__name", "account__tenant__slug")
    search_help_text = f"Tenant's name or address, or an API key. {KEY_HELP}"
    date_hierarchy = "stopped_at"
