"""Operators' pages of plans and accounts. What an account is on is changed by `accounts.py` alone, with a reason."""

from typing import TYPE_CHECKING, Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from metering import adjustments as ledger
from metering.admin import LedgerAdmin
from metering.models import MAX_CALLS, Adjustment
from tenants.admin import KEY_HELP, Audited, Operators, TenantAdmin, actor, link
from tenants.models import Tenant

from . import accounts, adjustments
from .models import Account, Plan, PlanVersion

if TYPE_CHECKING:
    AccountModelForm = forms.ModelForm[Account]
else:
    AccountModelForm = forms.ModelForm

TERMS = (
    "currency", "fee_minor", "included", "hard_limit", "policy", "unit_price_minor", "burst_per_second", "max_projects",
    "support", "sla",
)  # fmt: skip


@admin.register(Plan)
class PlanAdmin(Audited):
    audit_noun = "plan"
    list_display = ("name", "code", "rank", "is_custom")
    search_fields = ("name", "code")

    def get_readonly_fields(self, request: HttpRequest, obj: Plan | None = None) -> Any:
        return ("code",) if obj else ()


@admin.register(PlanVersion)
class PlanVersionAdmin(Audited):
    """A version that an account has been on never changes; a change of terms is a new version."""

    audit_noun = "plan_version"
    list_display = (
        "plan", "number", "tenant", "fee_minor", "currency", "included", "hard_limit", "policy", "unit_price_minor",
        "burst_per_second", "used_at",
    )  # fmt: skip
    list_display_links = ("plan", "number")
    list_filter = ("plan", "policy", ("tenant", admin.EmptyFieldListFilter), ("used_at", admin.EmptyFieldListFilter))
    list_select_related = ("plan", "tenant")
    search_fields = ("plan__name", "plan__code", "tenant__name", "tenant__slug")
    autocomplete_fields = ("plan", "tenant")
    readonly_fields = ("created_at", "used_at")

    def get_fieldsets(self, request: HttpRequest, obj: PlanVersion | None = None) -> Any:
        why = {"description": self.why_read_only(obj)} if obj is not None and obj.used_at else {}
        return [(None, {"fields": ("plan", "tenant", "number", *TERMS, "created_at", "used_at"), **why})]

    def why_read_only(self, version: PlanVersion) -> SafeString:
        """Why there is no form, with the way out: a new version that begins with these terms."""
        values = {name: getattr(version, name) for name in ("plan_id", "tenant_id", *TERMS)}
        query = {name.removesuffix("_id"): value for name, value in values.items() if value is not None}
        address = reverse("admin:billing_planversion_add") + "?" + urlencode({**query, "number": version.number + 1})
        return format_html(
            "Read-only: accounts are or were on this version since {} (UTC), and what somebody subscribed to never changes. "
            '<a href="{}">Make a new version with these terms</a>.',
            f"{version.used_at:%d %B %Y %H:%M}", address,
        )  # fmt: skip

    def has_change_permission(self, request: HttpRequest, obj: PlanVersion | None = None) -> bool:
        return super().has_change_permission(request, obj) and (obj is None or obj.used_at is None)

    def has_delete_permission(self, request: HttpRequest, obj: PlanVersion | None = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or obj.used_at is None)


class AccountForm(AccountModelForm):
    """The reason is for the audit log: whoever asks later why the limit moved finds it there."""

    reason = forms.CharField(
        max_length=500, widget=forms.Textarea(attrs={"rows": 2}), help_text="Goes into the audit log."
    )

    class Meta:
        model = Account
        fields = ("plan_version", "hard_limit")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        field = self.fields.get("plan_version")  # absent for an operator who may only look
        if isinstance(field, forms.ModelChoiceField):
            offered = Q(tenant=None) | Q(tenant=self.instance.tenant_id) | Q(pk=self.instance.plan_version_id)
            field.queryset = PlanVersion.objects.filter(offered).select_related("plan")
            for button in ("can_add_related", "can_change_related", "can_delete_related"):
                setattr(field.widget, button, False)  # versions have a page of their own


@admin.register(Account)
class AccountAdmin(Operators):
    """Accounts are opened with their tenant; here their plan and hard limit change, enforced within a second."""

    form = AccountForm
    key_lookup = "tenant__api_keys__public_id"
    list_display = ("tenant", "plan_version", "hard_limit", "anchor", "created_at")
    list_filter = ("plan_version__plan", ("hard_limit", admin.EmptyFieldListFilter))
    list_select_related = ("tenant", "plan_version__plan")
    search_fields = ("tenant__name", "tenant__slug", "tenant__email")
    search_help_text = f"Tenant's name, address, e-mail or API key. {KEY_HELP}"
    readonly_fields = ("tenant", "anchor", "created_at")

    def get_fields(self, request: HttpRequest, obj: Account | None = None) -> Any:
        editable = ("reason",) if self.has_change_permission(request, obj) else ()
        return ("tenant", "plan_version", "hard_limit", *editable, "anchor", "created_at")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Account | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Account, form: Any, change: bool) -> None:
        account = Account.objects.select_for_update().get(pk=obj.pk)
        about = {"actor": actor(request), "now": timezone.now(), "reason": form.cleaned_data["reason"]}
        if "plan_version" in form.changed_data:
            accounts.change_plan(account=account, version=obj.plan_version, **about)
        if "hard_limit" in form.changed_data:
            accounts.set_hard_limit(account=account, hard_limit=obj.hard_limit, **about)


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


@admin.display(description="Account")
def account(tenant: Tenant) -> SafeString | str:
    found = Account.objects.filter(tenant=tenant).select_related("plan_version__plan").first()
    if found is None:
        return "None: the tenant has no plan."
    return link("billing_account_change", f"{found.plan_version}: change plan or hard limit", tenant.pk)


TenantAdmin.sections.append(("Account", (account,)))
