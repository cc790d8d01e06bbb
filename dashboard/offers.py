"""The plan page: the terms the tenant is on, what this period would have cost on each tier, and the tiers as sold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import F, Q
from django.utils.translation import gettext as _

from billing import accounts, estimates, pricing
from billing.estimates import Statement
from billing.models import Account, PaymentState, PlanChange, PlanVersion
from metering.models import Policy

from . import formatting
from .standing import Standing, standing


@dataclass(frozen=True, slots=True)
class Action:
    """What an offer's button does: `subscribe` leads to Stripe's page, `upgrade` and `change` to a preview."""

    kind: str
    label: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """One plan in words. `why_not` stands where a button would be."""

    version_id: int
    name: str
    is_current: bool
    price: str
    price_unit: str
    terms: tuple[tuple[str, str], ...]
    action: Action | None = None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What this period's calls cost on one plan: so far, and as projected (empty while nothing is)."""

    name: str
    is_current: bool
    so_far: str
    likely: str
    refused: str
    is_lowest: bool


@dataclass(frozen=True, slots=True)
class CurrencyChoice:
    code: str
    is_current: bool


@dataclass(frozen=True, slots=True)
class PriceStep:
    """One row of the price steps: calls from the first to the last cost so much each thousand."""

    calls: str
    price: str


@dataclass(frozen=True, slots=True)
class Offers:
    """The page. `current` has what this tenant agreed to, `sold` the public terms and what was agreed with it."""

    statement: Statement
    day: str
    current: Offer
    steps: tuple[PriceStep, ...]
    standing: Standing
    sold: tuple[Offer, ...]
    comparisons: tuple[Comparison, ...]
    currencies: tuple[CurrencyChoice, ...]
    currency: str
    is_projected: bool


def offers(*, account: Account, currency: str, now: datetime) -> Offers:
    """The tenant's terms beside those of each tier, in a currency that the tiers are sold in."""
    statement = estimates.statement(account=account, now=now)
    versions = sold_versions(account)
    currencies = _currencies(account, versions)
    chosen = currency if currency in currencies else account.currency
    mine = account.plan_version
    is_changing = account.changes.filter(state__in=PlanChange.OPEN_STATES).exists()
    return Offers(
        statement=statement,
        day=_("day %(day)d of %(days)d")
        % {"day": (now - statement.period.start).days + 1, "days": statement.period.days},
        current=offer(mine, account.currency, is_current=True, hard_limit=account.hard_limit),
        steps=step_rows(accounts.pricing_terms(mine, account.currency)),
        standing=standing(account=account, statement=statement),
        sold=tuple(_sold(version, account, chosen, is_changing=is_changing) for version in versions),
        comparisons=comparisons(versions, account=account, statement=statement, currency=chosen),
        currencies=tuple(CurrencyChoice(code, code == chosen) for code in currencies),
        currency=chosen,
        is_projected=statement.projection is not None,
    )


def sold_versions(account: Account) -> list[PlanVersion]:
    """One version of each plan, the smallest plan first: what was agreed with this tenant, else the public one."""
    found = PlanVersion.objects.filter(Q(tenant=None) | Q(tenant=account.tenant_id)).select_related("plan")
    newest = found.order_by("plan__rank", F("tenant").asc(nulls_last=True), "-number").distinct("plan__rank")
    return list(newest)


def _currencies(account: Account, versions: Sequence[PlanVersion]) -> list[str]:
    """Those that every priced plan is sold in; a subscription has fixed it."""
    if account.subscription_id:
        return [account.currency]
    priced = [{version.currency, *version.currency_options} for version in versions if not is_by_agreement(version)]
    shared = set.intersection(*(found for found in priced if found)) if priced else set()
    return sorted(shared | {account.currency})


def is_by_agreement(version: PlanVersion) -> bool:
    """Whether the terms are still to be agreed."""
    return version.plan.is_custom and version.tenant_id is None


