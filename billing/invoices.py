"""Stripe's invoices held against our own records: what we say each should be, and why the two totals may differ.

Ours are the plan's fee, each period's calls as counted now by its own terms, and our own charges. What Stripe adds (tax, discounts,
a fee for a part of a period) and what came after the invoice was final are differences with a name. Nothing here asks Stripe.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from uuid import UUID

from django.db.models import Q

from metering.models import Quota
from metering.periods import Period

from . import accounts, explain, mirrored_invoices, pricing
from .mirrored_invoices import Invoice, Line
from .models import Account, BilledPeriod, Charge, PlanChange, PlanVersion, StripePrices

FEE, TRIAL, PRORATION, USAGE, OTHER = "fee", "trial", "proration", "usage", "other"
LATER = (Charge.Kind.LATE, Charge.Kind.CORRECTION)


@dataclass(frozen=True, slots=True)
class Item:
    """A line and what it is for: `kind` is one of these five or that of our charge, `period` the one whose calls it is about."""

    line: Line
    kind: str
    period: BilledPeriod | None = None
    charge: Charge | None = None
    version: PlanVersion | None = None  # whose fee it is


@dataclass(frozen=True, slots=True)
class Difference:
    """Why Stripe's total is so much more (or, negative, less) than ours."""

    kind: str
    amount_minor: int
    units: int = 0


@dataclass(frozen=True, slots=True)
class Compared:
    """An invoice beside our records. `periods` are those whose calls it charges; `unexplained_minor` ought to be 0."""

    invoice: Invoice
    items: tuple[Item, ...]
    periods: tuple[BilledPeriod, ...]
    ours_minor: int
    differences: tuple[Difference, ...]
    is_settled: bool

    @property
    def period(self) -> Period:
        """The period whose calls are on it; without any what its lines are for."""
        if self.periods:
            return Period(self.periods[0].start, self.periods[-1].end)
        return self.invoice.period

    @property
    def difference_minor(self) -> int:
        return self.invoice.total_minor - self.ours_minor

    @property
    def unexplained_minor(self) -> int:
        return self.difference_minor - sum(one.amount_minor for one in self.differences)


def of_account(*, account: Account, first: int = 0, count: int = 50) -> list[Compared]:
    """The account's invoices, the newest first; none for one that Stripe does not know."""
    if account.customer_id is None:
        return []
    found = mirrored_invoices.of_customer(account.customer_id, first=first, count=count)
    records = Records(account)
    return [compare(invoice, records) for invoice in found]


def one(*, account: Account, invoice_id: str) -> Compared | None:
    """The account's invoice of this id; None where there is none."""
    if account.customer_id is None:
        return None
    invoice = mirrored_invoices.one(account.customer_id, invoice_id)
    return None if invoice is None else compare(invoice, Records(account))


class Records:
    """What we know of an account's invoices, each table read once however many invoices there are."""

    def __init__(self, account: Account) -> None:
        self.account = account

    @cached_property
    def periods(self) -> list[BilledPeriod]:
        found = BilledPeriod.objects.filter(account_id=self.account.pk).select_related("version__plan")
        return list(found.order_by("start"))

    @cached_property
    def charges(self) -> list[Charge]:
        return list(Charge.objects.filter(account_id=self.account.pk).order_by("created_at"))

    @cached_property
    def used(self) -> dict[datetime, int]:
        """Units of each period in the ledger now."""
        rows = Quota.objects.filter(tenant_id=self.account.pk).order_by()
        return dict(rows.values_list("period_start", "used"))

    @cached_property
    def prices(self) -> list[StripePrices]:
        """Where the public versions and this tenant's stand at Stripe."""
        is_mine = Q(version__tenant=None) | Q(version__tenant=self.account.pk)
        return list(StripePrices.objects.filter(is_mine).select_related("version__plan"))

    @cached_property
    def fees(self) -> dict[str, PlanVersion]:
        return {row.fee_price_id: row.version for row in self.prices}

    @cached_property
    def usage_prices(self) -> frozenset[str]:
        return frozenset(row.usage_price_id for row in self.prices if row.usage_price_id)

    @cached_property
    def cuts(self) -> list[datetime]:
        found = PlanChange.objects.filter(account_id=self.account.pk, state=PlanChange.State.APPLIED)
        return [at for at in found.order_by().values_list("cut_at", flat=True) if at is not None]

    def charge(self, charge_id: str) -> Charge | None:
        return next((charge for charge in self.charges if str(charge.pk) == charge_id), None)

    def period(self, pk: object) -> BilledPeriod | None:
        return next((period for period in self.periods if period.pk == pk), None)

    def of_invoice(self, invoice_id: str) -> list[BilledPeriod]:
        return [period for period in self.periods if period.invoice_id == invoice_id]

    def calls_minor(self, period: BilledPeriod) -> int:
        """What the period's calls cost as counted now, its agreed minimum among them: all but the fee."""
        is_cut = any(period.start <= at <= period.end for at in self.cuts)
        terms = explain.terms_of(
            version=period.version, currency=period.currency, is_free=period.is_free, is_cut=is_cut
        )
        is_final = period.state == BilledPeriod.State.FINAL
        cap_minor = period.cap_minor if is_final else self.account.hard_limit_minor
        units = max(0, self.used.get(period.start, 0))
        return pricing.invoice(terms=terms, quantity=units, cap_minor=cap_minor).total_minor - terms.fee_minor

    def is_settled(self, period: BilledPeriod) -> bool:
        """Whether all that was counted is billed, or is a charge of its own."""
        later = sum(one.units for one in self.charges if one.period_id == period.pk and one.kind in LATER)
        billed = (period.billed_units or 0) + later
        return period.state == BilledPeriod.State.FINAL and billed == self.used.get(period.start, 0)


