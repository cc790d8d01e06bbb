"""Named amounts of ours on an invoice: each is a row first, and is put there once.

What a period should be charged is computed from its units; what its rows say already is taken off, line by line, and the
difference is a further row. So rating a draft again charges nothing twice. The row's id is in the metadata of what Stripe has,
and is looked for there before anything is sent a second time.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Count, Q, Sum

from . import billed_periods, billing_ways, pricing, stops, stripe_usage, turns
from .errors import SavedFailure, StripeRefused, StripeUnavailable
from .letters import money
from .models import Account, BilledPeriod, Charge

logger = logging.getLogger(__name__)
NOT_A_DRAFT = "invoice_not_editable"
MOST_KEYS = 20
State, Kind = Charge.State, Charge.Kind


@dataclass(frozen=True, slots=True)
class Priced:
    """One line that is ours, numbered within its kind: price steps from 0."""

    kind: str
    step: int
    units: int
    amount_minor: int
    unit_price_minor: str


def rate(*, period: BilledPeriod, units: int, invoice_id: str = "") -> int:
    """Our lines for so many units are rows, to be put on this draft or on the next invoice; how many were new."""
    with transaction.atomic():
        account = Account.objects.select_for_update().get(pk=period.account_id)
        period.refresh_from_db(fields=["state", "end"])
        if period.state != BilledPeriod.State.OPEN:
            return 0
        period.cap_minor, period.rated_units = account.hard_limit_minor, units
        period.save(update_fields=["cap_minor", "rated_units"])
        made = [row for row in _differences(period, units, invoice_id) if row.amount_minor or row.units]
        Charge.objects.bulk_create(made)
    return len(made)


def lines(period: BilledPeriod, units: int) -> list[Priced]:
    """What is ours of the invoice for so many units of the period."""
    invoice = pricing.invoice(terms=billed_periods.terms_of(period), quantity=max(0, units), cap_minor=period.cap_minor)
    own, steps = [], dict.fromkeys(Kind.values, 0)
    for line in billing_ways.of(period).own_lines(invoice.lines):
        quantity = line.quantity if line.kind == Kind.OVERAGE else 0
        own.append(Priced(line.kind, steps[line.kind], quantity, line.amount_minor, f"{line.unit_price_minor:f}"))
        steps[line.kind] += 1
    return own


def _differences(period: BilledPeriod, units: int, invoice_id: str) -> Iterable[Charge]:
    wanted = {(one.kind, one.step): one for one in lines(period, units)}
    rows = Charge.objects.filter(period=period, kind__in=(Kind.OVERAGE, Kind.WRITE_OFF, Kind.MINIMUM))
    charged = {
        (kind, step): (int(quantity), int(amount), count)
        for kind, step, quantity, amount, count in rows.order_by()
        .values_list("kind", "step")
        .annotate(Sum("units"), Sum("amount_minor"), Count("pk"))
    }
    for key in sorted({*wanted, *charged}):
        line = wanted.get(key) or Priced(*key, 0, 0, "0")
        before_units, before_minor, count = charged.get(key, (0, 0, 0))
        yield _row(
            period, line, units=line.units - before_units, amount_minor=line.amount_minor - before_minor,
            number=count + 1, invoice_id=invoice_id, period_units=units,
        )  # fmt: skip


def _row(
    period: BilledPeriod,
    line: Priced,
    *,
    units: int,
    amount_minor: int,
    number: int,
    invoice_id: str,
    period_units: int,
) -> Charge:
    derivation: dict[str, Any] = {
        "period_units": period_units, "unit_price_minor": line.unit_price_minor, "line_units": line.units,
        "line_minor": line.amount_minor, "cap_minor": period.cap_minor, "version": str(period.version),
    }  # fmt: skip
    return Charge(
        account_id=period.account_id, period=period, kind=line.kind, step=line.step, number=number, units=units,
        amount_minor=amount_minor, currency=period.currency, description=_says(period, line, units),
        derivation=derivation, invoice_id=invoice_id, state=State.PENDING if amount_minor else State.NOTHING,
    )  # fmt: skip


def _says(period: BilledPeriod, line: Priced, units: int) -> str:
    span = span_of(period)
    if line.kind == Kind.OVERAGE:
        return f"{units:,} calls beyond the included ones at {line.unit_price_minor} minor units, {span}"
    if line.kind == Kind.WRITE_OFF:
        return f"Calls beyond your limit of {money(period.cap_minor or 0, period.currency)}, not charged, {span}"
    return f"Up to the agreed minimum, {span}"


def span_of(period: BilledPeriod) -> str:
    return f"{period.start:%d %b %Y} to {period.end:%d %b %Y}"


# -- Onto the invoice ----------------------------------------------------------------------------------------------------
def add_due(*, now: datetime) -> int:
    """Every charge that waits is at Stripe, each account's in order; of how many accounts."""
    waiting = Charge.objects.filter(_addable()).values_list("account_id", flat=True).distinct()
    return turns.each(
        waiting, lambda one: add_all(account_id=one, now=now), what="Charges",
        at_once=settings.BILLING["REPORT_SENDERS"],
    )  # fmt: skip


