"""A metered call from admission to record: what every way in (view, gateway, events) goes through."""

import math
import re
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from tenants.keys import Caller
from tenants.problems import Problem, ServiceUnavailable

from . import burst
from .engine import engine
from .leases import Bounds, Holding, LimitUnknown, NoAllowance, Refused, Ticket
from .models import Outcome, Policy
from .recorder import Entry, call_id

CAPABILITY = re.compile(r"[a-z][a-z0-9_.-]{0,59}")
UNBOUNDED = 999_999_999_999_999  # the largest integer that a structured field carries (RFC 9651, 3.3.1)
# Plain values: a member's own comparison and `.value` cost every call a Python function.
NOT_BILLED = {HTTPStatus.UNAUTHORIZED.value, HTTPStatus.FORBIDDEN.value, HTTPStatus.TOO_MANY_REQUESTS.value}
SERVER_ERROR = HTTPStatus.INTERNAL_SERVER_ERROR.value
BILLABLE, FAILED, REFUSED = Outcome.BILLABLE.value, Outcome.FAILED.value, Outcome.REFUSED.value
_known_capabilities: set[str] = set()
_lock = threading.Lock()


class QuotaExceeded(Problem):
    status_code = HTTPStatus.TOO_MANY_REQUESTS
    slug = "quota-exceeded"
    title = "Quota exceeded"


class RateLimited(Problem):
    status_code = HTTPStatus.TOO_MANY_REQUESTS
    slug = "rate-limited"
    title = "Too many calls a second"


class NoPlan(Problem):
    status_code = HTTPStatus.FORBIDDEN
    slug = "no-plan"
    title = "No plan"
    default_detail = "This tenant has no plan, so no call is allowed. Choose a plan in the dashboard."


class LimitUnavailable(ServiceUnavailable):
    slug = "limit-unavailable"
    default_detail = (
        "The limit of this tenant cannot be checked at the moment, so the call was not served or counted. Try again."
    )


@dataclass(slots=True)
class MeteredCall:
    """An admitted or refused call on its way to the ledger."""

    id: UUID
    caller: Caller
    capability: str
    holding: Holding
    bounds: Bounds
    occurred_at: float
    ticket: Ticket | None  # None: refused
    reason: str = ""
    problem: Problem | None = None


def open_call(*, caller: Caller, capability: str) -> MeteredCall:
    """The call is admitted, or refused with `problem`; either way `close_call` must follow.

    Raises NoPlan or LimitUnavailable (nothing is counted then) and ImproperlyConfigured for a bad capability.
    """
    check_capability(capability)
    meter = engine()
    if meter.buffer.is_full:
        raise LimitUnavailable
    try:
        ticket = meter.admit(caller.tenant_id)
    except Refused as refused:
        occurred_at = meter.clock.now()
        problem = _quota_exceeded(refused, occurred_at, caller)
        holding = meter.holding(caller.tenant_id)
        return MeteredCall(
            call_id(occurred_at), caller, capability, holding, refused.bounds, occurred_at, None, "quota", problem
        )
    except NoAllowance:
        raise NoPlan from None
    except LimitUnknown:
        raise LimitUnavailable from None
    call = MeteredCall(
        call_id(ticket.occurred_at), caller, capability, ticket.holding, ticket.bounds, ticket.occurred_at, ticket
    )
    _check_burst(call, ticket)
    return call


def _check_burst(call: MeteredCall, ticket: Ticket) -> None:
    per_second = call.bounds.burst_per_second
    wait = burst.burst.wait_seconds(name=burst.tenant_limit(call.caller.tenant_id), per_second=per_second)
    if wait:
        engine().give_back(ticket)
        call.ticket, call.reason = None, "burst"
        call.problem = RateLimited(
            f"{call.bounds.label} allows {per_second:,} calls a second.",
            retry_after_seconds=max(1, math.ceil(wait)),
            plan=call.bounds.label,
            limit_per_second=per_second,
        )


