"""Corrections of the ledger, made after their effect was shown."""

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import path
from django.utils import timezone

from billing import adjustments
from metering import adjustments as ledger
from metering.admin import LedgerAdmin
from metering.models import MAX_CALLS, Adjustment
from tenants.admin import actor
from tenants.models import Tenant


class CorrectionForm(forms.Form):
    """Void or amend one call. Seen first, applied second."""

    kind = forms.ChoiceField(
        choices=[("void", "Void: the call is not billed"), ("amend", "Amend: the call costs other units")]
    )
    units = forms.IntegerField(
        required=False, min_value=0, max_value=MAX_CALLS, help_text="Amend: what the call costs."
    )
    reason = forms.CharField(
        max_length=500, widget=forms.Textarea(attrs={"rows": 2}), help_text="Goes into the ledger."
    )
    source = forms.CharField(max_length=200, required=False, help_text="Where it comes from: a ticket, a mail.")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if cleaned.get("kind") == "amend" and cleaned.get("units") is None:
            self.add_error("units", "Say what the call costs.")
        return cleaned

    def planned(self, tenant: Tenant, call_id: UUID) -> ledger.Change:
        """The correction that the form asks for; raises CannotAdjust."""
        if self.cleaned_data["kind"] == "void":
            return ledger.planned_void(tenant=tenant, call_id=call_id)
        return ledger.planned_amend(tenant=tenant, call_id=call_id, units=self.cleaned_data["units"])


@admin.register(Adjustment)
class AdjustmentAdmin(LedgerAdmin):
    """Corrections are read here, and made from a call's page: the price of a correction is billing's to say."""

    list_display = ("created_at", "tenant", "kind", "calls", "units", "capability", "actor", "reason", "source")
    list_filter = ("kind",)
    sortable_by = ("created_at",)
    date_hierarchy = "created_at"

    def get_urls(self) -> Any:
        own = path(
            "correct/<uuid:tenant_id>/<uuid:call_id>/", self.admin_site.admin_view(self.correct),
            name="metering_adjustment_correct",
        )  # fmt: skip
        return [own, *super().get_urls()]

    def correct(self, request: HttpRequest, tenant_id: UUID, call_id: UUID) -> HttpResponse:
        """The form, then what it would do in calls and money, then the correction: only what was seen is applied."""
        if not request.user.has_perm("metering.add_adjustment"):
            raise PermissionDenied
        tenant = get_object_or_404(Tenant, pk=tenant_id)
        call = ledger.call_of(tenant=tenant, call_id=call_id)
        if call is None:
            raise Http404
        form = CorrectionForm(request.POST or None)
        dry_run, seen = None, ""
        if form.is_valid():
            try:
                change = form.planned(tenant, call_id)
                (dry_run,) = adjustments.priced([change], tenant=tenant, now=timezone.now())
                seen = f"{change.kind} {change.units}"
                if "apply" in request.POST and request.POST.get("seen") == seen:
                    about = {"reason": form.cleaned_data["reason"], "source": form.cleaned_data["source"]}
                    made = ledger.apply(change, actor=actor(request), **about)
                    messages.success(request, f"Corrected by {made.units:+,} units.")
                    return redirect("admin:metering_call_change", call_id)
            except ledger.CannotAdjust as error:
                form.add_error(None, str(error))
        context = {
            **self.admin_site.each_context(request),
            "title": "Correct a call",
            "call": call,
            "form": form,
            "dry_run": dry_run,
            "seen": seen,
        }
        return render(request, "admin/correct_call.html", context)
