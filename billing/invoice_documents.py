"""Invoices and their explanation as JSON, and as rows of a file with the same names. Amounts are minor units, exact ones text."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from . import explain, invoices, next_invoice, pricing
from .estimates import Statement
from .invoices import Compared
from .models import Account

A_PAGE = 50
COLUMNS = (
    "id", "number", "state", "period_start", "period_end", "created_at", "final_at", "currency", "total_minor", "due_minor",
    "paid_minor", "tax_minor", "discount_minor", "balance_minor", "credited_minor", "local_total_minor", "unexplained_minor",
    "page_url", "pdf_url",
)  # fmt: skip


def row(compared: Compared) -> dict[str, Any]:
    """An invoice by the names of COLUMNS."""
    invoice, period = compared.invoice, compared.period
    values = (
        invoice.id, invoice.number or None, invoice.state, period.start, period.end, invoice.created_at, invoice.final_at,
        invoice.currency, invoice.total_minor, invoice.due_minor, invoice.paid_minor, invoice.tax_minor,
        invoice.discount_minor, invoice.balance_minor, invoice.credited_minor, compared.ours_minor,
        compared.unexplained_minor, invoice.page_url or None, invoice.pdf_url or None,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def whole(compared: Compared) -> dict[str, Any]:
    """An invoice with its lines and with what Stripe's total has besides ours."""
    return {
        **row(compared),
        "is_settled": compared.is_settled,
        "lines": [_item(item) for item in compared.items],
        "differences": [
            {"kind": one.kind, "amount_minor": one.amount_minor, "units": one.units} for one in compared.differences
        ],
    }


def _item(item: invoices.Item) -> dict[str, Any]:
    line, period = item.line, item.period
    return {
        "kind": item.kind,
        "description": line.description,
        "period": {
            "start": period.start if period else line.period.start,
            "end": period.end if period else line.period.end,
        },
        "quantity": line.quantity,
        "unit_price_minor": None if line.unit_price_minor is None else plain(line.unit_price_minor),
        "amount_minor": line.amount_minor,
    }


def every_row(account: Account) -> Iterator[list[Any]]:
    """All of the account's invoices as rows of a file, the newest first, read a page at a time."""
    first = 0
    while found := invoices.of_account(account=account, first=first, count=A_PAGE):
        yield from (list(row(compared).values()) for compared in found)
        first += A_PAGE


# -- The next invoice ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Next:
    """What comes on top of the priced period, for the next invoice."""

    additions: tuple[next_invoice.Addition, ...]

    @property
    def amount_minor(self) -> int:
        return sum(one.amount_minor for one in self.additions)


def preview(*, account: Account, statement: Statement) -> dict[str, Any]:
    """The running period's invoice so far, and as projected. Before tax."""
    more = Next(next_invoice.additions(account=account, statement=statement))
    projected = statement.projected or (None, None, None)
    names = ("low", "likely", "high")
    return {
        "tenant": account.tenant.slug,
        "plan": account.plan_version.plan.code,
        "period": {"start": statement.period.start, "end": statement.period.end},
        "as_of": statement.as_of,
        "sent_to": statement.sent_to,
        "currency": statement.invoice.currency,
        "so_far": _priced(statement.invoice, more),
        "projected": {name: _priced(one, more) for name, one in zip(names, projected, strict=True)},
        "additions": [
            {"kind": one.kind, "amount_minor": one.amount_minor, "description": one.description or None}
            for one in more.additions
        ],
    }


def _priced(invoice: pricing.Invoice | None, more: Next) -> dict[str, Any] | None:
    if invoice is None:
        return None
    return {
        "calls": invoice.quantity,
        "lines": [line(one) for one in invoice.lines],
        "additions_minor": more.amount_minor,
        "total_minor": invoice.total_minor + more.amount_minor,
    }


def line(one: pricing.Line) -> dict[str, Any]:
    """A row of an estimate; the unit price is text, so that none of its digits is lost."""
    return {
        "kind": one.kind,
        "quantity": one.quantity,
        "unit_price_minor": plain(one.unit_price_minor),
        "amount_minor": one.amount_minor,
    }


# -- Why -------------------------------------------------------------------------------------------------------------------
def explanation(account: Account, found: explain.PeriodExplained) -> dict[str, Any]:
    """A period explained: every line down to days, capabilities and keys."""
    explained = found.explanation
    return {
        "tenant": account.tenant.slug,
        "plan": found.version.plan.code,
        "because": found.because,
        "period": {"start": found.period.start, "end": found.period.end},
        "is_over": found.is_over,
        "currency": explained.currency,
        "units": explained.units,
        "not_priced_units": explained.not_priced,
        "total_minor": explained.total_minor,
        "lines": [_explained(one, found.names) for one in explained.lines],
        "corrections": [
            {
                "id": str(made.id),
                "kind": made.kind,
                "occurred_at": made.occurred_at,
                "units": made.units,
                "reason": made.reason,
            }
            for made in found.corrections
        ],
    }


def _explained(one: explain.Line, names: explain.Names) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "quantity": one.quantity,
        "first": one.first,
        "last": one.last,
        "unit_price_minor": plain(one.unit_price_minor),
        "exact_minor": plain(one.exact_minor),
        "rounding_minor": plain(one.rounding_minor),
        "amount_minor": one.amount_minor,
        "parts": [
            {
                "day": f"{part.day:%Y-%m-%d}", "capability": part.capability,
                "project": names.slugs.get(part.project_id), "key": names.prefixes.get(part.key_id),
                "units": part.units, "exact_minor": plain(part.exact_minor),
            }
            for part in one.parts
        ],
    }  # fmt: skip


def plain(amount: Decimal) -> str:
    """Without an exponent and without zeros that say nothing."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
