"""The projected invoice, step by step: used, included, billable, price, amount."""

from dataclasses import dataclass
from datetime import datetime

from django.utils.translation import gettext as _

from billing import accounts, estimates, pricing
from billing.estimates import Statement
from billing.models import Account

from . import formatting
from .overview import day_of_period, pricing_of_overage, why_hidden


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row: what the invoice is if the period ends with this many calls."""

    label: str
    is_main: bool
    used: str
    included: str
    billable: str
    price: str
    overage: str
    fee: str
    total: str


@dataclass(frozen=True, slots=True)
class ProjectedInvoice:
    """The page. `main` is the row that is shown line by line: likely, or so far while nothing is projected."""

    statement: Statement
    plan: str
    scenarios: tuple[Scenario, ...]
    main: Scenario
    is_projected: bool
    why_hidden: str
    day: str
    elapsed_percent: str
    beyond: str


def projected_invoice(*, account: Account, now: datetime) -> ProjectedInvoice:
    """The running period's invoice so far and as projected."""
    statement = estimates.statement(account=account, now=now)
    terms = accounts.pricing_terms(account.plan_version)
    invoices = [(_("So far"), statement.invoice)]
    if statement.projected is not None:
        invoices += zip((_("Low"), _("Likely"), _("High")), statement.projected, strict=True)
    main_place = 2 if statement.projected is not None else 0
    rows = tuple(
        scenario(label, invoice, terms, is_main=place == main_place) for place, (label, invoice) in enumerate(invoices)
    )
    elapsed = int((now - statement.period.start).total_seconds())
    return ProjectedInvoice(
        statement=statement,
        plan=account.plan_version.plan.name,
        scenarios=rows,
        main=rows[main_place],
        is_projected=statement.projected is not None,
        why_hidden="" if statement.projected is not None else why_hidden(statement),
        day=day_of_period(statement),
        elapsed_percent=formatting.share(elapsed, statement.period.seconds),
        beyond=beyond(statement),
    )


def scenario(label: str, invoice: pricing.Invoice, terms: pricing.Terms, *, is_main: bool = False) -> Scenario:
    """The arithmetic of one invoice."""
    currency = invoice.currency
    fee, overage = invoice.line("fee"), invoice.line("overage")
    return Scenario(
        label=label,
        is_main=is_main,
        used=formatting.count(invoice.quantity),
        included=_("unlimited") if terms.included is None else formatting.count(terms.included),
        billable=formatting.count(overage.quantity if overage else 0),
        price=_price(terms),
        overage=formatting.money(invoice.overage_minor, currency),
        fee=formatting.money(fee.amount_minor if fee else 0, currency),
        total=formatting.money(invoice.total_minor, currency),
    )


def _price(terms: pricing.Terms) -> str:
    """The price of what is billable; a dash where nothing ever is."""
    if not terms.prices_overage or terms.included is None:
        return formatting.NOTHING
    price = formatting.thousand_price(terms.unit_price_minor, terms.currency)
    return _("%(price)s per 1,000") % {"price": price}


def beyond(statement: Statement) -> str:
    """What the plan does with calls beyond the included ones, where it does not price them."""
    if statement.allowance.included is None:
        return _("The plan includes every call: there is no overage.")
    if pricing_of_overage(statement):
        return ""
    return _("Calls beyond the included ones are refused, not billed: there is no overage.")