def _sold(version: PlanVersion, account: Account, currency: str, *, is_changing: bool) -> Offer:
    is_current = version.plan_id == account.plan_version.plan_id
    if not accounts.is_sold_in(version, currency):
        words = {"plan": version.plan.name, "currency": currency.upper()}
        why_not = _("%(plan)s is not sold in %(currency)s.") % words
        return offer(version, version.currency, is_current=is_current, why_not=why_not)
    if is_by_agreement(version):
        why_not = "" if is_current else _("Terms are agreed with you: ask whoever operates this portal.")
        return offer(version, currency, is_current=is_current, why_not=why_not)
    if is_current:
        return offer(version, currency, is_current=True, action=_subscription_of_ones_own(version, account))
    why_not = _why_not(version, account, is_changing=is_changing)
    action = None if why_not else _action(version, account)
    return offer(version, currency, is_current=False, action=action, why_not=why_not)


def _subscription_of_ones_own(version: PlanVersion, account: Account) -> Action | None:
    if account.state != PaymentState.NONE or not accounts.is_sold(version):
        return None
    return Action("subscribe", _("Subscribe"), _("Your terms stay; from now on they are paid through Stripe."))


def _why_not(version: PlanVersion, account: Account, *, is_changing: bool) -> str:
    """Why nothing can be changed to this plan at the moment; empty where it can. What is asked for is checked again."""
    is_cancelling = not accounts.is_sold(version)
    if is_changing:
        return _("A change is on its way.")
    if account.cancels_at is not None or (account.next_version is not None and not is_cancelling):
        return _("Another change is arranged: take that back first.")
    if account.past_due_since is not None and not is_cancelling:
        return _("Pay the open invoice first.")
    return ""


def _action(version: PlanVersion, account: Account) -> Action | None:
    name = version.plan.name
    if account.subscription_id is None:
        if not accounts.is_sold(version):
            return None
        trial = _("%(days)d days free, then paid for each period.") % {"days": version.trial_days}
        detail = trial if version.trial_days else _("You pay on Stripe's page, where promotion codes work too.")
        return Action("subscribe", _("Subscribe to %(plan)s") % {"plan": name}, detail)
    if version.plan.rank > account.plan_version.plan.rank:
        return Action("upgrade", _("Upgrade to %(plan)s") % {"plan": name}, _("At once; you see the amount first."))
    if accounts.is_sold(version):
        return Action("change", _("Change to %(plan)s") % {"plan": name}, _("At the period's end; you see it first."))
    return Action("change", _("Cancel %(plan)s") % {"plan": account.plan_version.plan.name}, _("At the period's end."))


def offer(
    version: PlanVersion,
    currency: str,
    *,
    is_current: bool,
    hard_limit: int | None = None,
    action: Action | None = None,
    why_not: str = "",
) -> Offer:
    """A version's terms, each as a name and words."""
    by_agreement = is_by_agreement(version)
    terms = accounts.pricing_terms(version, currency)
    return Offer(
        version_id=version.pk,
        name=version.plan.name,
        is_current=is_current,
        price=_("By agreement") if by_agreement else formatting.money(terms.fee_minor, terms.currency),
        price_unit="" if by_agreement else _("per period"),
        terms=tuple(_by_agreement(version) if by_agreement else _terms(version, terms, hard_limit)),
        action=action,
        why_not=why_not,
    )


def _by_agreement(version: PlanVersion) -> Iterator[tuple[str, str]]:
    yield _("Included calls"), _("by agreement")
    yield _("Beyond them"), _("by agreement")
    yield from _service(version)


def _terms(version: PlanVersion, terms: pricing.Terms, hard_limit: int | None) -> Iterator[tuple[str, str]]:
    included = _("unlimited") if version.included is None else formatting.count(version.included)
    yield _("Included calls"), included
    if version.included is not None:
        yield _("Beyond them"), beyond(version, terms)
    if terms.minimum_minor:
        yield _("At least"), formatting.money(terms.minimum_minor, terms.currency)
    limits = [limit for limit in (hard_limit, version.hard_limit) if limit is not None]
    if limits:
        yield _("Hard limit"), formatting.count(min(limits))
    yield from _service(version)


