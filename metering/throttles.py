"""The two lines an engineer adds to a DRF view: `throttle_classes = [TierThrottle]` and `capability = "storage"`."""

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from rest_framework.exceptions import NotAuthenticated
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from tenants.authentication import REFUSED
from tenants.keys import Caller
from tenants.problems import Problem

from . import burst, calls

PLAIN = (str, int)  # asked before Mapping, whose isinstance() is a dear question


class TierThrottle(BaseThrottle):
    """Admits the call against the tenant's limits, or answers 429; the middleware records it.

    The view says what is metered: `capability`, a name or a mapping of names by action (viewsets) or method (`"get"`), and
    `cost`, units a call takes (default 1), a number or such a mapping. Where the request decides, the view has the methods
    `get_capability(request)` or `get_cost(request)`. A function view uses `TierThrottle.of("storage", cost=5)`.

    Raises ImproperlyConfigured when the view names no capability for what it serves, a cost makes no sense, or the caller is
    authenticated by something else than an API key. Asked twice for one request, it meters once.
    """

    capability: str | None = None
    cost: int = 1

    @classmethod
    def of(cls, capability: str, *, cost: int = 1) -> type["TierThrottle"]:
        """A throttle that brings its capability and cost along; raises ImproperlyConfigured for a bad one."""
        calls.check_capability(capability)
        calls.check_cost(cost)
        return type(cls.__name__, (cls,), {"capability": capability, "cost": cost})

    def allow_request(self, request: Request, view: Any) -> bool:
        caller = request.auth
        if caller is None:
            raise NotAuthenticated(REFUSED)
        if not isinstance(caller, Caller):
            raise ImproperlyConfigured(f"{type(view).__name__} is metered and must authenticate by API key.")
        call: calls.MeteredCall | None = getattr(request._request, "metered_call", None)
        if call is None:
            capability = self._asked(view, request, "capability")
            if capability is None and not _is_served(view, request):
                return True  # DRF answers 405, or OPTIONS by itself
            call = calls.open_call(caller=caller, capability=capability, cost=self._asked(view, request, "cost"))
            request._request.metered_call = call  # type: ignore[attr-defined]
        if call.problem is not None:
            raise call.problem
        return True

    def _asked(self, view: Any, request: Request, name: str) -> Any:
        """What the view says of this request, else what the throttle itself says."""
        decides = getattr(view, f"get_{name}", None)
        if decides is not None:
            return decides(request)
        value = getattr(view, name, None)
        if value is None or type(value) in PLAIN:
            return getattr(self, name) if value is None else value
        if isinstance(value, Mapping):
            value = value.get(_action(view, request))
        return getattr(self, name) if value is None else value


def _action(view: Any, request: Request) -> str:
    """The viewset's action, or the method of a plain view (HEAD counts as GET), as mappings are keyed."""
    method = (request.method or "").lower()
    return getattr(view, "action", None) or ("get" if method == "head" else method)


def _is_served(view: Any, request: Request) -> bool:
    """Whether code of the view's own will run."""
    method = (request.method or "").lower()
    return method != "options" and method in view.http_method_names and hasattr(view, method)


class TooManyManagementCalls(Problem):
    status_code = 429
    slug = "rate-limited"
    title = "Too many calls a second"


class ManagementThrottle(BaseThrottle):
    """The management API's own burst limit (setting MANAGEMENT_BURST_PER_SECOND, by tenant); not metered."""

    def allow_request(self, request: Request, view: Any) -> bool:
        caller: Caller = request.auth  # type: ignore[assignment]
        limit = settings.MANAGEMENT_BURST_PER_SECOND
        wait = burst.burst.wait_seconds(name=f"management:{caller.tenant_id}", per_second=limit)
        if wait:
            raise TooManyManagementCalls(
                f"At most {limit} calls a second.", retry_after_seconds=max(1, round(wait + 0.5))
            )
        return True
