"""The two lines an engineer adds to a DRF view: `throttle_classes = [TierThrottle]` and `capability = "storage"`."""

from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from tenants.keys import Caller
from tenants.problems import Problem

from . import burst, calls


class TierThrottle(BaseThrottle):
    """Admits the call against the tenant's quota and burst limit, or answers 429; the middleware records it.

    Raises ImproperlyConfigured when the view has no `capability` or is not authenticated by an API key.
    """

    def allow_request(self, request: Request, view: Any) -> bool:
        caller = request.auth
        if not isinstance(caller, Caller):
            raise ImproperlyConfigured(f"{type(view).__name__} is metered and must authenticate by API key.")
        call = calls.open_call(caller=caller, capability=getattr(view, "capability", None))  # type: ignore[arg-type]
        request._request.metered_call = call  # type: ignore[attr-defined]
        if call.problem is not None:
            raise call.problem
        return True


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
