"""Operators' pages of the ledger, read-only, and what is enforced for a tenant on the tenant's page."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from tenants.admin import KEY_HELP, ReadOnly, TenantAdmin, link, links, public_id
from tenants.models import ApiKey, Tenant

from . import adjustments, periods, standing
from .models import (
    Adjustment,
    AdjustmentKind,
    Alert,
    Allowance,
    Batch,
    Call,
    Crossing,
    Lease,
    Outcome,
    Process,
    Quota,
    SetAside,
    SubLimit,
    UsageHour,
    UsageMonth,
)  # fmt: skip

if TYPE_CHECKING:
    AnyPaginator = Paginator[Any]
else:
    AnyPaginator = Paginator

COUNTED_ROWS = 10_000
FOUND_TENANTS = 100
REFUSED_SHOWN = 10
MONTHS_SHOWN = 13


class BoundedPaginator(AnyPaginator):
    """Counts a few thousand rows and stops: nobody pages further, and a ledger is never counted for one page."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[: COUNTED_ROWS + 1].count())


class Recent(admin.SimpleListFilter):
    """How far back; a day unless one tenant's rows or a search narrow the list, so that few partitions are read."""

    title = "time"
    parameter_name = "when"
    column = "occurred_at"
    spans = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}

    def __init__(self, request: HttpRequest, params: Any, model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        is_narrow = "q" in request.GET or "tenant__id__exact" in request.GET
        self.chosen = self.value() or ("all" if is_narrow else self.usual())

    def usual(self) -> str:
        return "day"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("hour", "Last hour"), ("day", "Last 24 hours"), ("week", "Last 7 days"), ("all", "All that is kept")]

    def choices(self, changelist: Any) -> Iterator[Any]:
        for value, title in self.lookup_choices:
            query = changelist.get_query_string({self.parameter_name: value})
            yield {"selected": self.chosen == value, "query_string": query, "display": title}

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        span = self.spans.get(self.chosen)
        return queryset.filter(**{f"{self.column}__gte": timezone.now() - span}) if span else queryset


class RecentHours(Recent):
    column = "hour"


