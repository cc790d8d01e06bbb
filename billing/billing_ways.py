"""Two ways in which calls come onto an invoice; both charge the same.

`meter_events`: usage is reported to Stripe's meter, Stripe rates it, and only what its price cannot say is a line of ours (the
customer's limit in money, the agreed minimum). `invoice_items`: usage is rated here, and every line is ours. The setting
BILL_USAGE_BY decides what the catalogue sells; a period is billed as its subscription was made.
"""

from dataclasses import dataclass

from django.conf import settings

from . import pricing
from .models import BilledPeriod
from .stripe_usage import Invoice

BY_METER_EVENTS, BY_INVOICE_ITEMS = "meter_events", "invoice_items"


class UnknownBillingWay(Exception):
    """The setting BILL_USAGE_BY names neither of the two."""


@dataclass(frozen=True, slots=True)
class BillingWay:
    """How a period's calls come onto its invoice."""

    name: str
    is_reported: bool  # to Stripe's meter
    own_kinds: frozenset[str]  # of invoice lines that we add

    def own_lines(self, lines: tuple[pricing.Line, ...]) -> list[pricing.Line]:
        return [line for line in lines if line.kind in self.own_kinds]

    def is_invoice_of(self, period: BilledPeriod, invoice: Invoice) -> bool:
        """Whether the period's calls belong on this invoice."""
        if self.is_reported:
            return bool(invoice.usage_of(period.item_id, period.start, period.end))
        return invoice.reason == "subscription_cycle" and invoice.created_at >= period.end.replace(microsecond=0)

    def billed_units(self, period: BilledPeriod, invoice: Invoice | None) -> int:
        """Units that the final invoice is for: what Stripe's lines say where Stripe rates, else what ours are for."""
        if not self.is_reported:
            return period.rated_units
        lines = invoice.usage_of(period.item_id, period.start, period.end) if invoice else []
        return sum(line.quantity for line in lines)


METER_EVENTS = BillingWay(BY_METER_EVENTS, is_reported=True, own_kinds=frozenset({"write_off", "minimum"}))
INVOICE_ITEMS = BillingWay(
    BY_INVOICE_ITEMS, is_reported=False, own_kinds=frozenset({"overage", "write_off", "minimum"})
)
WAYS = {way.name: way for way in (METER_EVENTS, INVOICE_ITEMS)}


def chosen() -> BillingWay:
    """This deployment's way; raises UnknownBillingWay."""
    name = settings.BILLING["BILL_USAGE_BY"]
    if name not in WAYS:
        raise UnknownBillingWay(f"BILL_USAGE_BY is {name!r}, and must be one of {', '.join(WAYS)}.")
    return WAYS[name]


def of(period: BilledPeriod) -> BillingWay:
    """The way of this period: by what its subscription was made of."""
    return METER_EVENTS if period.meter_id else INVOICE_ITEMS
