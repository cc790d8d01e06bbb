"""The management API on the audit log."""

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from tenants import audit_log
from tenants.keys import Caller
from tenants.models import AuditEntry, Tenant

from .api import ManagementView
from .series_api import Instant

MOST = 200


class AuditQuery(serializers.Serializer[dict[str, Any]]):
    """`from` and `to` are dates or instants, `to` is exclusive; `after` is the `next` of the answer before."""

    actor = serializers.CharField(required=False, max_length=254)
    action = serializers.CharField(required=False, max_length=60)
    after = serializers.CharField(required=False, max_length=100)
    limit = serializers.IntegerField(default=50, min_value=1, max_value=MOST)

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        fields = super().get_fields()
        fields["from"] = Instant(required=False)
        fields["to"] = Instant(required=False)
        return fields

    def validate_after(self, value: str) -> audit_log.Place:
        place = audit_log.Place.read(value)
        if place is None:
            raise serializers.ValidationError("Send the 'next' of an answer as it was.")
        return place


class AuditView(ManagementView):
    """`GET /api/v1/audit`: who changed what, newest first. `next` is null on the last page."""

    required_scope = "audit:read"

    def get(self, request: Request) -> Response:
        caller: Caller = request.auth  # type: ignore[assignment]
        unknown = set(request.query_params) - AuditQuery().fields.keys()
        if unknown:  # answering as if it had filtered would be a wrong list
            raise serializers.ValidationError({name: ["There is no such parameter."] for name in sorted(unknown)})
        query = AuditQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        asked = query.validated_data
        rows, following = audit_log.page(
            Tenant(pk=caller.tenant_id),
            audit_log.Filter(asked.get("actor", ""), asked.get("action", ""), asked.get("from"), asked.get("to")),
            after=asked.get("after"),
            size=asked["limit"],
        )
        return Response({"entries": [_entry(row) for row in rows], "next": str(following) if following else None})


def _entry(row: AuditEntry) -> dict[str, Any]:
    return {name: getattr(row, name) for name in audit_log.COLUMNS}
