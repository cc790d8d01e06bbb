"""The management API on usage and limits: what programs read. The dashboard shows the same numbers from the same reads."""

from dataclasses import replace
from datetime import MAXYEAR, UTC, datetime, timedelta
from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from metering import limits, usage
from metering.models import MAX_CALLS, LimitKind, Outcome
from metering.periods import Period, hour_from, hour_of
from metering.throttles import ManagementThrottle
from tenants import directory
from tenants.keys import Caller
from tenants.models import ApiKey, Project
from tenants.problems import Problem

from . import estimates, pricing
from .models import Account

LONGEST_RANGE = {
    usage.Granularity.HOUR: timedelta(days=62),
    usage.Granularity.DAY: timedelta(days=400),
    usage.Granularity.MONTH: timedelta(days=800),
}


class NoAccount(Problem):
    status_code = 404
    slug = "no-plan"
    title = "No plan"
    default_detail = "This tenant has no plan yet."


class ManagementView(APIView):
    """Read by key with the scope `usage:read`; not metered, with a burst limit of its own."""

    throttle_classes = (ManagementThrottle,)
    required_scope = "usage:read"

    @staticmethod
    def account(request: Request) -> Account:
        """The caller's account; raises NoAccount."""
        caller: Caller = request.auth  # type: ignore[assignment]
        account = (
            Account.objects.select_related("tenant__allowance", "plan_version__plan")
            .filter(tenant_id=caller.tenant_id)
            .first()
        )
        if account is None:
            raise NoAccount
        return account


class UsageView(ManagementView):
    """`GET /api/v1/usage`: the running period, by capability, and what it costs."""

    def get(self, request: Request) -> Response:
        account = self.account(request)
        return Response(usage_document(account, estimates.statement(account=account, now=timezone.now())))


def usage_document(account: Account, statement: estimates.Statement) -> dict[str, Any]:
    """The running period as JSON. Calls are whole numbers, money is whole minor units, latencies are milliseconds."""
    counts = statement.total.counts
    return {
        "tenant": account.tenant.slug,
        "plan": account.plan_version.plan.code,
        "period": {"start": statement.period.start, "end": statement.period.end},
        "as_of": statement.as_of,
        "calls": {
            "billable": counts.billable,
            "units": counts.units,
            "included": statement.allowance.included,
            "hard_limit": statement.allowance.hard_limit,
            "remaining": statement.remaining,
            "overage": statement.overage,
            "rejected": counts.refused,
            "failed": counts.failed,
        },
        "capabilities": [_capability(group) for group in statement.capabilities],
        "estimate": {
            "currency": statement.invoice.currency,
            "so_far_minor": statement.invoice.total_minor,
            "lines": [_line(line) for line in statement.invoice.lines],
            "projected_minor": _range(statement.projected),
            "projected_calls": _range(statement.projection),
        },
    }


def _capability(group: usage.Group) -> dict[str, Any]:
    counts = group.counts
    return {
        "capability": group.name,
        "calls": counts.answered,
        "billable": counts.billable,
        "units": counts.units,
        "rejected": counts.refused,
        "errors": counts.failed,
        "error_rate": round(counts.failed / counts.answered, 6) if counts.answered else 0.0,
        "latency_ms": _latency(group.latency),
    }


def _latency(latency: usage.Latency) -> dict[str, float | None]:
    return {
        name: None if value is None else round(value / 1000, 3)
        for name, value in (("p50", latency.p50_us), ("p95", latency.p95_us), ("p99", latency.p99_us))
    }


def _line(line: pricing.Line) -> dict[str, Any]:
    """A row of the estimate; the unit price is text, so that none of its digits is lost."""
    return {
        "kind": line.kind,
        "quantity": line.quantity,
        "unit_price_minor": format(line.unit_price_minor.normalize(), "f"),
        "amount_minor": line.amount_minor,
    }


def _range(values: Any) -> dict[str, int | None]:
    """low, likely and high; null while it is too early in the period to say."""
    if values is None:
        return {"low": None, "likely": None, "high": None}
    if isinstance(values, tuple):
        low, likely, high = (invoice.total_minor for invoice in values if isinstance(invoice, pricing.Invoice))
        return {"low": low, "likely": likely, "high": high}
    return {"low": values.low, "likely": values.likely, "high": values.high}


class SeriesQuery(serializers.Serializer[dict[str, Any]]):
    """Query of the series: `from` and `to` are dates or instants (UTC when no offset is given), `to` is exclusive.

    `capability`, `project` (its slug) and `key` (its prefix) narrow it to what is theirs.
    """

    granularity = serializers.ChoiceField(choices=[value.value for value in usage.Granularity], default="day")
    group_by = serializers.ChoiceField(choices=[value.value for value in usage.GroupBy], required=False)
    capability = serializers.CharField(required=False)
    project = serializers.CharField(required=False)
    key = serializers.CharField(required=False)

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        fields = super().get_fields()
        fields["from"] = Instant(required=False)
        fields["to"] = Instant(required=False)
        return fields


