"""Operators' pages of plans and accounts. What an account is on is changed by `accounts.py` alone, with a reason."""

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.core.exceptions import PermissionDenied
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from metering import adjustments as ledger
from metering import usage
from metering.admin import BoundedPaginator, LedgerAdmin, Recent, as_uuid
from metering.models import MAX_CALLS, Adjustment
from tenants.admin import KEY_HELP, Audited, Operators, ReadOnly, TenantAdmin, actor, link, links
from tenants.models import Tenant

from . import accounts, adjustments, explain, explain_text, inbox, reconcile, stops
from .models import (
    Account,
    BilledPeriod,
    Charge,
    Consent,
    Drift,
    PaymentState,
    Plan,
    PlanChange,
    PlanVersion,
    ReportingStop,
    StripeEvent,
    StripePrices,
    UsageReport,
)  # fmt: skip
from .price_lab_admin import PriceLab

if TYPE_CHECKING:
    AccountModelForm = forms.ModelForm[Account]
    PlanVersionModelForm = forms.ModelForm[PlanVersion]
else:
    AccountModelForm = PlanVersionModelForm = forms.ModelForm

TERMS = (
    "currency", "fee_minor", "included", "hard_limit", "policy", "unit_price_minor", "steps", "minimum_minor",
    "currency_options", "trial_days", "burst_per_second", "max_projects", "support", "sla",
)  # fmt: skip
FOLLOWED = (
    "state", "past_due_since", "currency", "customer_id", "subscription_id", "schedule_id", "anchor", "period_start",
    "period_end", "trial_ends_at", "cancels_at", "next_version", "fetched_at", "created_at",
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


# -- Stripe ------------------------------------------------------------------------------------------------------------


class RecentlyReceived(Recent):
    """A week unless a search narrows the list: the inbox keeps everything."""

    column = "received_at"

    def usual(self) -> str:
        return "week"


@admin.register(StripeEvent)
class StripeEventAdmin(ReadOnly):
    """What Stripe told us. Nothing here is changed by hand; an event is handled again by replaying it."""

    paginator = BoundedPaginator
    show_facets = admin.ShowFacets.NEVER
    list_display = ("received", "type", "id", "of_tenant", "state", "attempts", "waits_until", "said")
    list_display_links = ("id",)
    list_filter = ("state", RecentlyReceived, "kind", "is_live")
    search_fields = ("id__exact", "type__startswith", "customer_id__exact", "object_id__exact")
    search_help_text = "Stripe's evt_, cus_, sub_, in_ or ch_, whole; or the beginning of a type, such as invoice."
    actions = ("replay",)
    fields = (
        "id", "kind", "type", "of_tenant", "object_id", "customer_id", "is_live", "created_at", "received_at", "state",
        "attempts", "due_at", "handled_at", "error", "shown",
    )  # fmt: skip

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """The tenants of the page's events are found by one query: an event knows only Stripe's customer."""
        changelist = super().get_changelist_instance(request)
        customers = {event.customer_id for event in changelist.result_list if event.customer_id}
        known = Account.objects.filter(customer_id__in=customers).select_related("tenant")
        tenants = {account.customer_id: account.tenant for account in known}
        for event in changelist.result_list:
            event.__dict__["_tenant"] = tenants.get(event.customer_id)
        return changelist

    @admin.display(description="Received (UTC)", ordering="received_at")
    def received(self, event: StripeEvent) -> str:
        return f"{event.received_at:%Y-%m-%d %H:%M:%S}"

    @admin.display(description="Tenant")
    def of_tenant(self, event: StripeEvent) -> SafeString | str:
        tenant = event.__dict__.get("_tenant") or inbox.tenant_of(event)
        return link("tenants_tenant_change", tenant, tenant.pk) if tenant else "-"

    @admin.display(description="Next attempt (UTC)")
    def waits_until(self, event: StripeEvent) -> str:
        return f"{event.due_at:%Y-%m-%d %H:%M:%S}" if event.state == StripeEvent.State.RECEIVED else "-"

    @admin.display(description="Error")
    def said(self, event: StripeEvent) -> str:
        return Truncator(event.error).chars(80)

    @admin.display(description="As delivered")
    def shown(self, event: StripeEvent) -> SafeString:
        return format_html("<pre>{}</pre>", json.dumps(event.body, indent=2, ensure_ascii=False))

    def has_replay_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.change_stripeevent")

    @admin.action(description="Replay: handle once more, by what Stripe says now", permissions=["replay"])
    def replay(self, request: HttpRequest, queryset: QuerySet[StripeEvent]) -> None:
        chosen = list(queryset.values_list("pk", flat=True))
        worked = inbox.replay(event_ids=chosen, actor=actor(request), now=timezone.now())
        if worked == len(chosen):
            messages.success(request, f"Replayed: {worked}.")
        else:
            said = f"Replayed: {worked} of {len(chosen)}. The others are tried again by themselves; their errors are in the list."
            messages.warning(request, said)


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


# -- Reconciliation ----------------------------------------------------------------------------------------------------


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


# -- on the tenant's page ----------------------------------------------------------------------------------------------


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
