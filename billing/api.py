"""The management API on usage and limits: what programs read. The dashboard shows the same numbers from the same reads."""

from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from metering import limits, usage
from metering.models import MAX_CALLS, LimitKind, Outcome
from metering.periods import Period
from metering.throttles import ManagementThrottle
from tenants import directory
from tenants.keys import Caller
from tenants.models import ApiKey, Project
from tenants.problems import Problem

from . import estimates, pricing
from .models import Account


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
        return Response(
            usage_document(account, estimates.statement(account=account, now=timezone.now(), with_latency=True))
        )


def usage_document(account: Account, statement: estimates.Statement) -> dict[str, Any]:
    """The running period as JSON. Calls are whole numbers, money is whole minor units, latencies are milliseconds."""
    counts = statement.total.counts
    return {
        "tenant": account.tenant.slug,
        "plan": account.plan_version.plan.code,
        "period": {"start": statement.period.start, "end": statement.period.end},
        "as_of": statement.as_of,
        "sent_to": statement.sent_to,
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
        "latency_ms": latency_ms(group.latency),
    }


def latency_ms(latency: usage.Latency) -> dict[str, float | None]:
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
