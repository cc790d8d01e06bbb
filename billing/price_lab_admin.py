"""The price lab as an operators' page: a draft plan is typed, and what it would have cost is shown. Nothing is written."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.utils import timezone

from . import draft_plans, price_lab

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = object  # a mixin when it runs

MOST_TYPED = 20_000
MOST_ROWS = 500


class LabForm(forms.Form):
    """The draft, and whose past it is tried on."""

    plan = forms.CharField(
        label="Draft plan (TOML)", max_length=MOST_TYPED, strip=False, initial=draft_plans.EXAMPLE,
        widget=forms.Textarea(attrs={"rows": 14, "cols": 80, "spellcheck": "false"}),
        help_text="docs/price-lab.md says what it may hold.",
    )  # fmt: skip
    months = forms.IntegerField(min_value=1, max_value=price_lab.MOST_MONTHS, initial=12, help_text="How far back.")
    tenants = forms.CharField(
        max_length=2_000, required=False, help_text="Addresses (slugs), separated by spaces; empty: all tenants."
    )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if "plan" in cleaned:
            try:
                cleaned["draft"] = draft_plans.read(cleaned["plan"])
            except draft_plans.DraftInvalid as error:
                self.add_error("plan", str(error))
        return cleaned

    def report(self) -> price_lab.Report | None:
        """What the lab found; None when there are no such tenants, which the form says then."""
        about = self.cleaned_data
        try:
            return price_lab.run(
                draft=about["draft"], months=about["months"], now=timezone.now(), tenants=about["tenants"].split()
            )
        except price_lab.UnknownTenants as error:
            self.add_error("tenants", str(error))
            return None


class PriceLab(ModelAdmin):
    """Plan versions' admin with the lab beside the list, for whoever may see plans and accounts."""

    change_list_template = "admin/plan_versions.html"

    def get_urls(self) -> Any:
        own = path("price-lab/", self.admin_site.admin_view(self.price_lab), name="billing_price_lab")
        return [own, *super().get_urls()]

    def price_lab(self, request: HttpRequest) -> HttpResponse:
        if not request.user.has_perms(["billing.view_planversion", "billing.view_account"]):
            raise PermissionDenied
        form = LabForm(request.POST or None)
        report = form.report() if form.is_valid() else None
        context = {
            **self.admin_site.each_context(request),
            "title": "Price lab",
            "form": form,
            "report": report,
            "rows": report.rows[:MOST_ROWS] if report else (),
            "left_out": max(0, len(report.rows) - MOST_ROWS) if report else 0,
        }
        return render(request, "admin/price_lab.html", context)
