"""How a tenant stands with its payments, and what it arranged for calls beyond the included ones: in words."""

from dataclasses import dataclass
from datetime import datetime

from django.utils.translation import gettext as _

from billing import accounts
from billing.estimates import Statement
from billing.models import Account, Consent, PaymentState
from metering.models import Policy

from . import formatting


@dataclass(frozen=True, slots=True)
class Standing:
    """The state in words. `style` is that of a badge: ok, warn or none."""

    state: str
    style: str
    detail: str
    next_invoice: datetime | None
    beyond: str
    has_portal: bool
    is_cancellable: bool


def standing(*, account: Account, statement: Statement) -> Standing:
    """What the plan page says below the plan's name."""
    state, style, detail = _state(account)
    subscribes = account.subscription_id is not None
    goes_on = subscribes and account.cancels_at is None
    return Standing(
        state=state,
        style=style,
        detail=detail,
        next_invoice=(account.period_end or statement.period.end) if goes_on else None,
        beyond=beyond(account=account, statement=statement, consent=accounts.active_consent(account)),
        has_portal=account.customer_id is not None,
        is_cancellable=goes_on and account.next_version is None,
    )


def _state(account: Account) -> tuple[str, str, str]:
    if account.state == PaymentState.NONE:
        is_free = account.plan_version.fee_minor == 0
        return (_("Free"), "", _("Nothing is charged.")) if is_free else (
            _("By agreement"), "", _("Paid by agreement, not through Stripe."),
        )  # fmt: skip
    words = {
        PaymentState.TRIALING: (_("Trial"), "ok", _("Nothing is due yet.")),
        PaymentState.ACTIVE: (_("Active"), "ok", _("Paid through Stripe.")),
        PaymentState.PAST_DUE: (_("Past due"), "warn", _("An invoice is open; service goes on for now.")),
        PaymentState.RESTRICTED: (_("Restricted"), "warn", _("Calls are refused until the open invoice is paid.")),
    }
    return words[PaymentState(account.state)]


def beyond(*, account: Account, statement: Statement, consent: Consent | None) -> str:
    """What happens to calls beyond the included ones, as arranged now: with the active consent, if there is one."""
    if account.plan_version.included is None:
        return _("The plan includes every call.")
    if consent is not None:
        plan = consent.to_version.plan.name
        return _("They are served, and when %(plan)s costs no more than staying, you move to it.") % {"plan": plan}
    if statement.allowance.policy != Policy.RATE:
        return _("They are refused with 429 until the period ends.")
    text = _("They are served and priced per call.")
    limit = statement.allowance.hard_limit
    return (
        text
        if limit is None
        else f"{text} " + _("From %(calls)s calls on they are refused.") % {"calls": formatting.count(limit)}
    )