def _addable() -> Q:
    return Q(state=State.PENDING, period__stopped_because="") & ~Q(account__in=stops.stopped_ids())


def add_all(*, account_id: UUID, now: datetime) -> None:
    """The account's waiting charges are at Stripe. Raises StripeUnavailable at the first that is not."""
    waiting = Charge.objects.filter(_addable(), account_id=account_id).order_by("created_at", "kind", "step", "number")
    with turns.only_one(account_id) as is_mine:
        for charge in waiting.select_related("account", "period") if is_mine else []:
            _add(charge, now)


def _add(charge: Charge, now: datetime) -> None:
    """The charge is at Stripe once, or refused for a reason that operators read."""
    if charge.stripe_id and not _is_taken_back(charge):
        return
    if charge.attempted_at is not None and _is_found(charge, now):
        return
    if charge.attempted_at is None:
        charge.attempted_at = now
        Charge.objects.filter(pk=charge.pk).update(attempted_at=now)
    try:
        _set_added(charge, _sent(charge, now), now)
    except StripeRefused as error:
        if error.code == NOT_A_DRAFT and charge.invoice_id:
            charge.invoice_id = ""  # final in the meantime: it goes on the next one, with its dates
            Charge.objects.filter(pk=charge.pk).update(invoice_id="")
            _add(charge, now)
            return
        logger.error("Stripe refuses charge %s of tenant %s: %s", charge.pk, charge.account_id, error)
        Charge.objects.filter(pk=charge.pk).update(error=error.message[:500])


def _is_taken_back(charge: Charge) -> bool:
    """Whether the item that waited in vain (`last_invoices.py`) is gone, so that the charge may be put on another invoice."""
    mine = Charge.objects.filter(pk=charge.pk, state=State.PENDING, stripe_id=charge.stripe_id)
    try:
        stripe_usage.delete_item(charge.stripe_id)
    except StripeRefused as error:  # an invoice has taken it meanwhile
        logger.info("Charge %s of tenant %s stays where it is: %s", charge.pk, charge.account_id, error)
        mine.update(state=State.ADDED, invoice_id="")
        return False
    charge.stripe_id = ""
    return bool(mine.update(stripe_id=""))


def _is_found(charge: Charge, now: datetime) -> bool:
    """Whether an earlier try whose answer was lost has worked."""
    since = charge.attempted_at or charge.created_at
    found = stripe_usage.find_item(
        customer_id=charge.account.customer_id or "", charge_id=charge.pk, since=since - turns.CLOCKS_DIFFER
    )
    if not found and charge.derivation.get("credited"):
        found = stripe_usage.find_credit(invoice_id=charge.derivation["credited"], charge_id=charge.pk)
    if found:
        _set_added(charge, found, now)
    return bool(found)


def _sent(charge: Charge, now: datetime) -> str:
    """Stripe's id of it. A failure that Stripe repeats under a key is left for another key, having looked whether it worked."""
    target = charge.invoice_id or "next"
    for number in range(MOST_KEYS):
        try:
            return _send(charge, key=f"charge-{charge.pk}-{target}-{number}")
        except SavedFailure:
            found = stripe_usage.find_item(
                customer_id=charge.account.customer_id or "", charge_id=charge.pk, since=now - turns.CLOCKS_DIFFER
            )
            if found:
                return found
    raise StripeUnavailable(f"Stripe repeats its failures under {MOST_KEYS} keys.")


def _send(charge: Charge, *, key: str) -> str:
    account, period = charge.account, charge.period
    if charge.derivation.get("credited"):
        return stripe_usage.credit(
            invoice_id=charge.derivation["credited"], amount_minor=-charge.amount_minor, memo=charge.description,
            charge_id=charge.pk, key=key,
        )  # fmt: skip
    return stripe_usage.add_item(
        customer_id=account.customer_id or "", invoice_id=charge.invoice_id,
        subscription_id=account.subscription_id or "", amount_minor=charge.amount_minor, currency=charge.currency,
        description=charge.description, start=period.start, end=period.end, charge_id=charge.pk, key=key,
    )  # fmt: skip


def _set_added(charge: Charge, stripe_id: str, now: datetime) -> None:
    Charge.objects.filter(pk=charge.pk, state=State.PENDING).update(
        state=State.ADDED, stripe_id=stripe_id, added_at=now, error=""
    )