def compare(invoice: Invoice, records: Records) -> Compared:
    """The invoice line by line beside our records, and its totals."""
    items = tuple(_item(line, records) for line in invoice.lines)
    periods = _periods(invoice, items, records)
    at_home = {period.pk for period in periods}
    ours = sum(records.calls_minor(period) for period in periods)
    ours += sum(_fee(item, records) for item in items if item.kind == FEE)
    ours += sum(item.charge.amount_minor for item in items if item.charge and item.charge.period_id not in at_home)
    return Compared(
        invoice=invoice,
        items=items,
        periods=periods,
        ours_minor=ours,
        differences=tuple(_differences(invoice, items, at_home, records)),
        is_settled=not invoice.is_draft and all(records.is_settled(period) for period in periods),
    )


def _item(line: Line, records: Records) -> Item:
    charge = records.charge(line.charge_id) if line.charge_id else None
    if charge is not None:
        return Item(line, charge.kind, records.period(charge.period_id), charge)
    if line.is_proration and not _is_whole_fee(line, records):
        return Item(line, PRORATION, version=records.fees.get(line.price_id))
    if line.price_id in records.fees:
        return Item(line, FEE if line.amount_minor else TRIAL, version=records.fees[line.price_id])
    if line.price_id in records.usage_prices:
        return Item(line, USAGE, _period_of(line, records.periods))
    return Item(line, OTHER)


def _is_whole_fee(line: Line, records: Records) -> bool:
    """Whether a part of a period is all of it after all: of a subscription that is said to have begun earlier."""
    return line.price_id in records.fees and line.amount_minor == _fee(Item(line, FEE), records)


def _period_of(line: Line, periods: Sequence[BilledPeriod]) -> BilledPeriod | None:
    """The billed period that most of the line's time lies in: Stripe counts in whole seconds."""
    shared = [(min(line.period.end, one.end) - max(line.period.start, one.start), one) for one in periods]
    overlapping = [(time, one) for time, one in shared if time.total_seconds() > 0]
    return max(overlapping, key=lambda found: found[0])[1] if overlapping else None


def _periods(invoice: Invoice, items: Iterable[Item], records: Records) -> tuple[BilledPeriod, ...]:
    """Those whose calls are billed here: as it was written down, else as its lines say."""
    found = {period.pk: period for period in records.of_invoice(invoice.id)}
    for item in items:
        is_calls = item.kind == USAGE or (item.charge is not None and item.kind not in LATER)
        if is_calls and item.period is not None and not item.period.invoice_id:
            found[item.period.pk] = item.period
    return tuple(sorted(found.values(), key=lambda period: period.start))


def _fee(item: Item, records: Records) -> int:
    version, currency = records.fees[item.line.price_id], records.account.currency
    if not accounts.is_sold_in(version, currency):
        return item.line.amount_minor
    return accounts.pricing_terms(version, currency).fee_minor * max(1, item.line.quantity)


def _differences(invoice: Invoice, items: Sequence[Item], at_home: set[UUID], records: Records) -> Iterator[Difference]:
    """What is on the invoice and not in our records, then what is in our records and not on the invoice."""
    for kind in (PRORATION, OTHER):
        amount = sum(item.line.amount_minor for item in items if item.kind == kind)
        if amount:
            yield Difference(kind, amount)
    if invoice.discount_minor:
        yield Difference("discount", -invoice.discount_minor)
    if invoice.tax_minor:
        yield Difference("tax", invoice.tax_minor)
    here = {item.charge.pk for item in items if item.charge}
    for charge in records.charges:
        if charge.period_id in at_home and charge.pk not in here and charge.amount_minor:
            yield Difference(_why_elsewhere(charge), -charge.amount_minor, charge.units)


def _why_elsewhere(charge: Charge) -> str:
    if charge.state == Charge.State.WRITTEN_OFF:
        return "written_off"
    if charge.stripe_id.startswith("cn_"):
        return "credit_note"
    return "corrected_later" if charge.amount_minor < 0 else "charged_later"
