"""What the ledger holds of a period beyond its final invoice: calls that came late, and corrections of closed periods.

Never sent as a meter event: Stripe would take it and bill nobody. Calls that came late are written off by name, or are a dated item
of the next invoice (setting LATE_USAGE); what was taken back is a credit in either case. The row keeps how it was computed.
"""

import logging
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Sum

from tenants import audit

from . import billed_periods, charges, pricing, stops, turns
from .errors import BillingError
from .models import Account, BilledPeriod, Charge

logger = logging.getLogger(__name__)
WRITE_OFF, NEXT_INVOICE = "write_off", "next_invoice"
ACTOR = "late usage"
State, Kind = Charge.State, Charge.Kind
AFTERWARDS = (Kind.LATE, Kind.CORRECTION)


class UnknownLateUsage(BillingError):
    """The setting LATE_USAGE names neither of the two."""


DIFFERENT = """
SELECT b.id FROM billing_billedperiod AS b
JOIN metering_quota AS q ON q.tenant_id = b.account_id AND q.period_start = b.start
LEFT JOIN (
    SELECT period_id, sum(units) AS units FROM billing_charge WHERE kind IN ('late', 'correction') GROUP BY period_id
) AS c ON c.period_id = b.id
WHERE b.state = 'final' AND b.stopped_because = '' AND b.account_id <> ALL (%s) AND q.used <> b.billed_units + coalesce(c.units, 0)
"""


def settle_due(*, now: datetime) -> int:
    """Every final period whose ledger differs from what was billed and settled is settled; how many were."""
    with connection.cursor() as cursor:
        cursor.execute(DIFFERENT, [list(stops.stopped_ids())])
        found: Sequence[UUID] = [row[0] for row in cursor.fetchall()]
    return turns.each(found, lambda one: settle(period_id=one, now=now), what="Late usage of period")


def settle(*, period_id: UUID, now: datetime) -> Charge | None:
    """The difference of a final period has a row that says what becomes of it; None when there is no difference."""
    with transaction.atomic():
        period = BilledPeriod.objects.select_related(*billed_periods.RELATED).get(pk=period_id)
        account = Account.objects.select_for_update().get(pk=period.account_id)
        settled = (period.billed_units or 0) + _settled_since(period)
        units = billed_periods.units(period)
        if period.state != BilledPeriod.State.FINAL or units == settled:
            return None
        charge = _charge(period, account, before=settled, after=units, now=now)
        charge.save(force_insert=True)
        audit.record(
            tenant=period.account.tenant, actor=ACTOR, action=f"usage.{charge.kind}", subject=str(period.pk),
            units=charge.units, amount_minor=charge.amount_minor, currency=charge.currency, state=charge.state,
        )  # fmt: skip
    if charge.state == State.WRITTEN_OFF:
        logger.warning("Written off: %s (tenant %s)", charge, account.pk)
    return charge


def _settled_since(period: BilledPeriod) -> int:
    rows = Charge.objects.filter(period=period, kind__in=AFTERWARDS)
    return int(rows.aggregate(units=Sum("units"))["units"] or 0)


def _charge(period: BilledPeriod, account: Account, *, before: int, after: int, now: datetime) -> Charge:
    amount_minor = cost(period, after) - cost(period, before)
    kind = Kind.LATE if after > before else Kind.CORRECTION
    number = Charge.objects.filter(period=period, kind=kind).count() + 1
    what = "calls that were counted late" if kind == Kind.LATE else "calls that were corrected"
    derivation: dict[str, object] = {
        "units_before": before, "units_after": after, "minor_before": cost(period, before),
        "minor_after": cost(period, after), "cap_minor": period.cap_minor, "version": str(period.version),
        "invoice": period.invoice_id, "settled_at": now.isoformat(),
    }  # fmt: skip
    state = _state(account, amount_minor)
    if state == State.PENDING and not account.subscription_id:
        derivation["credited"] = period.invoice_id  # no further invoice comes: a credit note on the one that was paid
    return Charge(
        account=account, period=period, kind=kind, number=number, units=after - before, amount_minor=amount_minor,
        currency=period.currency, description=f"{abs(after - before):,} {what}, {charges.span_of(period)}",
        derivation=derivation, state=state,
    )  # fmt: skip


def _state(account: Account, amount_minor: int) -> Charge.State:
    if not amount_minor:
        return State.NOTHING
    if amount_minor < 0:
        return State.PENDING
    return State.PENDING if policy() == NEXT_INVOICE and account.subscription_id else State.WRITTEN_OFF


def policy() -> str:
    """Raises UnknownLateUsage."""
    chosen = str(settings.BILLING["LATE_USAGE"])
    if chosen not in {WRITE_OFF, NEXT_INVOICE}:
        raise UnknownLateUsage(f"LATE_USAGE is {chosen!r}, and must be {WRITE_OFF} or {NEXT_INVOICE}.")
    return chosen


def cost(period: BilledPeriod, units: int) -> int:
    """What so many units of the period cost in all, by its own terms."""
    terms = billed_periods.terms_of(period)
    return pricing.invoice(terms=terms, quantity=max(0, units), cap_minor=period.cap_minor).total_minor