def _service(version: PlanVersion) -> Iterator[tuple[str, str]]:
    yield _("Calls per second"), formatting.count(version.burst_per_second)
    yield _("Projects"), _("unlimited") if version.max_projects is None else formatting.count(version.max_projects)
    yield _("Support"), version.support
    if version.sla:
        yield _("SLA"), version.sla


def beyond(version: PlanVersion, terms: pricing.Terms) -> str:
    """What happens to calls beyond the included ones."""
    if version.policy == Policy.RATE:
        return overage_price(terms)
    if version.policy == Policy.UPGRADE:
        return _("next plan, with your consent")
    return _("refused")


def overage_price(terms: pricing.Terms) -> str:
    """The price beyond the included calls; of several steps the first and the last."""
    first, *others = (formatting.thousand_price(step.unit_price_minor, terms.currency) for step in terms.price_steps)
    if others:
        return _("%(first)s, later %(last)s per 1,000") % {"first": first, "last": others[-1]}
    return _("%(price)s per 1,000") % {"price": first}


def step_rows(terms: pricing.Terms) -> tuple[PriceStep, ...]:
    """The steps of a price that has several; empty for a single one."""
    if len(terms.steps) < 2 or not terms.prices_overage:  # noqa: PLR2004
        return ()
    included, before, rows = terms.included or 0, 0, []
    for step in terms.steps:
        words = _("%(first)s and all further") if step.up_to is None else _("%(first)s to %(last)s")
        last = included + (step.up_to or 0)
        calls = words % {"first": formatting.count(included + before + 1), "last": formatting.count(last)}
        rows.append(PriceStep(calls, formatting.thousand_price(step.unit_price_minor, terms.currency)))
        before = step.up_to or 0
    return tuple(rows)


def comparisons(
    versions: Sequence[PlanVersion], *, account: Account, statement: Statement, currency: str
) -> tuple[Comparison, ...]:
    """This period's calls at the prices of each plan that has some; the lowest that serves all of them is marked."""
    compared = [
        version for version in versions if not is_by_agreement(version) and accounts.is_sold_in(version, currency)
    ]
    likely = statement.projection.likely if statement.projection else None
    asked = statement.used if likely is None else likely
    costs = {
        version.pk: _invoice(version, asked, currency).total_minor
        for version in compared
        if not _refused(version, asked)
    }
    lowest = min(costs.values(), default=None)
    found = []
    for version in compared:
        refused = _refused(version, asked)
        words = _("%(calls)s calls would be refused") % {"calls": formatting.count(refused)}
        found.append(
            Comparison(
                name=version.plan.name,
                is_current=version.plan_id == account.plan_version.plan_id,
                so_far=_total(version, statement.used, currency),
                likely="" if likely is None else _total(version, likely, currency),
                refused=words if refused else "",
                is_lowest=costs.get(version.pk) == lowest and not refused,
            )
        )
    return tuple(found)


def _refused(version: PlanVersion, calls: int) -> int:
    """Calls that the plan would not have served."""
    bounds = [version.hard_limit, version.included if version.policy != Policy.RATE else None]
    bound = min((bound for bound in bounds if bound is not None), default=None)
    return 0 if bound is None else max(0, calls - bound)


def _invoice(version: PlanVersion, calls: int, currency: str) -> pricing.Invoice:
    served = calls - _refused(version, calls)
    return pricing.invoice(terms=accounts.pricing_terms(version, currency), quantity=served)


def _total(version: PlanVersion, calls: int, currency: str) -> str:
    invoice = _invoice(version, calls, currency)
    return formatting.money(invoice.total_minor, invoice.currency)
