"""Invoices in words: Stripe's beside our own records, each line with where it comes from."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from django.utils.translation import gettext as _

from billing import invoices, mirrored_invoices
from billing.invoices import Compared, Difference, Item
from billing.mirrored_invoices import Invoice
from billing.models import Account
from metering.periods import Period

from . import formatting, links, why

A_PAGE = 50
RECENT = 3


@dataclass(frozen=True, slots=True)
class State:
    """How an invoice stands, in words. `style` is that of a badge: ok, warn or none."""

    label: str
    style: str
    detail: str = ""
    at: datetime | None = None  # an instant that belongs behind the detail


@dataclass(frozen=True, slots=True)
class Row:
    """An invoice in a list. `agreement` says how our records compare."""

    id: str
    number: str
    period: Period
    made_at: datetime
    state: State
    total: str
    due: str
    ours: str
    agreement: str
    verdict: str  # the same in one word, for a badge
    agrees: bool
    page_url: str
    pdf_url: str
    is_payable: bool


@dataclass(frozen=True, slots=True)
class Invoices:
    """The page. `before` and `after` are numbers of pages; None at the ends."""

    rows: tuple[Row, ...]
    before: int | None
    after: int | None
    is_customer: bool


@dataclass(frozen=True, slots=True)
class Line:
    """A row of an invoice with the way to what it is made of."""

    label: str
    detail: str
    period: Period
    quantity: int | None
    price: str
    amount: str
    why: str
    usage: str


@dataclass(frozen=True, slots=True)
class Sum:
    """A row below the lines, or of the comparison."""

    label: str
    amount: str
    detail: str = ""
    is_main: bool = False


@dataclass(frozen=True, slots=True)
class OneInvoice:
    """The page of an invoice."""

    row: Row
    lines: tuple[Line, ...]
    has_more_lines: bool
    sums: tuple[Sum, ...]
    comparison: tuple[Sum, ...]
    verdict: str
    whys: tuple[tuple[Period, str], ...]


def list_of(*, account: Account, page: int) -> Invoices:
    """The account's invoices, the newest first, a page of them."""
    first = (page - 1) * A_PAGE
    found = invoices.of_account(account=account, first=first, count=A_PAGE + 1)
    return Invoices(
        rows=tuple(row(compared) for compared in found[:A_PAGE]),
        before=page - 1 if page > 1 else None,
        after=page + 1 if len(found) > A_PAGE else None,
        is_customer=account.customer_id is not None,
    )


def one(*, account: Account, invoice_id: str) -> OneInvoice | None:
    """The account's invoice of this id; None where there is none."""
    compared = invoices.one(account=account, invoice_id=invoice_id)
    if compared is None:
        return None
    slug = account.tenant.slug
    return OneInvoice(
        row=row(compared),
        lines=tuple(_line(item, compared.invoice, slug) for item in compared.items),
        has_more_lines=compared.invoice.has_more_lines,
        sums=tuple(_sums(compared.invoice)),
        comparison=tuple(_comparison(compared)),
        verdict=_verdict(compared),
        whys=tuple((Period(billed.start, billed.end), links.why(slug, billed.start)) for billed in compared.periods),
    )


@dataclass(frozen=True, slots=True)
class Brief:
    """An invoice in the overview's short list."""

    id: str
    number: str
    made_at: datetime
    state: State
    total: str


def recent(*, account: Account) -> tuple[Brief, ...]:
    """The last invoices, from the mirror alone."""
    if account.customer_id is None:
        return ()
    return tuple(
        Brief(
            one.id,
            one.number or _("draft"),
            one.final_at or one.created_at,
            state(one),
            formatting.money(one.total_minor, one.currency),
        )
        for one in mirrored_invoices.of_customer(account.customer_id, count=RECENT)
    )