def close_call(call: MeteredCall, *, status: int, latency_us: int) -> None:
    """The answered call is in the recorder; a unit that is not billed has been given back."""
    meter = engine()
    ticket, outcome, units, lease_id = call.ticket, REFUSED, 0, None
    if ticket is not None:
        if is_billable(status):
            outcome, units = BILLABLE, 1
            lease_id = ticket.lease.id if ticket.lease is not None else None
        else:
            outcome = FAILED
            meter.give_back(ticket)
    caller, bounds = call.caller, call.bounds
    meter.record(
        Entry(
            call.id, caller.tenant_id, caller.project_id, caller.key_id, call.capability, outcome, call.reason,
            status, units, min(max(latency_us, 0), 2**31 - 1), call.occurred_at, bounds.start, bounds.end, lease_id,
        )
    )  # fmt: skip


def is_billable(status: int) -> bool:
    """Whether an answer with this status is billed: below 500 and not 401, 403 or 429."""
    return status < SERVER_ERROR and status not in NOT_BILLED


def check_capability(capability: object) -> None:
    """Raises ImproperlyConfigured unless the view names a capability that the ledger can hold."""
    if capability in _known_capabilities:
        return
    if not isinstance(capability, str) or not CAPABILITY.fullmatch(capability):
        raise ImproperlyConfigured(
            f"A metered view needs a `capability` of at most 60 characters a-z, 0-9, '_', '.', '-'; got {capability!r}."
        )
    with _lock:
        if len(_known_capabilities) < 1000:  # noqa: PLR2004 -- a cache, bounded
            _known_capabilities.add(capability)


def headers(call: MeteredCall) -> dict[str, str]:
    """RateLimit fields of the answer (draft-ietf-httpapi-ratelimit-headers) and the call's id.

    `q` is what is enforced: the bound on calls in the period, or the included calls where calls beyond them are priced.
    There `r` never falls below 1: a client that obeys the fields must not stop before the server would refuse.
    """
    bounds, holding = call.bounds, call.holding
    if bounds.admits is not None:
        quota = bounds.admits
        left = max(0, quota - holding.used - holding.pending)
    else:
        quota = bounds.included if bounds.included is not None else UNBOUNDED
        left = max(1, quota - holding.used - holding.pending)
    if call.reason == "quota":
        left = 0
    seconds = max(0, math.ceil(bounds.end - call.occurred_at))
    if call.problem is not None and call.reason == "quota" and call.problem.retry_after_seconds is not None:
        seconds = call.problem.retry_after_seconds  # one second while units may still come back
    limit = f'"month";r={left};t={seconds}'
    if call.reason == "burst":
        limit += ', "second";r=0;t=1'
    return {
        "RateLimit-Policy": f'"month";q={quota};w={round(bounds.end - bounds.start)}, "second";q={bounds.burst_per_second};w=1',
        "RateLimit": limit,
        "Meterhouse-Call-Id": str(call.id),
    }


def _quota_exceeded(refused: Refused, now: float, caller: Caller) -> QuotaExceeded:
    bounds = refused.bounds
    end = datetime.fromtimestamp(bounds.end, UTC)
    members = {
        "plan": bounds.label,
        "limit": bounds.admits,
        "used": refused.used,
        "in_flight": max(0, (bounds.admits or 0) - refused.used),
        "period_end": end.isoformat().replace("+00:00", "Z"),
        "upgrade": f"{settings.PUBLIC_URL}/t/{caller.tenant_slug}/plan",
    }
    if not refused.final:
        detail = "The last calls of this period are being served at this moment; one that fails becomes free again. Try again."
        return QuotaExceeded(detail, retry_after_seconds=1, **members)
    why = f"All {bounds.admits:,} calls of this period are used"
    if bounds.policy == Policy.UPGRADE:
        why += ", and moving to the next plan needs your consent"
    return QuotaExceeded(
        f"{why}. Calls are served again from {end:%d %B %Y %H:%M} (UTC), or at once on a larger plan.",
        retry_after_seconds=max(1, math.ceil(bounds.end - now)),
        **members,
    )
