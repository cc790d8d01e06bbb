"""Invoices as the mirror has them, which webhooks keep: read without asking Stripe, so that they show while it is away."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from djstripe import models as mirrored

from metering.periods import Period

from .stripe_objects import id_of, instant, instant_or_none
from .stripe_usage import CHARGE

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """One row of an invoice. `charge_id` names our own charge behind it; a proration is a fee for a part of a period."""

    id: str
    description: str
    quantity: int
    unit_price_minor: Decimal | None
    amount_minor: int
    price_id: str
    period: Period
    is_proration: bool
    charge_id: str


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice as Stripe had it when the last webhook told of it. Amounts are minor units.

    `due_minor` is what is still to be paid, `credited_minor` what credit notes gave back, `balance_minor` what was taken from the
    customer's credit at Stripe (negative) or added from a debt. The addresses are Stripe's own pages; empty without one.
    """

    id: str
    number: str
    state: str
    currency: str
    created_at: datetime
    final_at: datetime | None
    next_attempt_at: datetime | None
    attempts: int
    total_minor: int
    discount_minor: int
    tax_minor: int
    balance_minor: int
    credited_minor: int
    paid_minor: int
    due_minor: int
    page_url: str
    pdf_url: str
    lines: tuple[Line, ...]
    has_more_lines: bool

    @property
    def is_draft(self) -> bool:
        return self.state == "draft"

    @property
    def has_failed(self) -> bool:
        """Whether a payment was tried and is still missing."""
        return self.state == "open" and self.attempts > 0

    @property
    def period(self) -> Period:
        """What its lines are for, from the first to the last."""
        if not self.lines:
            return Period(self.created_at, self.created_at)
        return Period(min(line.period.start for line in self.lines), max(line.period.end for line in self.lines))


def of_customer(customer_id: str, *, first: int = 0, count: int = 50) -> list[Invoice]:
    """The customer's invoices, the newest first, from number `first` on."""
    rows = mirrored.Invoice.objects.filter(customer_id=customer_id).order_by("-created", "-id")
    found = rows.values_list("stripe_data", flat=True)[first : first + count]
    return [read(body) for body in found]


def one(customer_id: str, invoice_id: str) -> Invoice | None:
    """The invoice of this id if it is the customer's."""
    rows = mirrored.Invoice.objects.filter(customer_id=customer_id, id=invoice_id)
    body = rows.values_list("stripe_data", flat=True).first()
    return None if body is None else read(body)


def balance_of(customer_id: str) -> int:
    """What the customer has at Stripe: negative is a credit for the next invoice."""
    body = mirrored.Customer.objects.filter(id=customer_id).values_list("stripe_data", flat=True).first()
    return int((body or {}).get("balance") or 0)


def read(body: Json) -> Invoice:
    transitions = body.get("status_transitions") or {}
    lines = body.get("lines") or {}
    return Invoice(
        id=body["id"],
        number=body.get("number") or "",
        state=body.get("status") or "draft",
        currency=body["currency"],
        created_at=instant(int(body["created"])),
        final_at=instant_or_none(transitions.get("finalized_at")),
        next_attempt_at=instant_or_none(body.get("next_payment_attempt")),
        attempts=int(body.get("attempt_count") or 0),
        total_minor=_whole(body, "total"),
        discount_minor=sum(int(one["amount"]) for one in body.get("total_discount_amounts") or []),
        tax_minor=_tax(body),
        balance_minor=_from_balance(body),
        credited_minor=_whole(body, "pre_payment_credit_notes_amount")
        + _whole(body, "post_payment_credit_notes_amount"),
        paid_minor=_whole(body, "amount_paid"),
        due_minor=0 if body.get("status") in {"void", "paid"} else _whole(body, "amount_remaining"),
        page_url=safe_address(body.get("hosted_invoice_url")),
        pdf_url=safe_address(body.get("invoice_pdf")),
        lines=tuple(_line(line) for line in lines.get("data") or []),
        has_more_lines=bool(lines.get("has_more")),
    )


def _whole(body: Json, name: str) -> int:
    return int(body.get(name) or 0)


def _tax(body: Json) -> int:
    """Only what is on top of the lines: an inclusive tax is in them."""
    taxes = body.get("total_taxes") or []
    return sum(int(tax["amount"]) for tax in taxes if tax.get("tax_behavior") != "inclusive")


def _from_balance(body: Json) -> int:
    """The part of the customer's balance that the invoice uses; nothing of a void one."""
    start, end = _whole(body, "starting_balance"), body.get("ending_balance")
    if end is not None:
        return start - int(end)
    return max(start, -max(0, _whole(body, "total"))) if start < 0 else start


def _line(body: Json) -> Line:
    parent = body.get("parent") or {}
    details = parent.get("subscription_item_details") or parent.get("invoice_item_details") or {}
    pricing = body.get("pricing") or {}
    price = pricing.get("unit_amount_decimal")
    return Line(
        id=body["id"],
        description=body.get("description") or "",
        quantity=int(body.get("quantity") or 0),
        unit_price_minor=None if price is None else Decimal(str(price)),
        amount_minor=int(body["amount"]),
        price_id=id_of((pricing.get("price_details") or {}).get("price")),
        period=Period(instant(int(body["period"]["start"])), instant(int(body["period"]["end"]))),
        is_proration=bool(details.get("proration")),
        charge_id=str((body.get("metadata") or {}).get(CHARGE) or ""),
    )


def safe_address(address: str | None) -> str:
    """The address if a browser may be sent there: https, or the server that stands in for Stripe; else empty."""
    address = address or ""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    stand_in = urlsplit(settings.STRIPE_API_BASE)
    is_stand_in = not settings.STRIPE_IS_REAL and (parts.scheme, parts.netloc) == (stand_in.scheme, stand_in.netloc)
    return address if (parts.scheme == "https" and parts.netloc) or is_stand_in else ""
