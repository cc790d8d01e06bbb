"""What the addresses share under which projects and keys are managed: scopes by method, lists in pages, refusals."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, ClassVar
from urllib.parse import urlencode

from django.conf import settings
from django.urls import reverse
from rest_framework import exceptions, serializers
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request

from metering import usage
from tenants import directory, keys, rotation
from tenants.keys import Caller
from tenants.models import Tenant
from tenants.problems import Problem

from .api import ManagementView
from .models import Account

PAGE = 100  # rows of a list that one answer holds


class ManagedView(ManagementView):
    """Read with the scope `usage:read`, changed with a scope of its own."""

    change_scope: ClassVar[str]

    @property
    def required_scope(self) -> str:  # type: ignore[override]
        return "usage:read" if self.request.method in SAFE_METHODS else self.change_scope

    @staticmethod
    def caller(request: Request) -> Caller:
        caller: Caller = request.auth  # type: ignore[assignment]
        return caller

    @classmethod
    def tenant(cls, request: Request) -> Tenant:
        return Tenant.objects.get(pk=cls.caller(request).tenant_id)

    @staticmethod
    def query(request: Request, form: type[serializers.Serializer[dict[str, Any]]]) -> dict[str, Any]:
        """The query as the form reads it; a parameter that it does not know is an error, not something to pass over."""
        unknown = set(request.query_params) - form().fields.keys()
        if unknown:
            raise serializers.ValidationError({name: ["There is no such parameter."] for name in sorted(unknown)})
        return body(request.query_params, form)


def body(given: Any, form: type[serializers.Serializer[dict[str, Any]]]) -> dict[str, Any]:
    """What was sent, as the form reads it; raises ValidationError."""
    read = form(data=given)
    read.is_valid(raise_exception=True)
    return dict(read.validated_data)


def next_page(request: Request, *, after: str | None) -> str | None:
    """The address of the rows behind this one; None behind the last."""
    if after is None:
        return None
    return f"{request.path}?{urlencode({**request.query_params.dict(), 'after': after})}"


def billable(account: Account, *, group_by: usage.GroupBy, ids: list[int], period: Any) -> dict[int, int]:
    """Billable calls of the period by project or key."""
    scope = usage.Scope.of_period(account.tenant_id, period)
    return {found: counts.billable for found, counts in usage.counts(scope, group_by=group_by, ids=ids).items()}


class Conflict(Problem):
    """What was asked for cannot be as things stand; nothing has changed."""

    status_code = HTTPStatus.CONFLICT


class NoRoom(Conflict):
    slug = "project-limit-reached"
    title = "No room for another project"


class NameTaken(Conflict):
    slug = "name-taken"
    title = "Name taken"


class Archived(Conflict):
    slug = "project-archived"
    title = "Project archived"


class KeyEnded(Conflict):
    slug = "key-ended"
    title = "Key has ended"


@contextmanager
def refusals(tenant: Tenant) -> Iterator[None]:
    """What the domain refuses becomes a problem document."""
    try:
        yield
    except directory.ProjectLimitReached as error:
        upgrade = f"{settings.PUBLIC_URL}{reverse('plan', args=[tenant.slug])}"
        raise NoRoom(str(error), limit=error.limit, used=error.used, upgrade=upgrade) from None
    except directory.ProjectExists as error:
        raise NameTaken(str(error)) from None
    except keys.ProjectArchived as error:
        raise Archived(str(error)) from None
    except rotation.KeyHasEnded as error:
        raise KeyEnded(str(error)) from None
    except keys.ScopesBeyond as error:
        scopes = ", ".join(sorted(error.scopes))
        raise exceptions.PermissionDenied(f"A key gives no scope that it lacks itself: {scopes}.") from None
