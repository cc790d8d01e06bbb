"""Plans, their versions, and the price lab, as operators see them."""

import json
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from billing import accounts
from billing.models import (
    Plan,
    PlanVersion,
)  # fmt: skip
from billing.price_lab_admin import PriceLab
from tenants.admin import Audited

if TYPE_CHECKING:
    PlanVersionModelForm = forms.ModelForm[PlanVersion]
else:
    PlanVersionModelForm = forms.ModelForm


TERMS = (
    "currency", "fee_minor", "included", "hard_limit", "policy", "unit_price_minor", "steps", "minimum_minor",
    "currency_options", "trial_days", "burst_per_second", "max_projects", "support", "sla",
)  # fmt: skip


@admin.register(Plan)
class PlanAdmin(Audited):
    audit_noun = "plan"
    list_display = ("name", "code", "rank", "is_custom")
    search_fields = ("name", "code")

    def get_readonly_fields(self, request: HttpRequest, obj: Plan | None = None) -> Any:
        return ("code",) if obj else ()


class PlanVersionForm(PlanVersionModelForm):
    """Prices by step and in other currencies are typed as JSON, and tried before they are stored."""

    class Meta:
        model = PlanVersion
        fields = ("plan", "tenant", "number", *TERMS)

    def clean_steps(self) -> Any:
        return self.cleaned_data["steps"] or []

    def clean_currency_options(self) -> Any:
        return self.cleaned_data["currency_options"] or {}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if not self.errors:
            terms = PlanVersion(**{name: cleaned[name] for name in TERMS})
            try:
                for currency in (terms.currency, *terms.currency_options):
                    accounts.pricing_terms(terms, currency)
            except (ValueError, TypeError, KeyError, ArithmeticError, AttributeError) as error:
                self.add_error(
                    None, f"These prices cannot be read ({type(error).__name__}: {error}): see the examples."
                )
        return cleaned


@admin.register(PlanVersion)
class PlanVersionAdmin(PriceLab, Audited):
    """A version that an account has been on never changes; a change of terms is a new version."""

    audit_noun = "plan_version"
    form = PlanVersionForm
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
        query = {name.removesuffix("_id"): _as_typed(value) for name, value in values.items() if value is not None}
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


def _as_typed(value: Any) -> Any:
    """A value as a form takes it."""
    return json.dumps(value) if isinstance(value, list | dict) else value
