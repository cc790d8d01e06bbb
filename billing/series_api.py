"""`GET /api/v1/usage/series`: usage over time. The usage page and its CSV are the same query and the same fields."""

from collections.abc import Mapping
from datetime import MAXYEAR, UTC, datetime
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from metering import usage

from . import series
from .api import ManagementView, group_names, latency_ms


class Instant(serializers.Field[datetime, str, str, datetime]):
    """ISO 8601: `2026-11-01` or `2026-11-01T13:00:00Z`."""

    def to_internal_value(self, data: str) -> datetime:
        try:
            instant = datetime.fromisoformat(data)
        except (TypeError, ValueError):
            raise serializers.ValidationError(_("Write it as 2026-11-01 or 2026-11-01T13:00:00Z.")) from None
        if instant.year == MAXYEAR:  # its last hour has no end
            raise serializers.ValidationError(_("The year is out of range."))
        try:
            return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
        except OverflowError:
            raise serializers.ValidationError(_("The year is out of range.")) from None

    def to_representation(self, value: datetime) -> str:
        return value.isoformat()


class RangeQuery(serializers.Serializer[dict[str, Any]]):
    """Query over time: `from` and `to` are dates or instants (UTC when no offset is given), `to` is exclusive.

    `capability`, `project` (its slug), `key` (its prefix) and `outcome` narrow it to what is theirs.
    """

    capability = serializers.CharField(required=False)
    project = serializers.CharField(required=False)
    key = serializers.CharField(required=False)
    outcome = serializers.ChoiceField(choices=list(series.OUTCOMES), required=False)

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        fields = super().get_fields()
        fields["from"] = Instant(required=False)
        fields["to"] = Instant(required=False)
        return fields


class SeriesQuery(RangeQuery):
    """Query of the series. `period` names the billing period that holds this instant, in place of `from` and `to`.

    `show=money` adds what the calls of each point cost; for whole periods, by day or month.
    """

    granularity = serializers.ChoiceField(choices=[value.value for value in usage.Granularity], default="day")
    group_by = serializers.ChoiceField(choices=[value.value for value in usage.GroupBy], required=False)
    period = Instant(required=False)
    show = serializers.ChoiceField(choices=["calls", "money"], required=False)


def asked_of(kind: type[serializers.Serializer[dict[str, Any]]], parameters: Mapping[str, str]) -> dict[str, Any]:
    """The parameters as values; raises ValidationError, also for one that does not exist: answering as if it had filtered
    would be a wrong number.
    """
    asked = kind(data=parameters)
    unknown = set(parameters) - asked.fields.keys()
    if unknown:
        raise serializers.ValidationError({name: ["There is no such parameter."] for name in sorted(unknown)})
    asked.is_valid(raise_exception=True)
    return dict(asked.validated_data)


def refused(error: serializers.ValidationError) -> series.QueryRefused:
    """The same error as the domain tells it."""
    detail = error.detail if isinstance(error.detail, dict) else {}
    return series.QueryRefused(**{f"{name}_": str(next(iter(texts))) for name, texts in detail.items()})


class SeriesView(ManagementView):
    """`GET /api/v1/usage/series`: usage over time. By default the running period by day.

    Hour granularity reaches over at most 62 days, day over 400, month over 800. Buckets are UTC and carry their start. Usage is
    kept by whole hours: a range is widened to them, and `from` and `to` of the answer say the range that is answered.
    """

    def get(self, request: Request) -> Response:
        account, now = self.account(request), timezone.now()
        asked = asked_of(SeriesQuery, request.query_params)
        try:
            query = series.query(account=account, asked=asked, now=now)
        except series.QueryRefused as refused:
            raise serializers.ValidationError({name: [text] for name, text in refused.errors.items()}) from None
        as_of = usage.as_of()
        points = series.points(account=account, asked=query, now=now)
        names = group_names(account, query.group_by)
        return Response(
            {
                "tenant": account.tenant.slug,
                "from": query.scope.start,
                "to": query.scope.end,
                "granularity": query.granularity.value,
                "group_by": query.group_by.value if query.group_by else None,
                "as_of": as_of,
                **({"currency": account.currency} if query.shows_money else {}),
                "series": [fields(point, names) for point in points],
            }
        )


def fields(point: series.Point, names: Mapping[str, str]) -> dict[str, Any]:
    """A point as JSON. An amount is text and not rounded, so that none of its digits is lost and amounts add up."""
    counts = point.counts
    money = {} if point.exact_minor is None else {"exact_minor": format(point.exact_minor.normalize(), "f")}
    return {
        "start": point.start,
        "group": names.get(point.group, point.group) or None,
        "billable": counts.billable,
        "units": counts.units,
        "rejected": counts.refused,
        "failed": counts.failed,
        **money,
        "latency_ms": latency_ms(point.latency),
    }
