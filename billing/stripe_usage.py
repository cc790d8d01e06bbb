"""What billing usage asks of Stripe besides meter events: counts by hour, invoices with their usage, and our own lines on them."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from .errors import NoSuchObject
from .stripe_api.connection import PAGE, asking, client, every, options, plain
from .stripe_objects import id_of, instant, invoice_subscription_id

CHARGE = "charge"  # the metadata that names our row: found again by it when an answer was lost
SUBJECT = "subject"  # the same of an invoice that we make: what it is for
ITEM = "ii_"


@dataclass(frozen=True, slots=True)
class UsageLine:
    """A line of a metered subscription item: one for each price step."""

    item_id: str
    start: datetime
    end: datetime
    quantity: int
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice as Stripe has it now, with those of its lines that belong to subscription items."""

    id: str
    status: str
    reason: str
    subscription_id: str
    created_at: datetime
    lines: tuple[UsageLine, ...]

    @property
    def is_draft(self) -> bool:
        return self.status == "draft"

    def usage_of(self, item_id: str, start: datetime, end: datetime) -> list[UsageLine]:
        """The lines for this item's calls between these instants."""
        return [line for line in self.lines if line.item_id == item_id and line.start < end and line.end > start]


def hourly_totals(*, meter_id: str, customer_id: str, start: datetime, end: datetime) -> dict[datetime, int]:
    """What Stripe has counted in each hour (UTC) from start to end, both whole hours; hours without usage are left out."""
    params: Any = {
        "customer": customer_id, "start_time": int(start.timestamp()), "end_time": int(end.timestamp()), "limit": PAGE,
        "value_grouping_window": "hour",
    }  # fmt: skip
    with asking():
        page = client().v1.billing.meters.event_summaries.list(meter_id, params)
        return {instant(body["start_time"]): int(body["aggregated_value"]) for body in every(page)}


def invoice(invoice_id: str) -> Invoice:
    with asking():
        return _read(plain(client().v1.invoices.retrieve(invoice_id)))


def invoices_of(*, subscription_id: str, since: datetime) -> list[Invoice]:
    """The subscription's invoices that were made since then, the oldest first."""
    params: Any = {"subscription": subscription_id, "created": {"gte": int(since.timestamp())}, "limit": PAGE}
    with asking():
        found = [_read(body) for body in every(client().v1.invoices.list(params))]
    return sorted(found, key=lambda one: (one.created_at, one.id))


def _read(body: Mapping[str, Any]) -> Invoice:
    lines = body["lines"]
    bodies = lines["data"]
    if lines.get("has_more"):
        bodies = list(every(client().v1.invoices.line_items.list(body["id"], {"limit": PAGE})))
    return Invoice(
        id=body["id"],
        status=body["status"],
        reason=body.get("billing_reason") or "",
        subscription_id=invoice_subscription_id(body),
        created_at=instant(body["created"]),
        lines=tuple(line for one in bodies if (line := _line(one)) is not None),
    )


def _line(body: Mapping[str, Any]) -> UsageLine | None:
    details = (body.get("parent") or {}).get("subscription_item_details") or {}
    item_id = id_of(details.get("subscription_item"))
    if not item_id or details.get("proration"):
        return None
    period = body["period"]
    return UsageLine(
        item_id, instant(period["start"]), instant(period["end"]), int(body.get("quantity") or 0), int(body["amount"])
    )


# -- Lines of our own ----------------------------------------------------------------------------------------------------
def add_item(
    *, customer_id: str, invoice_id: str, subscription_id: str, amount_minor: int, currency: str, description: str,
    start: datetime, end: datetime, charge_id: UUID, key: str,
) -> str:  # fmt: skip
    """The amount is on this draft, or, without one, waits for the next invoice of the subscription; returns its id."""
    params: Any = {
        "customer": customer_id, "amount": amount_minor, "currency": currency, "description": description,
        "period": {"start": int(start.timestamp()), "end": int(end.timestamp())}, "metadata": {CHARGE: str(charge_id)},
    }  # fmt: skip
    if invoice_id:
        params["invoice"] = invoice_id
    elif subscription_id:
        params["subscription"] = subscription_id
    with asking():
        return str(plain(client().v1.invoice_items.create(params, options(key)))["id"])


def find_item(*, customer_id: str, charge_id: UUID, since: datetime) -> str:
    """The invoice item that was made for our charge since then; empty without one."""
    params: Any = {"customer": customer_id, "created": {"gte": int(since.timestamp())}, "limit": PAGE}
    with asking():
        for body in every(client().v1.invoice_items.list(params)):
            if (body.get("metadata") or {}).get(CHARGE) == str(charge_id):
                return str(body["id"])
    return ""


@dataclass(frozen=True, slots=True)
class OwnItem:
    """Where a line of ours is: on an invoice, or waiting for the next one of a subscription or of the customer."""

    invoice_id: str
    subscription_id: str


def item(item_id: str) -> OwnItem:
    """Raises NoSuchObject when it was deleted."""
    with asking():
        body = plain(client().v1.invoice_items.retrieve(item_id))
        details = (body.get("parent") or {}).get("subscription_details") or {}
        return OwnItem(id_of(body.get("invoice")), id_of(details.get("subscription")))


def delete_item(item_id: str) -> None:
    """It is on no invoice and waits for none; one that is gone already is no error."""
    with suppress(NoSuchObject), asking():
        client().v1.invoice_items.delete(item_id)


def find_invoice(*, customer_id: str, subject: UUID, since: datetime) -> str:
    """The invoice that we made for this subject since then; empty without one."""
    params: Any = {"customer": customer_id, "created": {"gte": int(since.timestamp())}, "limit": PAGE}
    with asking():
        for body in every(client().v1.invoices.list(params)):
            if (body.get("metadata") or {}).get(SUBJECT) == str(subject):
                return str(body["id"])
    return ""


def create_invoice(*, customer_id: str, currency: str, subject: UUID, description: str, key: str) -> str:
    """An empty draft for lines of ours, which Stripe makes final after its hour, and collects; returns its id."""
    params: Any = {
        "customer": customer_id, "currency": currency, "description": description, "auto_advance": True,
        "pending_invoice_items_behavior": "exclude", "metadata": {SUBJECT: str(subject)},
    }  # fmt: skip
    with asking():
        return str(plain(client().v1.invoices.create(params, options(key)))["id"])


def credit(*, invoice_id: str, amount_minor: int, memo: str, charge_id: UUID, key: str) -> str:
    """A credit note gives the amount back to the customer's balance, or takes it off what is still due; returns its id."""
    with asking():
        status = plain(client().v1.invoices.retrieve(invoice_id))["status"]
        params: Any = {
            "invoice": invoice_id, "amount": amount_minor, "memo": memo, "metadata": {CHARGE: str(charge_id)},
        }  # fmt: skip
        if status == "paid":
            params["credit_amount"] = amount_minor
        return str(plain(client().v1.credit_notes.create(params, options(key)))["id"])


def find_credit(*, invoice_id: str, charge_id: UUID) -> str:
    """The credit note that was made for our charge; empty without one."""
    with asking():
        for body in every(client().v1.credit_notes.list({"invoice": invoice_id, "limit": PAGE})):
            if (body.get("metadata") or {}).get(CHARGE) == str(charge_id):
                return str(body["id"])
    return ""
