"""Operators' pages of plans and accounts. What an account is on is changed by `accounts.py` alone, with a reason."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.db.models import Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from tenants.admin import KEY_HELP, Audited, Operators, TenantAdmin, actor, link
from tenants.models import Tenant

from . import accounts
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


@admin.display(description="Account")
def account(tenant: Tenant) -> SafeString | str:
    found = Account.objects.filter(tenant=tenant).select_related("plan_version__plan").first()
    if found is None:
        return "None: the tenant has no plan."
    return link("billing_account_change", f"{found.plan_version}: change plan or hard limit", tenant.pk)


TenantAdmin.sections.append(("Account", (account,)))
