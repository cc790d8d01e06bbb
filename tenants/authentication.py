"""DRF authentication by API key, and the permission that a view's scope asks for."""

from typing import Any

from django.utils import timezone
from rest_framework import exceptions, permissions
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from . import keys
from .problems import CHALLENGE, ServiceUnavailable

REFUSED = "Send a valid API key as 'Authorization: Bearer mh_live_...'."


class ApiKeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer mh_live_...`. Every refusal is the same 401: it tells nobody which keys exist."""

    def authenticate(self, request: Request) -> tuple[keys.Caller, keys.Caller] | None:
        header = request.META.get("HTTP_AUTHORIZATION", "")
        if not header:
            return None
        caller = verified(header)
        return caller, caller

    def authenticate_header(self, request: Request) -> str:
        return CHALLENGE


def verified(header: str) -> keys.Caller:
    """Whom the Authorization header speaks for; raises AuthenticationFailed or ServiceUnavailable."""
    scheme, _, key = header.partition(" ")
    if scheme.lower() != "bearer":
        raise exceptions.AuthenticationFailed(REFUSED)
    try:
        return keys.cache.verify(key.strip(), now=timezone.now())
    except keys.KeyRefused:
        raise exceptions.AuthenticationFailed(REFUSED) from None
    except keys.KeysUnavailable:
        raise ServiceUnavailable from None


class HasScope(permissions.BasePermission):
    """The key carries the view's `required_scope` (default: none is enough, a valid key is)."""

    def has_permission(self, request: Request, view: Any) -> bool:
        caller = request.auth
        if not isinstance(caller, keys.Caller):
            raise exceptions.NotAuthenticated(REFUSED)
        check_scope(caller, getattr(view, "required_scope", None))
        return True


def check_scope(caller: keys.Caller, scope: str | None) -> None:
    """The caller's key carries the scope, or none is asked for; raises PermissionDenied."""
    if scope is not None and scope not in caller.scopes:
        raise exceptions.PermissionDenied(f"This key lacks the scope '{scope}'.")
