"""What billing has done for accounts: looked at, never changed."""

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from billing.models import (
    BilledPeriod,
    Charge,
    Consent,
    PlanChange,
    StripePrices,
    UsageReport,
)  # fmt: skip
from metering.admin import BoundedPaginator, as_uuid
from tenants.admin import KEY_HELP, ReadOnly, link


class OfAccount(ReadOnly):
    """Rows that belong to an account."""

    key_lookup = "account__tenant__api_keys__public_id"
    list_select_related: ClassVar[Any] = ("account__tenant",)
    search_fields: ClassVar[Any] = ("account__tenant__name", "account__tenant__slug", "id__exact")
    search_help_text = f"Tenant's name or address, an API key, or the row's id. {KEY_HELP}"

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        row_id = as_uuid(search_term.strip())
        return (
            (queryset.filter(pk=row_id), False)
            if row_id
            else super().get_search_results(request, queryset, search_term)
        )

    @admin.display(description="Tenant", ordering="account__tenant__name")
    def tenant(self, row: Any) -> SafeString:
        return link("tenants_tenant_change", row.account.tenant, row.account_id)


@admin.register(PlanChange)
class PlanChangeAdmin(OfAccount):
    list_display = (
        "requested_at", "tenant", "kind", "from_version", "to_version", "state", "due_at", "cut_at", "previewed_minor",
        "ended_at", "failure",
    )  # fmt: skip
    list_filter = ("state", "kind")
    list_select_related = ("account__tenant", "from_version__plan", "to_version__plan")
    date_hierarchy = "requested_at"


@admin.register(Consent)
class ConsentAdmin(OfAccount):
    list_display = (
        "given_at", "tenant", "from_version", "to_version", "fee_minor", "currency", "bridge_calls", "fallback", "given_by",
        "end", "ended_at",
    )  # fmt: skip
    list_filter = (("ended_at", admin.EmptyFieldListFilter), "end")
    list_select_related = ("account__tenant", "from_version__plan", "to_version__plan")
    date_hierarchy = "given_at"


@admin.register(UsageReport)
class UsageReportAdmin(OfAccount):
    """Quantities on their way to Stripe, or there. Frozen: a correction is a further revision."""

    paginator = BoundedPaginator
    show_facets = admin.ShowFacets.NEVER
    list_display = (
        "window_start", "window_end", "tenant", "quantity", "revision", "state", "stamped_at", "attempted_at", "confirmed_at",
        "error",
    )  # fmt: skip
    list_display_links = ("window_start",)
    list_filter = ("state",)
    ordering = ("-window_start",)


@admin.register(StripePrices)
class StripePricesAdmin(ReadOnly):
    """Made by `manage.py stripe_catalogue`."""

    list_display = ("version", "product_id", "fee_price_id", "usage_price_id", "meter_id", "made_at")
    list_select_related = ("version__plan",)
    search_fields = ("version__plan__name", "product_id", "fee_price_id", "usage_price_id")


@admin.register(BilledPeriod)
class BilledPeriodAdmin(OfAccount):
    """Periods as Stripe's subscriptions bill them: terms, invoice, and how far they are."""

    paginator = BoundedPaginator
    show_facets = admin.ShowFacets.NEVER
    list_display = (
        "start", "end", "tenant", "version", "state", "billed_units", "invoice_id", "final_at", "stopped_because",
    )  # fmt: skip
    list_filter = ("state", ("stopped_because", admin.EmptyFieldListFilter))
    list_select_related = ("account__tenant", "version__plan")
    search_fields = ("account__tenant__name", "account__tenant__slug", "invoice_id__exact", "subscription_id__exact")
    search_help_text = f"Tenant's name or address, Stripe's in_ or sub_, an API key, or the row's id. {KEY_HELP}"
    date_hierarchy = "start"


@admin.register(Charge)
class ChargeAdmin(OfAccount):
    """Named amounts of ours: lines of invoices, late usage, corrections, and what was written off; each with its derivation."""

    paginator = BoundedPaginator
    show_facets = admin.ShowFacets.NEVER
    list_display = (
        "created_at", "tenant", "kind", "units", "amount_minor", "currency", "state", "description", "invoice_id", "error",
    )  # fmt: skip
    list_filter = ("state", "kind")
    list_select_related = ("account__tenant", "period")
    search_fields = ("account__tenant__name", "account__tenant__slug", "invoice_id__exact", "stripe_id__exact")
    search_help_text = f"Tenant's name or address, Stripe's in_, ii_ or cn_, an API key, or the row's id. {KEY_HELP}"
    date_hierarchy = "created_at"
