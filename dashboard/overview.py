"""What the overview shows: four tiles, the most pressing notice, the days of the period and its capabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from billing import estimates, next_invoice, pricing, projection
from billing.estimates import Statement
from billing.models import Account
from metering import usage
from tenants.models import Tenant

from . import breakdown, charts, daily, formatting
from .instants import moment
from .notices import NEAR_PERCENT, Notice, notice


@dataclass(frozen=True, slots=True)
class Meter:
    """The tile of the included calls, or of a nearer hard limit. `width` is the bar's length in per cent."""

    heading: str
    used: int
    bound: str
    width: float | None
    style: str
    left: str


@dataclass(frozen=True, slots=True)
class Spend:
    """The tiles about money, as text. `why_hidden` stands in for a projection that cannot be made yet."""

    so_far: str
    made_of: str
    likely: str
    low_to_high: str
    why_hidden: str


@dataclass(frozen=True, slots=True)
class PeriodEnd:
    """The tile of the period's end."""

    heading: str
    end: datetime
    detail: str


@dataclass(frozen=True, slots=True)
class FirstCall:
    """How to make the first call: shown until one arrives."""

    address: str
    key_prefix: str


@dataclass(frozen=True, slots=True)
class Overview:
    """The page."""

    statement: Statement
    notice: Notice | None
    spend: Spend | None  # None for those who see no amounts
    meter: Meter
    period_end: PeriodEnd
    day: str
    figure: daily.Figure
    breakdown: breakdown.Breakdown
    first_call: FirstCall | None


def overview(*, account: Account, now: datetime, sees_money: bool = True) -> Overview:
    """The tenant's running period at this instant."""
    statement = estimates.statement(account=account, now=now, with_latency=True)
    scope = usage.Scope.of_period(account.tenant_id, statement.period)
    by_day = statement.by_day
    series = charts.series_of(daily.totals(by_day))
    return Overview(
        statement=statement,
        notice=notice(
            statement=statement,
            refused_since=usage.last_billed_at(scope) if statement.is_refusing else None,
            sees_money=sees_money,
        ),
        spend=spend(statement, next_invoice.additions(account=account, statement=statement)) if sees_money else None,
        meter=meter(statement),
        period_end=period_end(statement, account),
        day=day_of_period(statement),
        figure=daily.figure(statement=statement, daily=by_day, series=series, label=str),
        breakdown=breakdown.breakdown(
            groups=statement.capabilities,
            before=estimates.same_span(statement=statement),
            group_by=usage.GroupBy.CAPABILITY,
            known={},
            series=series,
        ),
        first_call=None if statement.capabilities else first_call(account.tenant),
    )


def day_of_period(statement: Statement) -> str:
    """Day 23 of 30"""
    day = (statement.now - statement.period.start).days + 1
    return _("day %(day)d of %(days)d") % {"day": day, "days": statement.period.days}


def spend(statement: Statement, additions: Sequence[next_invoice.Addition] = ()) -> Spend:
    """What the period costs so far, and where its invoice is heading with what is added to it."""
    more = sum(addition.amount_minor for addition in additions)
    currency = statement.invoice.currency
    so_far = formatting.money(statement.invoice.total_minor, currency)
    if statement.projected is None:
        return Spend(so_far, _made_of(statement), "", "", why_hidden(statement))
    low, likely, high = (formatting.money(invoice.total_minor + more, currency) for invoice in statement.projected)
    spread = _("likely; %(low)s to %(high)s") % {"low": low, "high": high}
    return Spend(so_far, _made_of(statement), likely, _("likely") if low == high else spread, "")


def _made_of(statement: Statement) -> str:
    currency = statement.invoice.currency
    fee = formatting.money(_fee(statement.invoice), currency)
    parts = {"plan": statement.allowance.label, "fee": fee}
    if not pricing_of_overage(statement):
        return _("%(plan)s %(fee)s") % parts
    overage = formatting.money(statement.invoice.usage_minor, currency)
    return _("%(plan)s %(fee)s, overage %(overage)s") % {**parts, "overage": overage}


def _fee(invoice: pricing.Invoice) -> int:
    return sum(line.amount_minor for kind in ("fee", "minimum") for line in invoice.of_kind(kind))


def pricing_of_overage(statement: Statement) -> bool:
    """Whether calls beyond the included ones are priced at all."""
    return statement.allowance.policy == "rate" and statement.allowance.included is not None


def why_hidden(statement: Statement) -> str:
    """Why there is no projection yet."""
    if statement.now < statement.projected_from:
        return format_html(_("Too early in the period to say; shown from {at}."), at=moment(statement.projected_from))
    return _("It needs %(calls)d calls to go by.") % {"calls": projection.FEWEST_CALLS}


def meter(statement: Statement) -> Meter:
    """How much of what is included, or of a nearer hard limit, is used; the bar is left out without either."""
    used, limit = statement.used, statement.limit
    if limit is None:
        return Meter(_("Included calls"), used, _("unlimited"), None, "ok", _("no hard limit"))
    share = min(used, limit) * 100 / limit if limit else 100.0
    return Meter(
        heading=_("Hard limit") if limit != statement.allowance.included else _("Included calls"),
        used=used,
        bound=_("of %(calls)s") % {"calls": formatting.count(limit)},
        width=share,
        style=_meter_style(statement, used * 100 >= limit * NEAR_PERCENT),
        left=_left(statement),
    )


def _meter_style(statement: Statement, is_near: bool) -> str:
    if statement.is_refusing:
        return "bad"
    return "warn" if is_near else "ok"


def _left(statement: Statement) -> str:
    allowance = statement.allowance
    left = (
        _("%(calls)s over the included") % {"calls": formatting.count(statement.overage)}
        if statement.overage
        else _("%(calls)s left") % {"calls": formatting.count(statement.remaining)}
    )
    if statement.limit != allowance.included:
        return f"{left}, " + _("%(calls)s included") % {"calls": formatting.count(allowance.included)}
    if allowance.hard_limit is None:
        return left if allowance.admits is not None else f"{left}, " + _("no hard limit")
    return f"{left}, " + _("hard limit %(calls)s") % {"calls": formatting.count(allowance.hard_limit)}


def period_end(statement: Statement, account: Account) -> PeriodEnd:
    """When the period ends and what happens then."""
    days = -(-int((statement.period.end - statement.now).total_seconds()) // 86_400)
    left = ngettext("in %(days)d day", "in %(days)d days", days) % {"days": days}
    if account.subscription_id is not None and account.cancels_at is not None:
        return PeriodEnd(_("Last invoice"), statement.period.end, left)
    if _fee(statement.invoice) or pricing_of_overage(statement):
        return PeriodEnd(_("Next invoice"), statement.period.end, left)
    return PeriodEnd(_("Period ends"), statement.period.end, left)


def first_call(tenant: Tenant) -> FirstCall:
    """The command that makes the first call."""
    key = tenant.api_keys.filter(revoked_at=None).order_by("created_at").first()
    return FirstCall(settings.FIRST_CALL_URL, f"{key.prefix}_" if key else "mh_live_")
