"""`/api/v1/keys`: the tenant's API keys, listed with `usage:read`, created, rotated and revoked with `keys:write`.

A key made here has no more scopes than the key that makes it, so that a program cannot give itself rights.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q, QuerySet
from django.http import Http404
from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from metering import usage
from tenants import keys, rotation
from tenants.key_status import KeyStatus, status_of, with_status
from tenants.keys import DEFAULT_SCOPES, SCOPES
from tenants.models import ApiKey

from .managed_api import PAGE, ManagedView, billable, body, next_page, refusals
from .models import Account

DAY_SECONDS = 86_400


class KeysQuery(serializers.Serializer[dict[str, Any]]):
    project = serializers.SlugField(required=False)
    status = serializers.ChoiceField(choices=KeyStatus.values, required=False)
    after = serializers.CharField(required=False)


class NewKey(serializers.Serializer[dict[str, Any]]):
    project = serializers.SlugField()
    name = serializers.CharField(max_length=120)
    scopes = serializers.MultipleChoiceField(choices=list(SCOPES), default=set(DEFAULT_SCOPES), allow_empty=False)
    expires_at = serializers.DateTimeField(required=False, allow_null=True, default=None)

    def validate_expires_at(self, value: datetime | None) -> datetime | None:
        if value is not None and value <= timezone.now():
            raise serializers.ValidationError("It must be in the future.")
        return value


class Rotation(serializers.Serializer[dict[str, Any]]):
    overlap_seconds = serializers.IntegerField(
        min_value=0, max_value=rotation.LONGEST_OVERLAP.days * DAY_SECONDS, default=DAY_SECONDS
    )


class OneKeyView(ManagedView):
    """What concerns one key of the tenant, by its prefix."""

    change_scope = "keys:write"

    @staticmethod
    def key(account: Account, prefix: str) -> ApiKey:
        """The tenant's key with this prefix; raises Http404."""
        found = _all(account).filter(public_id=prefix.removeprefix("mh_live_")).first()
        if found is None:
            raise Http404
        return found


class KeysView(ManagedView):
    """`GET`: 100 keys an answer, the newest first, `next` leads on; `?project=<slug>` and `?status=` narrow.

    `POST {"project", "name", "scopes", "expires_at"}` creates one: `api_key` of the answer is the whole key, this once.
    """

    change_scope = "keys:write"

    def get(self, request: Request) -> Response:
        account = self.account(request)
        asked = self.query(request, KeysQuery)
        found = _all(account).order_by("-created_at", "-pk")
        if "project" in asked:
            found = found.filter(project__slug=asked["project"])
        if "status" in asked:
            found = with_status(found, KeyStatus(asked["status"]), timezone.now())
        if "after" in asked:
            last = OneKeyView.key(account, asked["after"])
            found = found.filter(Q(created_at__lt=last.created_at) | Q(created_at=last.created_at, pk__lt=last.pk))
        rows = list(found[: PAGE + 1])
        after = rows[PAGE - 1].prefix if len(rows) > PAGE else None
        return Response({"keys": documents(account, rows[:PAGE]), "next": next_page(request, after=after)})

    def post(self, request: Request) -> Response:
        account, caller = self.account(request), self.caller(request)
        wanted = body(request.data, NewKey)
        project = account.tenant.projects.filter(slug=wanted["project"]).first()
        if project is None:
            raise serializers.ValidationError({"project": ["There is no such project."]})
        with refusals(account.tenant):
            key, text = keys.issue(
                project=project, name=wanted["name"], actor=caller.prefix, scopes=frozenset(wanted["scopes"]),
                expires_at=wanted["expires_at"], within=caller.scopes,
            )  # fmt: skip
        return shown_once(account, key, text)


class KeyView(OneKeyView):
    """`GET` shows a key, `DELETE` revokes it: refused everywhere within a second."""

    def get(self, request: Request, prefix: str) -> Response:
        account = self.account(request)
        return Response(documents(account, [self.key(account, prefix)])[0])

    def delete(self, request: Request, prefix: str) -> Response:
        key = self.key(self.account(request), prefix)
        keys.revoke(key=key, actor=self.caller(request).prefix, now=timezone.now())
        return Response(status=204)


class RotateView(OneKeyView):
    """`POST {"overlap_seconds": 86400}`: a new key of the same project, name and scopes; the old one ends after the overlap."""

    def post(self, request: Request, prefix: str) -> Response:
        account, caller = self.account(request), self.caller(request)
        key = self.key(account, prefix)
        overlap = timedelta(seconds=body(request.data, Rotation)["overlap_seconds"])
        with refusals(account.tenant):
            new, text = rotation.rotate(
                key=key, overlap=overlap, actor=caller.prefix, now=timezone.now(), within=caller.scopes
            )
        return shown_once(account, new, text)


def _all(account: Account) -> QuerySet[ApiKey]:
    return ApiKey.objects.filter(tenant_id=account.tenant_id).select_related(
        "project", "tenant", "created_by", "replaced_by"
    )


def shown_once(account: Account, key: ApiKey, text: str) -> Response:
    """The new key with its whole text, which is in no other answer; no cache keeps it."""
    answer = Response({**documents(account, [key])[0], "api_key": text}, status=201)
    answer["Location"] = f"/api/v1/keys/{key.prefix}"
    answer["Cache-Control"] = "no-store"
    return answer


def documents(account: Account, found: Sequence[ApiKey]) -> list[dict[str, Any]]:
    """Keys as JSON, with the billable calls of the running period."""
    now = timezone.now()
    period = usage.current_period(allowance=account.tenant.allowance, now=now)
    calls = billable(account, group_by=usage.GroupBy.KEY, ids=[key.pk for key in found], period=period)
    return [
        {
            "prefix": key.prefix,
            "last_four": key.last_four,
            "name": key.name,
            "project": key.project.slug,
            "scopes": sorted(key.scopes),
            "status": status_of(key, now).value,
            "created_at": key.created_at,
            "created_by": key.created_by.email if key.created_by else None,
            "last_used_at": key.last_used_at,
            "expires_at": key.expires_at,
            "revoked_at": key.revoked_at,
            "replaced_by": key.replaced_by.prefix if key.replaced_by else None,
            "billable": calls.get(key.pk, 0),
        }
        for key in found
    ]