def row(compared: Compared) -> Row:
    invoice = compared.invoice
    return Row(
        id=invoice.id,
        number=invoice.number or _("draft"),
        period=compared.period,
        made_at=invoice.final_at or invoice.created_at,
        state=state(invoice),
        total=formatting.money(invoice.total_minor, invoice.currency),
        due=formatting.money(invoice.due_minor, invoice.currency) if invoice.state != "void" else formatting.NOTHING,
        ours=formatting.money(compared.ours_minor, invoice.currency),
        agreement=_agreement(compared),
        verdict=_("explained") if compared.differences and not compared.unexplained_minor else _agreement(compared),
        agrees=not compared.unexplained_minor,
        page_url=invoice.page_url,
        pdf_url=invoice.pdf_url,
        is_payable=invoice.state in {"open", "uncollectible"} and invoice.due_minor > 0 and bool(invoice.page_url),
    )


def state(invoice: Invoice) -> State:
    """The invoice's state in words."""
    if invoice.has_failed:
        if invoice.next_attempt_at is not None:
            return State(_("Payment failed"), "warn", _("The card is tried again at"), invoice.next_attempt_at)
        return State(_("Payment failed"), "warn", _("It is not tried again by itself."))
    if invoice.state == "paid" and invoice.credited_minor:
        credited = formatting.money(invoice.credited_minor, invoice.currency)
        return State(_("Paid"), "ok", _("%(amount)s given back by a credit note") % {"amount": credited})
    return {
        "draft": State(_("Draft"), "", _("The last calls still go on it; it becomes final within hours.")),
        "open": State(_("To be paid"), "warn"),
        "paid": State(_("Paid"), "ok"),
        "void": State(_("Void"), "", _("It is not to be paid.")),
        "uncollectible": State(_("Given up"), "warn", _("It was not paid, and is not collected any more.")),
    }.get(invoice.state, State(invoice.state, ""))


# -- Lines -----------------------------------------------------------------------------------------------------------------
def _line(item: Item, invoice: Invoice, slug: str) -> Line:
    line = item.line
    is_calls = item.kind in {invoices.USAGE, "overage"}
    return Line(
        label=_label(item),
        detail=line.description,
        period=line.period if item.period is None else Period(item.period.start, item.period.end),
        quantity=line.quantity if is_calls else None,
        price=_price(item, invoice.currency) if is_calls else "",
        amount=formatting.money(line.amount_minor, invoice.currency),
        why=_why(item, slug),
        usage=links.usage(slug, Period(item.period.start, item.period.end)) if item.period else "",
    )


def _label(item: Item) -> str:
    plan = item.version.plan.name if item.version else ""
    if item.kind == invoices.FEE:
        return why.label_of("fee", plan=plan)
    if item.kind == invoices.TRIAL:
        return _("%(plan)s, trial: nothing is due") % {"plan": plan}
    if item.kind == invoices.PRORATION:
        return (
            _("%(plan)s, fee for a part of the period") % {"plan": plan} if plan else _("Fee for a part of the period")
        )
    if item.kind == invoices.USAGE:
        return why.label_of("included" if _is_included(item) else "overage")
    return _("Added at Stripe") if item.kind == invoices.OTHER else why.label_of(item.kind)


def _is_included(item: Item) -> bool:
    return item.kind == invoices.USAGE and not item.line.unit_price_minor and not item.line.amount_minor


def _price(item: Item, currency: str) -> str:
    """What 1,000 of these calls cost; empty where the line does not say it."""
    if _is_included(item):
        return _("included")
    price = item.line.unit_price_minor
    if item.kind != invoices.USAGE or price is None:
        return ""
    return _("%(price)s per 1,000") % {"price": formatting.thousand_price(price, currency)}


def _why(item: Item, slug: str) -> str:
    """Where the line is explained; empty for what only Stripe can explain."""
    if item.period is not None:
        own = {"late": "later", "correction": "later", invoices.USAGE: "included" if _is_included(item) else "overage"}
        return links.why(slug, item.period.start, own.get(item.kind, item.kind))
    return links.why(slug, item.line.period.start, "fee") if item.kind == invoices.FEE else ""


