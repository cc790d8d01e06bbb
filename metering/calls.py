"""A metered call from admission to record: what every way in (view, gateway, events) goes through."""

import math
import re
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from tenants.keys import Caller
from tenants.problems import Problem, ServiceUnavailable

from . import burst
from .engine import engine
from .holdings import Bounds, Holding, LimitUnknown, NoAllowance, Refusal, Refused, Ticket
from .models import Outcome, Policy
from .recorder import HELD, Entry, call_id

CAPABILITY = re.compile(r"[a-z][a-z0-9_.-]{0,59}")
MAX_COST = 1_000_000
RESTRICTION = "restriction"  # as metering_grant names it
PERIOD_LIMITS = {"quota", "hard_limit"}
LIMIT_NAMES = {"daily_cap": "day", "project_limit": "project", "key_limit": "key"}
HELD_FRESH_SECONDS = 2.0  # what others hold is heard with each flush of calls that wait, and forgotten after this
MICROSECOND = 1e-6  # the database keeps no less
UNBOUNDED = 999_999_999_999_999  # the largest integer that a structured field carries (RFC 9651, 3.3.1)
# Plain values: a member's own comparison and `.value` cost every call a Python function.
NOT_BILLED = {HTTPStatus.UNAUTHORIZED.value, HTTPStatus.FORBIDDEN.value, HTTPStatus.TOO_MANY_REQUESTS.value}
TOO_MANY = HTTPStatus.TOO_MANY_REQUESTS.value
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


class PaymentRequired(Problem):
    """No `Retry-After`: time alone does not mend it."""

    status_code = HTTPStatus.PAYMENT_REQUIRED
    slug = "payment-required"
    title = "Payment required"


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

    id: str
    caller: Caller
    capability: str
    holding: Holding
    bounds: Bounds
    occurred_at: float
    ticket: Ticket | None  # None: refused
    reason: str = ""
    problem: Problem | None = None
    refusal: Refusal | None = None


def open_call(*, caller: Caller, capability: str, cost: int = 1) -> MeteredCall:
    """The call is admitted, or refused with `problem`; either way `close_call` must follow.

    `cost`: units that it takes of every limit, 1 to MAX_COST. Raises NoPlan or LimitUnavailable (nothing is counted then), and
    ImproperlyConfigured for a bad capability or cost.
    """
    check_capability(capability)
    check_cost(cost)
    meter = engine()
    if meter.is_full:
        raise LimitUnavailable
    try:
        ticket = meter.admit(caller.tenant_id, project_id=caller.project_id, key_id=caller.key_id, cost=cost)
    except Refused as refused:
        return _refused(refused.refusal, caller, capability)
    except NoAllowance:
        raise NoPlan from None
    except LimitUnknown:
        raise LimitUnavailable from None
    call = MeteredCall(
        call_id(ticket.occurred_at), caller, capability, ticket.holding, ticket.bounds, ticket.occurred_at, ticket
    )
    _check_burst(call, ticket)
    return call


def _refused(refusal: Refusal, caller: Caller, capability: str) -> MeteredCall:
    meter = engine()
    bounds = refusal.bounds
    occurred_at = min(max(meter.clock.now(), bounds.start), bounds.end - MICROSECOND)
    is_restricted = refusal.by == RESTRICTION
    problem = _payment_required(bounds, caller) if is_restricted else _quota_exceeded(refusal, occurred_at, caller)
    return MeteredCall(
        call_id(occurred_at), caller, capability, meter.holding(caller.tenant_id), bounds, occurred_at, None, refusal.by,
        problem, refusal,
    )  # fmt: skip


def _payment_required(bounds: Bounds, caller: Caller) -> PaymentRequired:
    return PaymentRequired(
        "A payment is missing beyond its grace days, so calls are refused. They are served again as soon as it is paid.",
        plan=bounds.label,
        refused_by=RESTRICTION,
        pay=f"{settings.PUBLIC_URL}/t/{caller.tenant_slug}/plan",
    )


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
    """The answered call is in the recorder (in the ledger where the allowance says `durable`); what is not billed is given back."""
    meter = engine()
    ticket, outcome, units, lease_id = call.ticket, REFUSED, 0, None
    if ticket is not None:
        if is_billable(status):
            outcome, units = BILLABLE, ticket.cost
            lease_id = ticket.lease.id if ticket.lease is not None else None
        else:
            outcome = FAILED
            meter.give_back(ticket)
            if status == TOO_MANY:  # another limit of the view refused it: it did not use this one
                burst.burst.give_back(name=burst.tenant_limit(call.caller.tenant_id))
    caller, bounds = call.caller, call.bounds
    entry = Entry(
        call.id, caller.tenant_id, caller.project_id, caller.key_id, call.capability, outcome, call.reason,
        status, units, min(max(latency_us, 0), 2**31 - 1), call.occurred_at, bounds.start, bounds.end, lease_id,
    )  # fmt: skip
    if bounds.is_durable and ticket is not None:
        meter.record_durably(entry)
    else:
        meter.record(entry)


