"""Invoices and their lines, as Stripe has them."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from billing import stripe_objects as objects
from billing.stripe_objects import InvoiceLine, OpenInvoice

from .connection import PAGE, asking, client, every


def open_invoices(customer_id: str) -> list[OpenInvoice]:
    """Invoices that wait for payment, the oldest first."""
    with asking():
        page = client().v1.invoices.list({"customer": customer_id, "status": "open", "limit": PAGE})
        found = [objects.read_open_invoice(body) for body in every(page)]
    return sorted(found, key=lambda one: (one.created_at, one.id))


def invoice_lines(*, customer_id: str, since: datetime) -> list[InvoiceLine]:
    """The lines of the customer's invoices from then on, drafts among them; those of voided invoices count no more."""
    params: Any = {"customer": customer_id, "created": {"gte": int(since.timestamp())}, "limit": PAGE}
    found: list[InvoiceLine] = []
    with asking():
        for invoice in every(client().v1.invoices.list(params)):
            if invoice["status"] != "void":
                found += [objects.read_invoice_line(invoice, line) for line in _lines_of(invoice)]
    return found


def _lines_of(invoice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All lines: an invoice in a list brings its first ten."""
    if invoice["lines"].get("has_more"):
        yield from every(client().v1.invoices.line_items.list(invoice["id"], {"limit": PAGE}))
    else:
        yield from invoice["lines"]["data"]