def _sums(invoice: Invoice) -> Iterator[Sum]:
    """From the lines to what is still to be paid."""
    currency = invoice.currency

    def say(label: str, amount_minor: int, *, is_main: bool = False) -> Sum:
        return Sum(label, formatting.money(amount_minor, currency), is_main=is_main)

    if invoice.discount_minor:
        yield say(_("Discount"), -invoice.discount_minor)
    if invoice.tax_minor:
        yield say(_("Tax"), invoice.tax_minor)
    yield say(_("Total"), invoice.total_minor, is_main=True)
    if invoice.balance_minor:
        label = _("From your credit at Stripe") if invoice.balance_minor < 0 else _("Carried over from before")
        yield say(label, invoice.balance_minor)
    if invoice.credited_minor:
        yield say(_("Credit notes"), -invoice.credited_minor)
    if invoice.paid_minor:
        yield say(_("Paid"), -invoice.paid_minor)
    if invoice.state != "void":
        yield say(_("To be paid"), invoice.due_minor, is_main=True)


# -- Beside our records ----------------------------------------------------------------------------------------------------
def _comparison(compared: Compared) -> Iterator[Sum]:
    currency = compared.invoice.currency
    ours = formatting.money(compared.ours_minor, currency)
    yield Sum(_("Our records"), ours, _("Fees and calls by their terms, as counted now."), is_main=True)
    for difference in compared.differences:
        label, detail = words_of(difference)
        yield Sum(label, formatting.signed_money(difference.amount_minor, currency), detail)
    if compared.unexplained_minor:
        label = _("Not explained") if compared.is_settled else _("Not settled yet")
        yield Sum(label, formatting.signed_money(compared.unexplained_minor, currency))
    yield Sum(_("Stripe's invoice"), formatting.money(compared.invoice.total_minor, currency), is_main=True)


def words_of(difference: Difference) -> tuple[str, str]:
    """What a difference is called, and why it is there."""
    label, detail = {
        "proration": (_("Fee for a part of a period"), _("Stripe counts it by the second when a plan changes.")),
        "other": (_("Added at Stripe"), _("Lines that whoever operates this portal added there.")),
        "discount": (_("Discount"), _("A coupon or promotion code.")),
        "tax": (_("Tax"), _("By Stripe, for your address and tax id.")),
        "written_off": (_("Written off"), _("Calls that were counted after the invoice was final: never charged.")),
        "credit_note": (_("Given back"), _("Calls that were taken back later, by a credit note.")),
        "corrected_later": (_("Credited later"), _("Calls that were taken back later: a credit on the next invoice.")),
        "charged_later": (
            _("Charged later"),
            _("Calls that were counted late: on the next invoice, with their dates."),
        ),
    }[difference.kind]
    if difference.units:
        units = formatting.count(abs(difference.units))
        detail = f"{detail} " + _("Calls: %(calls)s.") % {"calls": units}
    return label, detail


def _agreement(compared: Compared) -> str:
    """In two or three words, for a list."""
    if compared.unexplained_minor:
        return _("not settled yet") if not compared.is_settled else _("looked into")
    if not compared.difference_minor:
        return _("agrees")
    return ", ".join(words_of(difference)[0].lower() for difference in compared.differences)


def _verdict(compared: Compared) -> str:
    if not compared.unexplained_minor:
        if not compared.differences:
            return _("Our records and Stripe's invoice agree to the cent.")
        return _("Every part of the difference has its name; all else agrees to the cent.")
    if compared.invoice.is_draft:
        return _("It is a draft: the last calls are still being added. Once it is final both sides are compared.")
    if not compared.is_settled:
        return _("Calls that were counted since are being settled. It takes some minutes.")
    return _(
        "A part of the difference has no name. Both sides are compared every day, and whoever operates this portal is told."
    )