def hold_call(call: MeteredCall) -> None:
    """The admitted call is in the recorder (in the database where the allowance says `durable`), and waits for its outcome."""
    ticket, caller, bounds = call.ticket, call.caller, call.bounds
    assert ticket is not None
    entry = Entry(
        call.id, caller.tenant_id, caller.project_id, caller.key_id, call.capability, HELD, "", 0, ticket.cost, None,
        call.occurred_at, bounds.start, bounds.end, ticket.lease.id if ticket.lease is not None else None,
    )  # fmt: skip
    if bounds.is_durable:
        engine().record_durably(entry)
    else:
        engine().record(entry)


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


def check_cost(cost: object) -> None:
    """Raises ImproperlyConfigured unless the cost is a whole number of units from 1 to MAX_COST."""
    if type(cost) is not int or not 1 <= cost <= MAX_COST:  # a bool is an int, and no cost
        raise ImproperlyConfigured(
            f"The cost of a metered call is a whole number from 1 to {MAX_COST:,}; got {cost!r}."
        )


def headers(call: MeteredCall) -> dict[str, str]:
    """RateLimit fields of the answer (draft-ietf-httpapi-ratelimit-headers) and the call's id.

    `q` is what is enforced: the bound on calls in the period, or the included calls where calls beyond them are priced.
    There `r` never falls below 1: a client that obeys the fields must not stop before the server would refuse. A narrower
    limit (daily cap, project, key) shows in `RateLimit` when it refuses.
    """
    bounds, holding = call.bounds, call.holding
    taken = holding.used + holding.pending
    if holding.held and call.occurred_at - holding.held_at < HELD_FRESH_SECONDS:
        taken += holding.held
    if bounds.admits is not None:
        left = max(0, bounds.admits - taken)
    else:
        included = bounds.included if bounds.included is not None else UNBOUNDED
        left = max(1, included - taken)
    seconds = max(0, math.ceil(bounds.end - call.occurred_at))
    limit = _refused_text(call, left, seconds) if call.reason else f'"month";r={left};t={seconds}'
    return {
        "RateLimit-Policy": bounds.policy_text or _policy_text(bounds),
        "RateLimit": limit,
        "Meterhouse-Call-Id": call.id,
    }


def _refused_text(call: MeteredCall, left: int, seconds: int) -> str:
    if call.refusal is None:
        return f'"month";r={left};t={seconds}, "second";r=0;t=1'
    if call.refusal.by == RESTRICTION:
        return f'"month";r=0;t={seconds}'
    wait = call.problem.retry_after_seconds if call.problem is not None else None
    if call.refusal.by in PERIOD_LIMITS:
        return f'"month";r=0;t={wait}'
    return f'"month";r={left};t={seconds}, "{LIMIT_NAMES[call.refusal.by]}";r=0;t={wait}'


def _policy_text(bounds: Bounds) -> str:
    """The limits that hold for the whole tenant; made once for each set of bounds."""
    quota = bounds.admits if bounds.admits is not None else bounds.included
    parts = [
        f'"month";q={UNBOUNDED if quota is None else quota};w={round(bounds.end - bounds.start)}',
        f'"second";q={bounds.burst_per_second};w=1',
    ]
    if bounds.daily_cap is not None:
        parts.append(f'"day";q={bounds.daily_cap};w=86400')
    bounds.policy_text = ", ".join(parts)
    return bounds.policy_text


SCOPES = {
    "daily_cap": "that your organisation allows itself in a day (UTC)",
    "project_limit": "that your organisation allows this project in a period",
    "key_limit": "that your organisation allows this API key in a period",
}


def _quota_exceeded(refusal: Refusal, now: float, caller: Caller) -> QuotaExceeded:
    bounds = refusal.bounds
    members = {
        "plan": bounds.label,
        "refused_by": refusal.by,
        "limit": refusal.limit,
        "used": refusal.used,
        "in_flight": max(0, refusal.limit - refusal.used),
        "cost": refusal.cost,
        "period_end": _instant(refusal.ends_at),
        "upgrade": f"{settings.PUBLIC_URL}/t/{caller.tenant_slug}/plan",
    }
    if not refusal.final:
        detail = "The last calls of this limit are being served at this moment; one that fails becomes free again. Try again."
        return QuotaExceeded(detail, retry_after_seconds=1, **members)
    left = refusal.limit - refusal.used
    which = SCOPES.get(refusal.by, "of this period")
    why = f"All {refusal.limit:,} calls {which} are used"
    if left > 0:
        members["in_flight"] = 0
        why = f"The call costs {refusal.cost:,} and {left:,} of the {refusal.limit:,} calls {which} are left"
    return QuotaExceeded(
        f"{why}{_mend(refusal)}",
        retry_after_seconds=max(1, math.ceil(refusal.ends_at - now)),
        **members,
    )


def _mend(refusal: Refusal) -> str:
    end = f"{datetime.fromtimestamp(refusal.ends_at, UTC):%d %B %Y %H:%M} (UTC)"
    if refusal.by == "quota":
        consent = ", and moving to the next plan needs your consent" if refusal.bounds.policy == Policy.UPGRADE else ""
        return f"{consent}. Calls are served again from {end}, or at once on a larger plan."
    if refusal.by == "hard_limit":
        return f". It is the hard limit. Calls are served again from {end}, or at once when the hard limit is raised."
    return f". Calls are served again from {end}, or at once when your organisation raises that limit."


def _instant(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat().replace("+00:00", "Z")
