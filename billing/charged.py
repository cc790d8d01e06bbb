"""Our own charges against the lines of Stripe's invoices: each is on its invoice once, with its amount."""

from collections.abc import Iterable
from datetime import datetime

from .drifts import OwnLine
from .models import BilledPeriod, Charge
from .stripe_api import InvoiceLine
from .stripe_usage import CHARGE

INVOICE_ITEM = "ii_"


def own_lines(*, period: BilledPeriod, lines: Iterable[InvoiceLine], before: datetime) -> tuple[OwnLine, ...]:
    """What the period's charges that were added before this instant say, and what Stripe's lines charge for them.

    Charges on invoices that were not read, or that are void, are left out.
    """
    every = list(lines)
    read = {line.invoice_id for line in every}
    on_invoices = Charge.objects.filter(
        period=period,
        state=Charge.State.ADDED,
        added_at__lte=before,
        stripe_id__startswith=INVOICE_ITEM,
        invoice_id__in=read,
    )
    return tuple(
        OwnLine(
            charge.description, charge.units, charge.amount_minor, charge.currency,
            tuple(line.amount_minor for line in every if line.metadata.get(CHARGE) == str(charge.pk)),
        )
        for charge in on_invoices.order_by("created_at")
    )  # fmt: skip
