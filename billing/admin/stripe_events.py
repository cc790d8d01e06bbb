"""The inbox of Stripe's events, and replaying them."""

import json
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from billing import inbox
from billing.models import (
    Account,
    StripeEvent,
)  # fmt: skip
from metering.admin import BoundedPaginator, Recent
from tenants.admin import ReadOnly, actor, link


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
