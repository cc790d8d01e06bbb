"""Accounts: what each tenant is on and owes; a part of the tenant's page as well."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import accounts, explain, explain_text
from billing.models import (
    Account,
    PaymentState,
    PlanVersion,
)  # fmt: skip
from metering import usage
from tenants.admin import KEY_HELP, Operators, TenantAdmin, actor, link, links
from tenants.models import Tenant

if TYPE_CHECKING:
    AccountModelForm = forms.ModelForm[Account]
else:
    AccountModelForm = forms.ModelForm


FOLLOWED = (
    "state", "past_due_since", "currency", "customer_id", "customer_name", "customer_email", "subscription_id", "schedule_id",
    "anchor", "period_start", "period_end", "trial_ends_at", "cancels_at", "next_version", "fetched_at", "created_at",
)  # fmt: skip


class AccountForm(AccountModelForm):
    """The reason is for the audit log: whoever asks later why the limit moved finds it there."""

    reason = forms.CharField(
        max_length=500, widget=forms.Textarea(attrs={"rows": 2}), help_text="Goes into the audit log."
    )

    class Meta:
        model = Account
        fields = ("plan_version", "hard_limit", "hard_limit_minor")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        field = self.fields.get("plan_version")  # absent for an operator who may only look
        if isinstance(field, forms.ModelChoiceField):
            offered = Q(tenant=None) | Q(tenant=self.instance.tenant_id) | Q(pk=self.instance.plan_version_id)
            field.queryset = PlanVersion.objects.filter(offered).select_related("plan")
            for button in ("can_add_related", "can_change_related", "can_delete_related"):
                setattr(field.widget, button, False)  # versions have a page of their own

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        version = cleaned.get("plan_version")
        if "plan_version" in self.changed_data and self.instance.state != PaymentState.NONE:
            self.add_error("plan_version", "This tenant pays by subscription: Stripe says which plan it is on.")
        is_priced = version is None or accounts.is_rated(version)
        if "hard_limit_minor" in self.changed_data and cleaned.get("hard_limit_minor") is not None and not is_priced:
            self.add_error("hard_limit_minor", "Calls have no price on this plan: only a limit in calls is possible.")
        return cleaned


def parse_date_or_none(text: str) -> datetime | None:
    """The last instant of the day (UTC), so that a period that begins on it is meant."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=1, microseconds=-1)
    except (ValueError, OverflowError):
        return None


@admin.register(Account)
class AccountAdmin(Operators):
    """Accounts are opened with their tenant; here their plan and hard limit change, enforced within a second."""

    form = AccountForm
    key_lookup = "tenant__api_keys__public_id"
    list_display = ("tenant", "plan_version", "state", "past_due_since", "hard_limit", "period_end", "fetched_at")
    list_filter = ("state", "plan_version__plan", ("hard_limit", admin.EmptyFieldListFilter))
    list_select_related = ("tenant", "plan_version__plan")
    search_fields = ("tenant__name", "tenant__slug", "tenant__email", "customer_id", "subscription_id")
    search_help_text = f"Tenant's name, address, e-mail, API key, or Stripe's cus_ or sub_. {KEY_HELP}"
    readonly_fields = ("tenant", "policy", *FOLLOWED, "see")

    def get_fields(self, request: HttpRequest, obj: Account | None = None) -> Any:
        editable = ("reason",) if self.has_change_permission(request, obj) else ()
        return ("tenant", "plan_version", "policy", "hard_limit", "hard_limit_minor", *editable, *FOLLOWED, "see")

    @admin.display(description="See")
    def see(self, account: Account) -> SafeString:
        own = {"account__tenant__id__exact": account.pk}
        found = [
            link("billing_planchange_changelist", "changes of plan", **own),
            link("billing_consent_changelist", "consents", **own),
            link("billing_usagereport_changelist", "usage reports", **own),
            link("billing_drift_changelist", "drift", **own),
            link("tenants_notice_changelist", "notices", tenant__id__exact=account.pk),
            format_html(
                '<a href="{}">why the period costs what it costs</a>',
                reverse("admin:billing_account_why", args=[account.pk]),
            ),
        ]
        if account.customer_id:
            found.append(link("billing_stripeevent_changelist", "Stripe's events", q=account.customer_id))
        return links(*found)

    def get_urls(self) -> Any:
        why = path("<uuid:account_id>/why/", self.admin_site.admin_view(self.why), name="billing_account_why")
        return [why, *super().get_urls()]

    def why(self, request: HttpRequest, account_id: UUID) -> HttpResponse:
        """`?period=` any day of it: every line of what it costs, down to days, capabilities and keys."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        found = Account.objects.select_related("tenant__allowance", "plan_version__plan")
        account = get_object_or_404(found, pk=account_id)
        now = timezone.now()
        day = parse_date_or_none(request.GET.get("period", ""))
        instant = min(day or now, now)
        before, period = usage.last_periods(allowance=account.tenant.allowance, now=instant, count=2)
        text = explain_text.text(account, explain.explain(account=account, period=period, now=now))
        context = {
            **self.admin_site.each_context(request), "title": "Why was this charged?", "account": account,
            "period": period, "before": before, "text": "\n".join(text), "is_over": period.end <= now,
        }  # fmt: skip
        return render(request, "admin/why.html", context)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Account | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Account, form: Any, change: bool) -> None:
        account = Account.objects.select_for_update().get(pk=obj.pk)
        about: dict[str, Any] = {"actor": actor(request), "now": timezone.now(), "reason": form.cleaned_data["reason"]}
        if "plan_version" in form.changed_data:
            accounts.change_plan(account=account, version=obj.plan_version, **about)
        if {"hard_limit", "hard_limit_minor"} & set(form.changed_data):
            about |= {"hard_limit": obj.hard_limit, "hard_limit_minor": obj.hard_limit_minor}
            accounts.set_hard_limit(account=account, **about)


@admin.display(description="Account")
def account(tenant: Tenant) -> SafeString | str:
    found = Account.objects.filter(tenant=tenant).select_related("plan_version__plan").first()
    if found is None:
        return "None: the tenant has no plan."
    return link("billing_account_change", f"{found.plan_version}: change plan or hard limit", tenant.pk)


@admin.display(description="Payments")
def payments(tenant: Tenant) -> str:
    found = Account.objects.filter(tenant=tenant).first()
    if found is None:
        return "-"
    since = f", since {found.past_due_since:%d %B %Y %H:%M} (UTC)" if found.past_due_since else ""
    return found.get_state_display() + since


TenantAdmin.sections.append(("Account", (account, payments)))
