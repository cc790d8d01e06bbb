"""The status strip: what needs the customer's attention now, the most pressing only."""

from dataclasses import dataclass
from datetime import datetime

from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from billing import accounts, pricing
from billing.estimates import Statement
from metering.models import Policy

from . import formatting
from .instants import moment

NEAR_PERCENT = 90


@dataclass(frozen=True, slots=True)
class Notice:
    """One strip. `style` is warn or bad; the words say the same."""

    style: str
    lead: SafeString
    rest: SafeString


def notice(*, statement: Statement, refused_since: datetime | None, sees_money: bool = True) -> Notice | None:
    """What matters most, None when nothing does; without amounts for those who do not see them.

    That an invoice is unpaid is told above every page.
    """
    if statement.is_refusing:
        return None if statement.allowance.restriction else _refusing(statement, refused_since)
    if _is_near_hard_limit(statement):
        return _near_hard_limit(statement)
    if statement.overage:
        return _over_included(statement, sees_money)
    if statement.included_runs_out_at is not None:
        return _runs_out(statement, statement.included_runs_out_at, sees_money)
    return _near_included(statement, sees_money) if _is_near_included(statement) else None


def _refusing(statement: Statement, since: datetime | None) -> Notice:
    allowance = statement.allowance
    is_own = allowance.admits == allowance.hard_limit
    text = _("Your hard limit of {calls} calls is reached.") if is_own else _("All {calls} included calls are used.")
    lead = format_html(text, calls=formatting.count(allowance.admits))
    end = moment(statement.period.end)
    if since is None:
        return Notice("bad", lead, format_html(_("Calls are refused with 429 until {end}."), end=end))
    rest = _("Calls are refused with 429 since {since}, until {end}. Refused calls are never billed.")
    return Notice("bad", lead, format_html(rest, since=moment(since), end=end))


def _is_near_hard_limit(statement: Statement) -> bool:
    limit = statement.allowance.hard_limit
    return limit is not None and limit == statement.allowance.admits and statement.used * 100 >= limit * NEAR_PERCENT


def _near_hard_limit(statement: Statement) -> Notice:
    limit = statement.allowance.hard_limit or 0
    lead = format_html(_("{calls} calls are left to your hard limit."), calls=formatting.count(limit - statement.used))
    return Notice("warn", lead, _refused_then(statement))


def _over_included(statement: Statement, sees_money: bool) -> Notice:
    if not _terms(statement).has_rate:
        lead = format_html(_("The included calls are used up."))
        text = _("{calls} calls beyond them were served, free of charge: your agreed upgrade is on its way.")
        return Notice("warn", lead, format_html(text, calls=formatting.count(statement.overage)))
    if not sees_money:
        text = _("The included calls are used up: {calls} calls over.")
        return Notice("warn", format_html(text, calls=formatting.count(statement.overage)), _served_then())
    lead = format_html(
        _("The included calls are used up: {calls} calls over, {amount} so far."),
        calls=formatting.count(statement.overage),
        amount=formatting.money(statement.invoice.usage_minor, statement.invoice.currency),
    )
    rest = format_html(_("Each further 1,000 calls cost {price}."), price=_price(statement))
    return Notice("warn", lead, rest)


def _runs_out(statement: Statement, at: datetime, sees_money: bool) -> Notice:
    lead = format_html(_("At this rate the included calls run out on {at}."), at=moment(at))
    return Notice("warn", lead, _afterwards(statement, sees_money))


def _is_near_included(statement: Statement) -> bool:
    included = statement.allowance.included
    return included is not None and statement.used * 100 >= included * NEAR_PERCENT


def _near_included(statement: Statement, sees_money: bool) -> Notice:
    left = formatting.count(statement.remaining)
    lead = format_html(_("{calls} included calls are left until {end}."), calls=left, end=moment(statement.period.end))
    return Notice("warn", lead, _afterwards(statement, sees_money))


def _afterwards(statement: Statement, sees_money: bool) -> SafeString:
    """What happens beyond the included calls."""
    if statement.allowance.policy == Policy.RATE and _terms(statement).has_rate:
        if not sees_money:
            return _served_then()
        return format_html(_("After that each 1,000 calls cost {price}."), price=_price(statement))
    return _refused_then(statement)


def _served_then() -> SafeString:
    return format_html(_("Calls beyond them are served and charged."))


def _refused_then(statement: Statement) -> SafeString:
    return format_html(_("After that calls are refused with 429 until {end}."), end=moment(statement.period.end))


def _terms(statement: Statement) -> pricing.Terms:
    return accounts.pricing_terms(statement.version, statement.invoice.currency)


def _price(statement: Statement) -> str:
    """Of the next 1,000 calls beyond the included ones."""
    terms = _terms(statement)
    price = next(
        step.unit_price_minor for step in terms.price_steps if step.up_to is None or statement.overage < step.up_to
    )
    return formatting.thousand_price(price, terms.currency)
