"""The limits page: what happens beyond the included calls, the hard limit with its exact effect, the automatic upgrade."""

from dataclasses import dataclass
from datetime import datetime

from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from billing import accounts, consents, estimates, pricing, upgrades
from billing.errors import BillingError
from billing.estimates import Statement
from billing.models import Account, Consent
from metering.models import Policy

from . import formatting, refusals
from .instants import moment
from .offers import overage_price
from .standing import beyond


@dataclass(frozen=True, slots=True)
class PolicyChoice:
    """One way to treat calls beyond the included ones."""

    value: str
    label: str
    detail: str
    is_current: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """The page. `offer` is what an automatic upgrade would mean, None where there is none to offer."""

    statement: Statement
    plan: str
    beyond: str
    policies: tuple[PolicyChoice, ...]
    has_money_limit: bool
    symbol: str
    effect: SafeString | str
    consent: Consent | None
    consent_lines: tuple[str, ...]
    offer: consents.ConsentOffer | None
    offer_lines: tuple[str, ...]
    arithmetic: str
    offer_trouble: str
    fallbacks: tuple[PolicyChoice, ...]
    sees_money: bool


def limits(*, account: Account, now: datetime, sees_money: bool = True) -> Limits:
    """What is arranged, and what may be; without amounts and the automatic upgrade for those who do not see money."""
    statement = estimates.statement(account=account, now=now)
    terms = accounts.pricing_terms(account.plan_version, account.currency)
    active = accounts.active_consent(account)
    consent = active if sees_money else None
    offer, trouble = _offer(account, now) if sees_money and consent is None else (None, "")
    return Limits(
        statement=statement,
        plan=account.plan_version.plan.name,
        beyond=beyond(account=account, statement=statement, consent=active),
        policies=_policies(account, terms, sees_money),
        has_money_limit=terms.has_rate and sees_money,
        symbol=formatting.symbol(account.currency),
        effect=effect(
            account=account,
            statement=statement,
            hard_limit=account.hard_limit,
            hard_limit_minor=account.hard_limit_minor,
            sees_money=sees_money,
        ),
        consent=consent,
        consent_lines=tuple(consent.text.splitlines()) if consent else (),
        offer=offer,
        offer_lines=tuple(offer.text.splitlines()) if offer else (),
        arithmetic=_arithmetic(account, offer, terms, now) if offer else "",
        offer_trouble=trouble,
        fallbacks=_fallbacks(terms),
        sees_money=sees_money,
    )


def _offer(account: Account, now: datetime) -> tuple[consents.ConsentOffer | None, str]:
    try:
        return consents.offer(account=account, now=now), ""
    except BillingError as error:
        return None, refusals.words(error)


def _arithmetic(account: Account, offer: consents.ConsentOffer, terms: pricing.Terms, now: datetime) -> str:
    """What the offer would mean at this instant, in figures."""
    version = offer.to_version
    if not terms.has_rate or terms.included is None:
        fee = formatting.money(offer.fee_minor, offer.currency)
        return _("If it happened now, %(fee)s would be due, and a period of %(plan)s would begin.") % {
            "fee": fee, "plan": version.plan.name,
        }  # fmt: skip
    extra_minor = upgrades.extra_minor(account=account, version=version, at=now)
    calls = pricing.most_calls(terms, extra_minor - 1) or 0
    return _(
        "For the rest of this period %(plan)s costs %(extra)s more than %(present)s: as much as %(calls)s calls "
        "beyond the included ones. Fewer of them never lead to an upgrade."
    ) % {
        "plan": version.plan.name,
        "present": account.plan_version.plan.name,
        "extra": formatting.money(extra_minor, account.currency),
        "calls": formatting.count(max(0, calls - terms.included) + 1),
    }


def _policies(account: Account, terms: pricing.Terms, sees_money: bool) -> tuple[PolicyChoice, ...]:
    """Empty where the plan leaves no choice."""
    if not terms.has_rate:
        return ()
    now = account.policy or account.plan_version.policy
    return tuple(PolicyChoice(value, label, detail, value == now) for value, label, detail in _ways(terms, sees_money))


def _fallbacks(terms: pricing.Terms) -> tuple[PolicyChoice, ...]:
    ways = _ways(terms) if terms.has_rate else _ways(terms)[-1:]
    return tuple(
        PolicyChoice(value, label, detail, place == len(ways) - 1) for place, (value, label, detail) in enumerate(ways)
    )


def _ways(terms: pricing.Terms, sees_money: bool = True) -> list[tuple[str, str, str]]:
    price = _("Each call beyond costs: %(price)s.") % {"price": overage_price(terms)} if sees_money else ""
    return [
        (Policy.RATE.value, _("Serve and charge them"), price),
        (Policy.BLOCK.value, _("Refuse them"), _("They are answered with 429 until the period ends, and never billed.")),
    ]  # fmt: skip


def effect(
    *,
    account: Account,
    statement: Statement,
    hard_limit: int | None,
    hard_limit_minor: int | None,
    sees_money: bool = True,
) -> SafeString | str:
    """In one sentence what these limits do to calls: the nearer one counts."""
    terms = accounts.pricing_terms(account.plan_version, account.currency)
    by_money = None
    if hard_limit_minor is not None and terms.has_rate:
        by_money = pricing.most_calls(terms, hard_limit_minor)
    bounds = [bound for bound in (hard_limit, by_money, account.plan_version.hard_limit) if bound is not None]
    if not bounds:
        return _("No hard limit: nothing is refused because of one.")
    bound = min(bounds)
    words = {"calls": formatting.count(bound), "next": formatting.count(bound + 1)}
    if sees_money and by_money == bound and hard_limit_minor is not None:
        cost_minor = pricing.invoice(terms=terms, quantity=bound).usage_minor
        words |= {
            "money": formatting.money(hard_limit_minor, account.currency),
            "cost": formatting.money(cost_minor, account.currency),
        }
        text = _(
            "{money} pays for {calls} calls in a period, the included ones among them: they cost {cost}. "
            "Call {next} is refused with 429."
        )
    else:
        text = _("{calls} calls in a period are served. Call {next} is refused with 429 until the period ends.")
    if statement.used >= bound:
        text += " " + _("{used} are used already: calls are refused at once, until {end}.")
    return format_html(text, used=formatting.count(statement.used), end=moment(statement.period.end), **words)