class Month(Recent):
    """One calendar month (UTC) of all tenants, the running one unless another is chosen."""

    title = "month"
    parameter_name = "month"

    def usual(self) -> str:
        return f"{timezone.now():%Y-%m}"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        running = periods.month_of(timezone.now())
        months = [periods.months_after(running, -back) for back in range(MONTHS_SHOWN)]
        return [*((f"{month:%Y-%m}", f"{month:%B %Y}") for month in months), ("all", "All")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.chosen not in dict(self.lookup_choices) or self.chosen == "all":
            return queryset
        return queryset.filter(month=datetime.strptime(self.chosen, "%Y-%m").replace(tzinfo=UTC))


class Reason(admin.SimpleListFilter):
    """Written out: reading the reasons there are would read the whole ledger."""

    title = "reason"
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("quota", "quota: all calls of the period used"),
            ("hard_limit", "hard_limit: the customer's hard limit"),
            ("daily_cap", "daily_cap: the customer's daily cap"),
            ("project_limit", "project_limit: the customer's limit of the project"),
            ("key_limit", "key_limit: the customer's limit of the key"),
            ("burst", "burst: too many calls a second"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(reason=self.value()) if self.value() else queryset


class LedgerAdmin(ReadOnly):
    """A table that may be huge: bounded counts, no facets, searches that begin with the tenant, as every index does."""

    paginator = BoundedPaginator
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    list_select_related = ()  # prefetched instead: an inner join would hide rows of what is gone, and cost a sort
    search_fields = ("tenant__slug",)  # there is a search box; what it does is below
    search_help_text = f"Tenant's name or address, or an API key. {KEY_HELP}"
    prefetched: tuple[str, ...] = ("tenant",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).prefetch_related(*self.prefetched)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return (self.found(queryset, search_term.strip()) if search_term.strip() else queryset), False

    def found(self, queryset: QuerySet[Any], term: str) -> QuerySet[Any]:
        named = Q(name__icontains=term) | Q(slug__icontains=term)
        identity = public_id(term)
        if identity:
            named = Q(api_keys__public_id__startswith=identity)
        owners = Tenant.objects.filter(named).values_list("id", flat=True)
        return queryset.filter(tenant_id__in=list(owners[:FOUND_TENANTS]))


class OfKeyAdmin(LedgerAdmin):
    """A ledger table whose rows name their key."""

    prefetched = ("tenant", "project", "api_key")

    def found(self, queryset: QuerySet[Any], term: str) -> QuerySet[Any]:
        identity = public_id(term)
        if not identity:
            return super().found(queryset, term)
        chosen = list(
            ApiKey.objects.filter(public_id__startswith=identity).values_list("tenant_id", "id")[:FOUND_TENANTS]
        )
        return queryset.filter(tenant_id__in=[owner for owner, _ in chosen], api_key_id__in=[key for _, key in chosen])


def as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


@admin.register(Call)
class CallAdmin(OfKeyAdmin):
    list_display = ("at", "tenant", "api_key", "capability", "outcome", "reason", "status", "latency", "calls")
    list_filter = (Recent, "outcome", Reason)
    sortable_by = ("at",)
    search_help_text = f"Call id, tenant's name or address, or an API key. {KEY_HELP}"
    fields = (
        "id", "tenant", "project", "api_key", "capability", "outcome", "reason", "status", "calls", "units", "latency",
        "occurred_at", "period", "recorded_at", "lease_id", "batch_id", "corrections",
    )  # fmt: skip
    readonly_fields = ("period", "corrections")

    @admin.display(description="Period")
    def period(self, call: Call) -> SafeString | str:
        """The one that holds its time: the call itself names none."""
        at = call.occurred_at
        quota = Quota.objects.filter(tenant_id=call.tenant_id, period_start__lte=at, period_end__gt=at).first()
        return link("metering_quota_change", _span(quota), quota.pk) if quota else "None holds its time."

    @admin.display(description="Corrections")
    def corrections(self, call: Call) -> SafeString | str:
        """What was corrected already, and the way to correct it."""
        made = Adjustment.objects.filter(tenant_id=call.tenant_id, call_id=call.id).order_by("created_at")
        known = [link("metering_adjustment_change", str(adjustment), adjustment.pk) for adjustment in made]
        if call.outcome == Outcome.BILLABLE and not any(one.kind == AdjustmentKind.VOID for one in made):
            known.append(link("metering_adjustment_correct", "void or amend", call.tenant_id, call.id))
        return links(*known) if known else "Not billed: nothing to correct."

    @admin.display(description="Time (UTC)", ordering="occurred_at")
    def at(self, call: Call) -> str:
        return f"{call.occurred_at:%Y-%m-%d %H:%M:%S}"

    @admin.display(description="Latency")
    def latency(self, call: Call) -> str:
        return "not known" if call.latency_us is None else f"{call.latency_us / 1000:,.1f} ms"

    def found(self, queryset: QuerySet[Any], term: str) -> QuerySet[Any]:
        call_id = as_uuid(term)
        return adjustments.by_call_id(queryset, call_id) if call_id else super().found(queryset, term)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Call | None:
        call_id = as_uuid(object_id)
        return adjustments.by_call_id(self.get_queryset(request), call_id).first() if call_id else None


class KeyedByText(LedgerAdmin):
    """A view whose key is text that begins with the tenant's id: that part is what its table has an index for."""

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        tenant_id = as_uuid(object_id.partition(" ")[0])
        if tenant_id is None:
            return None
        return self.of_tenant(self.get_queryset(request), tenant_id, object_id).filter(key=object_id).first()

    def of_tenant(self, queryset: QuerySet[Any], tenant_id: UUID, key: str) -> QuerySet[Any]:
        return queryset.filter(tenant_id=tenant_id)


@admin.register(UsageHour)
class UsageHourAdmin(KeyedByText, OfKeyAdmin):
    list_display = ("hour", "tenant", "project", "api_key", "capability", "billable", "units", "failed", "refused")
    list_filter = (RecentHours,)
    sortable_by = ("hour",)

    def of_tenant(self, queryset: QuerySet[Any], tenant_id: UUID, key: str) -> QuerySet[Any]:
        try:
            hour = datetime.strptime(key.split(" ")[1], "%Y-%m-%dT%H").replace(tzinfo=UTC)
        except (IndexError, ValueError):
            return queryset.none()
        return queryset.filter(tenant_id=tenant_id, hour=hour)


@admin.register(Quota)
class QuotaAdmin(KeyedByText):
    list_display = (
        "tenant",
        "period_start",
        "period_end",
        "included",
        "admits",
        "used",
        "reserved",
        "failed",
        "refused",
    )
    date_hierarchy = "period_start"
    sortable_by = ("period_start", "used", "reserved", "refused")


@admin.register(UsageMonth)
class UsageMonthAdmin(KeyedByText):
    """All tenants of a month, the largest first: from a row a tenant, never from the hours."""

    list_display = ("month_name", "tenant", "billable", "units", "failed", "refused")
    list_filter = (Month,)
    ordering = ("-month", "-billable")
    sortable_by = ("month_name", "billable", "units", "failed", "refused")

    @admin.display(description="Month (UTC)", ordering="month")
    def month_name(self, row: UsageMonth) -> str:
        return f"{row.month:%B %Y}"


@admin.register(Lease)
class LeaseAdmin(LedgerAdmin):
    list_display = ("id", "tenant", "units", "process_id", "period_start", "granted_at")
    sortable_by = ("granted_at",)


@admin.register(Allowance)
class AllowanceAdmin(ReadOnly):
    """Pushed by billing: change the account, and this follows."""

    list_display = (
        "tenant", "label", "included", "hard_limit", "admits", "policy", "burst_per_second", "on_outage", "changed_at",
    )  # fmt: skip
    list_filter = ("policy", "on_outage", "label")
    list_select_related = ("tenant",)
    key_lookup = "tenant__api_keys__public_id"
    search_fields = ("tenant__name", "tenant__slug", "label")

    @admin.display(description="Admits")
    def admits(self, allowance: Allowance) -> int | None:
        return allowance.admits


@admin.register(SubLimit)
class SubLimitAdmin(ReadOnly):
    """Set by customers below their allowance."""

    list_display = ("tenant", "kind", "subject_id", "calls", "set_at")
    list_filter = ("kind",)
    list_select_related = ("tenant",)
    key_lookup = "tenant__api_keys__public_id"
    search_fields = ("tenant__name", "tenant__slug")


@admin.register(Process)
class ProcessAdmin(ReadOnly):
    list_display = ("host", "pid", "started_at", "renewed_at", "expires_at", "counted_to", "is_alive")
    search_fields = ("host", "pid")

    @admin.display(description="Alive", boolean=True)
    def is_alive(self, process: Process) -> bool:
        return process.expires_at > timezone.now()


@admin.register(Batch)
class BatchAdmin(ReadOnly):
    paginator = BoundedPaginator
    list_display = ("id", "committed_at")
    sortable_by = ("committed_at",)
    search_fields = ("id__exact",)
    search_help_text = "A batch's whole id."

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if search_term.strip() and as_uuid(search_term.strip()) is None:
            return queryset.none(), False
        return super().get_search_results(request, queryset, search_term)


@admin.register(SetAside)
class SetAsideAdmin(ReadOnly):
    list_display = ("at", "of_tenant", "calls", "error")
    search_fields = ("tenant_id", "error")
    date_hierarchy = "at"

    @admin.display(description="Tenant")
    def of_tenant(self, aside: SetAside) -> SafeString:
        return link("tenants_tenant_change", aside.tenant_id, aside.tenant_id)


# -- on the tenant's page ----------------------------------------------------------------------------------------------


def standing_of(tenant: Tenant) -> standing.Standing:
    """Read once for a page, whose parts ask one by one."""
    known: standing.Standing | None = tenant.__dict__.get("_standing")
    if known is None:
        known = tenant.__dict__["_standing"] = standing.standing(tenant_id=tenant.pk, now=timezone.now())
    return known


def _span(quota: Quota) -> str:
    return f"{quota.period_start:%d %B %Y %H:%M} to {quota.period_end:%d %B %Y %H:%M} (UTC)"


def _number(value: int | None, without: str) -> str:
    return without if value is None else f"{value:,}"


@admin.display(description="Plan")
def plan(tenant: Tenant) -> str:
    allowance = standing_of(tenant).allowance
    return allowance.label if allowance else "No plan"


@admin.display(description="Limits")
def limits(tenant: Tenant) -> str:
    allowance = standing_of(tenant).allowance
    if allowance is None:
        return "-"
    included, hard_limit = _number(allowance.included, "unlimited"), _number(allowance.hard_limit, "none")
    admits, burst = _number(allowance.admits, "without bound"), f"{allowance.burst_per_second:,} a second"
    return (
        f"included {included} · hard limit {hard_limit} · admits {admits} · burst {burst} · policy {allowance.policy}"
    )


@admin.display(description="Customer's own limits")
def own_limits(tenant: Tenant) -> str:
    return " · ".join(f"{one.kind} {one.subject_id or ''}: {one.calls:,}" for one in tenant.sub_limits.all()) or "None."


@admin.display(description="Running period")
def running(tenant: Tenant) -> str:
    quota = standing_of(tenant).quota
    if quota is None:
        return "Not opened yet: no call so far."
    counts = f"used {quota.used:,} · reserved {quota.reserved:,} · failed {quota.failed:,} · refused {quota.refused:,}"
    return f"{_span(quota)}: {counts}"


@admin.register(Alert)
class AlertAdmin(ReadOnly):
    """What customers want to be told of."""

    list_display = ("key", "tenant", "kind", "calls", "created_at")
    list_filter = ("kind",)
    list_select_related = ("tenant",)
    search_fields = ("tenant__name", "tenant__slug", "key__startswith")


@admin.register(Crossing)
class CrossingAdmin(ReadOnly):
    """What fired, and when."""

    list_display = ("crossed_at", "tenant", "key", "units", "used", "period_start", "told_at")
    list_display_links = ("key",)
    list_filter = ("kind",)
    list_select_related = ("tenant",)
    search_fields = ("tenant__name", "tenant__slug", "key__startswith")


@admin.display(description="Next call")
def next_call(tenant: Tenant) -> str:
    return standing_of(tenant).next_call


@admin.display(description="Last refused calls")
def refused_calls(tenant: Tenant) -> SafeString | str:
    calls = standing.last_refused(tenant_id=tenant.pk, count=REFUSED_SHOWN)
    keys = ApiKey.objects.in_bulk({call.api_key_id for call in calls})
    found = [
        (
            link("metering_call_change", f"{call.occurred_at:%Y-%m-%d %H:%M:%S}", call.pk),
            keys.get(call.api_key_id, "removed"),
            call.capability,
            call.reason,
            call.calls,
        )
        for call in calls
    ]
    if not found:
        return "None."
    rows = format_html_join("", "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>", found)
    head = "<tr><th>Time (UTC)</th><th>Key</th><th>Capability</th><th>Reason</th><th>Calls</th></tr>"
    return format_html("<table><thead>" + head + "</thead><tbody>{}</tbody></table>", rows)


@admin.display(description="See")
def ledger(tenant: Tenant) -> SafeString:
    own = {"tenant__id__exact": tenant.pk}
    return links(
        link("metering_call_changelist", "refused calls", **own, outcome__exact=Outcome.REFUSED.value),
        link("metering_call_changelist", "failed calls", **own, outcome__exact=Outcome.FAILED.value),
        link("metering_call_changelist", "all calls", **own),
        link("metering_usagehour_changelist", "usage hours", **own),
        link("metering_usagemonth_changelist", "months", **own),
        link("metering_adjustment_changelist", "corrections", **own),
        link("metering_quota_changelist", "periods", **own),
        link("metering_lease_changelist", "leases", **own),
    )


TenantAdmin.sections.append(("What is enforced", (plan, limits, own_limits, running, next_call, refused_calls, ledger)))
