"""`GET /api/v1/calls` and `GET /api/v1/calls/<id>`: the call log. The pages and the CSV ask and answer the same."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from metering import call_log, usage
from metering.call_log import Filter, Place
from metering.models import Adjustment, Outcome
from tenants.problems import Problem

from . import series
from .api import ManagementView, group_names
from .models import Account
from .series_api import RangeQuery, asked_of

MOST = 200
STATUS = re.compile(r"[1-5]([0-9]{2}|xx)")


FIELDS = (
    "id", "occurred_at", "recorded_at", "capability", "project", "key", "outcome", "reason", "status", "calls", "units",
    "latency_ms",
)  # fmt: skip


class NoSuchCall(Problem):
    status_code = 404
    slug = "not-found"
    title = "Not found"
    default_detail = "The call log has no such call, or not any more."


class CallsQuery(RangeQuery):
    """Query of the calls, by default those of the running period. `status` is one (404) or a hundred (5xx).

    `cursor` is the `next` of the answer before: there is more as long as it is not null, also where an answer has few calls.
    """

    status = serializers.RegexField(f"^{STATUS.pattern}$", required=False)
    limit = serializers.IntegerField(min_value=1, max_value=MOST, default=50)
    cursor = serializers.CharField(required=False)


@dataclass(frozen=True, slots=True)
class Names:
    """What projects and keys are called in answers, by id."""

    projects: Mapping[str, str]
    keys: Mapping[str, str]


def names(account: Account) -> Names:
    return Names(group_names(account, usage.GroupBy.PROJECT), group_names(account, usage.GroupBy.KEY))


def filter_of(
    *,
    account: Account,
    asked: Mapping[str, Any],
    now: datetime,
    project_ids: frozenset[int] | None = None,
    known: series.Known | None = None,
) -> Filter:
    """Which calls these parameters ask for, of those that the log keeps; raises QueryRefused."""
    start, end = asked.get("from"), asked.get("to")
    if start is None or end is None:
        period, first, last = series.reach(account=account, asked={}, now=now, known=known)
        start, end = start or (period.start if period else first), end or last
    if start >= end:
        raise series.QueryRefused(to=_("It must be later than 'from'."))
    if end - start > series.THIRTEEN_MONTHS:
        raise series.QueryRefused(to=_("At most %(days)d days are answered.") % {"days": series.THIRTEEN_MONTHS.days})
    status = asked.get("status") or ""
    outcome = series.OUTCOMES[asked["outcome"]] if asked.get("outcome") else None
    subjects = series.subject_ids(account=account, asked=asked, project_ids=project_ids, known=known)
    kept = call_log.kept_from()
    start = min(max(start, kept), end) if kept else start
    return Filter(
        account.tenant_id, start, end, kept_from=kept, outcome=outcome, status=int(status.replace("xx", "00")) if status else None,
        is_class=status.endswith("xx"), project_ids=project_ids, **subjects,
    )  # fmt: skip


def cursor_of(place: Place) -> str:
    return base64.urlsafe_b64encode(f"{place.occurred_at.isoformat()} {place.id}".encode()).decode().rstrip("=")


def place_of(cursor: str) -> Place:
    """The place that `cursor_of` wrote; raises QueryRefused."""
    try:
        at, _space, call_id = base64.urlsafe_b64decode(f"{cursor}===").decode().partition(" ")
        place = Place(datetime.fromisoformat(at), UUID(call_id))
        if place.occurred_at.tzinfo is None or place.occurred_at.year not in series.YEARS:
            raise ValueError
    except (ValueError, binascii.Error):
        raise series.QueryRefused(cursor=_("It is not one that was given out here.")) from None
    return place


class CallsView(ManagementView):
    """`GET /api/v1/calls`: calls, newest first. The log keeps them since `kept_from`; of older ones the hourly counts remain."""

    def get(self, request: Request) -> Response:
        account, now = self.account(request), timezone.now()
        asked = asked_of(CallsQuery, request.query_params)
        try:
            wanted = filter_of(account=account, asked=asked, now=now)
            before = place_of(asked["cursor"]) if asked.get("cursor") else None
        except series.QueryRefused as refused:
            raise serializers.ValidationError({name: [text] for name, text in refused.errors.items()}) from None
        as_of = usage.as_of()
        page = call_log.page(wanted, before=before, limit=asked["limit"])
        known = names(account)
        return Response(
            {
                "tenant": account.tenant.slug,
                "from": wanted.start,
                "to": wanted.end,
                "as_of": as_of,
                "kept_from": wanted.kept_from,
                "calls": [fields(row, known) for row in page.rows],
                "next": cursor_of(page.after) if page.after else None,
            }
        )


class CallView(ManagementView):
    """`GET /api/v1/calls/<id>`: one call by the id of its answer (`Meterhouse-Call-Id`), with its corrections."""

    def get(self, request: Request, call_id: UUID) -> Response:
        account = self.account(request)
        row = call_log.find(tenant_id=account.tenant_id, call_id=call_id)
        if row is None:
            raise NoSuchCall
        period = usage.current_period(allowance=account.tenant.allowance, now=row.occurred_at)
        made = call_log.corrections(tenant_id=account.tenant_id, call_id=row.id)
        return Response(
            {
                **fields(row, names(account)),
                "period": {"start": period.start, "end": period.end},
                "corrections": [_correction(one) for one in made],
                "billed_units": row.units + sum(one.units for one in made),
            }
        )


def fields(row: call_log.Row, known: Names) -> dict[str, Any]:
    """A call as JSON. A flood of refused calls shares rows: `calls` says how many one stands for."""
    return {
        "id": str(row.id),
        "occurred_at": row.occurred_at,
        "recorded_at": row.recorded_at,
        "capability": row.capability,
        "project": known.projects.get(str(row.project_id)),
        "key": known.keys.get(str(row.key_id)),
        "outcome": series.REJECTED if row.outcome == Outcome.REFUSED else row.outcome,
        "reason": row.reason or None,
        "status": row.status,
        "calls": row.calls,
        "units": row.units,
        "latency_ms": None if row.latency_us is None else round(row.latency_us / 1000, 3),
    }


def _correction(made: Adjustment) -> dict[str, Any]:
    return {"kind": made.kind, "calls": made.calls, "units": made.units, "reason": made.reason, "at": made.created_at}