class Instant(serializers.Field[datetime, str, str, datetime]):
    """ISO 8601: `2026-11-01` or `2026-11-01T13:00:00Z`."""

    def to_internal_value(self, data: str) -> datetime:
        try:
            instant = datetime.fromisoformat(data)
        except (TypeError, ValueError):
            raise serializers.ValidationError("Write it as 2026-11-01 or 2026-11-01T13:00:00Z.") from None
        if instant.year == MAXYEAR:  # its last hour has no end
            raise serializers.ValidationError("The year is out of range.")
        try:
            return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
        except OverflowError:
            raise serializers.ValidationError("The year is out of range.") from None

    def to_representation(self, value: datetime) -> str:
        return value.isoformat()


class SeriesView(ManagementView):
    """`GET /api/v1/usage/series`: usage over time. By default the running period by day.

    Hour granularity reaches over at most 62 days, day over 400, month over 800. Buckets are UTC and carry their start. Usage is
    kept by whole hours: a range is widened to them, and `from` and `to` of the answer say the range that is answered.
    """

    def get(self, request: Request) -> Response:
        account = self.account(request)
        unknown = set(request.query_params) - SeriesQuery().fields.keys()
        if unknown:  # answering as if it had filtered would be a wrong number
            raise serializers.ValidationError({name: ["There is no such parameter."] for name in sorted(unknown)})
        query = SeriesQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        asked = query.validated_data
        granularity = usage.Granularity(asked["granularity"])
        group_by = usage.GroupBy(asked["group_by"]) if asked.get("group_by") else None
        scope = self._scope(account, asked, granularity)
        as_of = usage.as_of()
        points = usage.series(scope, granularity=granularity, group_by=group_by)
        names = group_names(account, group_by)
        return Response(
            {
                "tenant": account.tenant.slug,
                "from": scope.start,
                "to": scope.end,
                "granularity": granularity.value,
                "group_by": group_by.value if group_by else None,
                "as_of": as_of,
                "series": [_point(point, names) for point in points],
            }
        )

    @staticmethod
    def _scope(account: Account, asked: dict[str, Any], granularity: usage.Granularity) -> usage.Scope:
        now = timezone.now()
        period = usage.current_period(allowance=account.tenant.allowance, now=now)
        start, end = asked.get("from") or period.start, asked.get("to") or period.end
        whole = asked.get("from") is None and asked.get("to") is None
        if not whole:
            start, end = hour_of(start), hour_from(end)
        longest = LONGEST_RANGE[granularity]
        if start >= end:
            raise serializers.ValidationError({"to": ["It must be later than 'from'."]})
        if end - start > longest:
            raise serializers.ValidationError(
                {"to": [f"By {granularity.value} at most {longest.days} days are answered."]}
            )
        subjects = SeriesView._subjects(account, asked)
        if whole:
            return replace(usage.Scope.of_period(account.tenant_id, period), **subjects)
        return usage.Scope(account.tenant_id, start, end, **subjects)

    @staticmethod
    def _subjects(account: Account, asked: dict[str, Any]) -> dict[str, Any]:
        """What the series is narrowed to; raises ValidationError for what is not the tenant's."""
        found = {"capability": asked.get("capability")}
        for kind, name in ((LimitKind.PROJECT, "project"), (LimitKind.KEY, "key")):
            if name in asked:
                found[f"{name}_id"] = subject_id(account, kind, asked[name])
                if found[f"{name}_id"] is None:
                    raise serializers.ValidationError({name: [f"There is no such {name}."]})
        return found


def group_names(account: Account, group_by: usage.GroupBy | None) -> dict[str, str]:
    """What to call the groups: a project's slug or a key's prefix, by id; capabilities go by their own name."""
    if group_by is usage.GroupBy.PROJECT:
        return {str(project.id): project.slug for project in Project.objects.filter(tenant_id=account.tenant_id)}
    if group_by is usage.GroupBy.OUTCOME:
        return {Outcome.REFUSED.value: "rejected"}  # as the counts are called
    if group_by is usage.GroupBy.KEY:
        return {str(key.id): key.prefix for key in ApiKey.objects.filter(tenant_id=account.tenant_id)}
    return {}


