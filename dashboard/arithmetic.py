"""The projected invoice, step by step: used, included, billable, price, amount."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from django.utils.translation import gettext as _

from billing import estimates, next_invoice, pricing
from billing.estimates import Statement
from billing.models import Account

from . import formatting
from .offers import Comparison, comparisons, overage_price, sold_versions
from .overview import day_of_period, pricing_of_overage, why_hidden


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the invoice; a field that does not apply is empty."""

    label: str
    used: str = ""
    included: str = ""
    billable: str = ""
    price: str = ""
    amount: str = ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the invoice is if the period ends with this many calls."""

    label: str
    is_main: bool
    used: str
    included: str
    billable: str
    price: str
    overage: str
    fee: str
    more: str  # what is added to or taken off the next invoice besides
    total: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class ProjectedInvoice:
    """The page. `main` is the scenario that is shown line by line: likely, or so far while nothing is projected."""

    statement: Statement
    plan: str
    scenarios: tuple[Scenario, ...]
    main: Scenario
    is_projected: bool
    why_hidden: str
    day: str
    elapsed_percent: str
    beyond: str
    fixed: str  # what the column beside the overage holds
    additions: tuple[Row, ...]
    balance: str  # the customer's credit at Stripe, or debt, that the invoice will use; empty without one
    to_pay: str
    comparisons: tuple[Comparison, ...]


def projected_invoice(*, account: Account, now: datetime) -> ProjectedInvoice:
    """The running period's invoice so far and as projected."""
    statement = estimates.statement(account=account, now=now)
    plan = account.plan_version.plan.name
    terms = statement.terms
    invoices = [(_("So far"), statement.invoice)]
    if statement.projected is not None:
        invoices += zip((_("Low"), _("Likely"), _("High")), statement.projected, strict=True)
    additions = next_invoice.additions(account=account, statement=statement)
    more = sum(addition.amount_minor for addition in additions)
    main_place = 2 if statement.projected is not None else 0
    scenarios = tuple(
        scenario(label, invoice, terms, plan=plan, is_main=place == main_place, more_minor=more)
        for place, (label, invoice) in enumerate(invoices)
    )
    total_minor = invoices[main_place][1].total_minor + more
    currency = statement.invoice.currency
    balance_minor = next_invoice.balance(account=account, total_minor=total_minor)
    elapsed = int((now - statement.period.start).total_seconds())
    return ProjectedInvoice(
        statement=statement,
        plan=plan,
        scenarios=scenarios,
        main=scenarios[main_place],
        is_projected=statement.projected is not None,
        why_hidden="" if statement.projected is not None else why_hidden(statement),
        day=day_of_period(statement),
        elapsed_percent=formatting.share(elapsed, statement.period.seconds),
        beyond=beyond(statement),
        fixed=_("fee, minimum") if terms.minimum_minor else _("fee"),
        additions=tuple(_addition(addition, account, currency) for addition in additions),
        balance=formatting.signed_money(balance_minor, currency) if balance_minor else "",
        to_pay=formatting.money(total_minor + balance_minor, currency),
        comparisons=comparisons(
            sold_versions(account), account=account, statement=statement, currency=account.currency
        ),
    )


def scenario(
    label: str,
    invoice: pricing.Invoice,
    terms: pricing.Terms,
    *,
    plan: str,
    is_main: bool = False,
    more_minor: int = 0,
) -> Scenario:
    """The arithmetic of one invoice, with what is added to it besides. Where it has a minimum, that is added to the fee."""
    currency = invoice.currency
    fixed = sum(line.amount_minor for kind in ("fee", "minimum") for line in invoice.of_kind(kind))
    return Scenario(
        label=label,
        is_main=is_main,
        used=formatting.count(invoice.quantity),
        included=_("unlimited") if terms.included is None else formatting.count(terms.included),
        billable=formatting.count(sum(line.quantity for line in invoice.of_kind("overage"))),
        price=_price(terms),
        overage=formatting.money(invoice.usage_minor, currency),
        fee=formatting.money(fixed, currency),
        more=formatting.signed_money(more_minor, currency) if more_minor else "",
        total=formatting.money(invoice.total_minor + more_minor, currency),
        rows=tuple(_rows(invoice, terms, plan)),
    )


def _addition(addition: next_invoice.Addition, account: Account, currency: str) -> Row:
    """A row of the next invoice besides the period's fee and calls."""
    amount = formatting.signed_money(addition.amount_minor, currency)
    if addition.kind != next_invoice.FEE_CHANGE:
        return Row(addition.description, amount=amount)
    if account.next_version is None:
        return Row(_("The plan ends with the period: no further fee"), amount=amount)
    plan = account.next_version.plan.name
    return Row(_("The next period is on %(plan)s: its fee instead") % {"plan": plan}, amount=amount)


def _rows(invoice: pricing.Invoice, terms: pricing.Terms, plan: str) -> Iterator[Row]:
    """Fee, calls (a row for each price step that was reached), minimum, what is written off."""
    currency = invoice.currency
    fee = formatting.money(terms.fee_minor, currency)
    yield Row(_("%(plan)s, fee of the period") % {"plan": plan}, billable="1", price=fee, amount=fee)
    steps = invoice.of_kind("overage")
    used = formatting.count(invoice.quantity)
    included = _("unlimited") if terms.included is None else formatting.count(terms.included)
    if len(steps) < 2:  # noqa: PLR2004
        billable = formatting.count(sum(line.quantity for line in steps))
        amount = formatting.money(invoice.overage_minor, currency)
        yield Row(
            _("Calls"), used, included, billable, _step_price(steps[0], currency) if steps else _price(terms), amount
        )
    else:
        yield Row(_("Calls"), used, included, formatting.count(sum(line.quantity for line in steps)))
        for place, line in enumerate(steps, 1):
            billable, amount = formatting.count(line.quantity), formatting.money(line.amount_minor, currency)
            label = _("Price step %(step)d") % {"step": place}
            yield Row(label, billable=billable, price=_step_price(line, currency), amount=amount)
    names = {"minimum": _("Up to the agreed minimum"), "write_off": _("Beyond your hard limit: written off")}
    for kind, name in names.items():
        for line in invoice.of_kind(kind):
            yield Row(name, amount=formatting.money(line.amount_minor, currency))


def _step_price(line: pricing.Line, currency: str) -> str:
    return _("%(price)s per 1,000") % {"price": formatting.thousand_price(line.unit_price_minor, currency)}


def _price(terms: pricing.Terms) -> str:
    """The price of what is billable; a dash where nothing ever is."""
    if not terms.prices_overage or terms.included is None:
        return formatting.NOTHING
    return overage_price(terms)


def beyond(statement: Statement) -> str:
    """What the plan does with calls beyond the included ones, where it does not price them."""
    if statement.allowance.included is None:
        return _("The plan includes every call: there is no overage.")
    if pricing_of_overage(statement):
        return ""
    return _("Calls beyond the included ones are refused, not billed: there is no overage.")