def subject_id(account: Account, kind: LimitKind, name: str) -> int | None:
    """The id of the tenant's project with this slug or key with this prefix; None without one. Of the daily cap 0."""
    if kind == LimitKind.DAY:
        return 0
    if kind == LimitKind.PROJECT:
        found = Project.objects.filter(tenant_id=account.tenant_id, slug=name)
        return found.values_list("id", flat=True).first()
    keys = ApiKey.objects.filter(tenant_id=account.tenant_id, public_id=name.removeprefix("mh_live_"))
    return keys.values_list("id", flat=True).first()


def _point(point: usage.Point, names: dict[str, str]) -> dict[str, Any]:
    counts = point.counts
    return {
        "start": point.start,
        "group": names.get(point.group, point.group) or None,
        "billable": counts.billable,
        "units": counts.units,
        "rejected": counts.refused,
        "failed": counts.failed,
        "latency_ms": _latency(point.latency),
    }


class LimitBody(serializers.Serializer[dict[str, Any]]):
    """Body of a limit that is set: units that are admitted in the day or period."""

    calls = serializers.IntegerField(min_value=0, max_value=MAX_CALLS)


class NoSuchLimit(Problem):
    status_code = 404
    slug = "not-found"
    title = "Not found"
    default_detail = "There is no such limit, project or key."


class OwnLimitView(ManagementView):
    """A limit that the tenant sets below its plan's: `PUT {"calls": 5000}` sets it, `DELETE` lifts it, `GET` shows it.

    `/api/v1/limits/day` is the daily cap (UTC day), `/api/v1/limits/projects/<slug>` and `/api/v1/limits/keys/<prefix>` hold for
    the running period. Enforced everywhere within a second. Setting and lifting need the scope `limits:write`.
    """

    kind = LimitKind.DAY

    @property
    def required_scope(self) -> str:  # type: ignore[override]
        return "usage:read" if self.request.method in SAFE_METHODS else "limits:write"

    def get(self, request: Request, subject: str = "") -> Response:
        account = self.account(request)
        period = usage.current_period(allowance=account.tenant.allowance, now=timezone.now())
        wanted = (self.kind.value, subject or None)
        for own in own_limits(account, period):
            if (own["kind"], own["subject"]) == wanted:
                return Response(own)
        raise NoSuchLimit

    def put(self, request: Request, subject: str = "") -> Response:
        account = self.account(request)
        body = LimitBody(data=request.data)
        body.is_valid(raise_exception=True)
        caller: Caller = request.auth  # type: ignore[assignment]
        limits.put(
            tenant=account.tenant, kind=self.kind, subject_id=self.subject_id(account, subject),
            calls=body.validated_data["calls"], actor=caller.prefix,
        )  # fmt: skip
        return self.get(request, subject)

    def delete(self, request: Request, subject: str = "") -> Response:
        account = self.account(request)
        caller: Caller = request.auth  # type: ignore[assignment]
        subject_id = self.subject_id(account, subject)
        if not limits.remove(tenant=account.tenant, kind=self.kind, subject_id=subject_id, actor=caller.prefix):
            raise NoSuchLimit
        return Response(status=204)

    def subject_id(self, account: Account, subject: str) -> int:
        """The id of the project or key of this tenant; raises NoSuchLimit."""
        found = subject_id(account, self.kind, subject)
        if found is None:
            raise NoSuchLimit
        return found


def own_limits(account: Account, period: Period) -> list[dict[str, Any]]:
    """The tenant's own limits as JSON; a project goes by its slug, a key by its prefix."""
    standings = limits.standings(tenant=account.tenant, period=period, now=timezone.now())
    names: dict[str, dict[str, str]] = {
        LimitKind.PROJECT: group_names(account, usage.GroupBy.PROJECT), LimitKind.KEY: group_names(account, usage.GroupBy.KEY),
    } if standings else {}  # fmt: skip
    return [
        {
            "kind": standing.limit.kind,
            "subject": names.get(standing.limit.kind, {}).get(str(standing.limit.subject_id)),
            "calls": standing.limit.calls,
            "used": standing.used,
        }
        for standing in standings
    ]


class LimitsView(ManagementView):
    """`GET /api/v1/limits`: what is enforced for this tenant at the moment."""

    def get(self, request: Request) -> Response:
        account = self.account(request)
        allowance = account.tenant.allowance
        period = usage.current_period(allowance=allowance, now=timezone.now())
        return Response(
            {
                "tenant": account.tenant.slug,
                "plan": account.plan_version.plan.code,
                "period": {"start": period.start, "end": period.end},
                "included": allowance.included,
                "hard_limit": allowance.hard_limit,
                "overage": allowance.policy,
                "admits": allowance.admits,
                "burst_per_second": allowance.burst_per_second,
                "on_outage": allowance.on_outage,
                "recording": allowance.recording,
                "own_limits": own_limits(account, period),
                "projects": {
                    "used": directory.projects_in_use(account.tenant),
                    "limit": account.tenant.max_projects,
                },
            }
        )
