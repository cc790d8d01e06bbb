"""What Stripe's events are told in: the texts of the mails about payments. They say what, how much, until when, and where."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from .models import Account
from .stripe_objects import OpenInvoice

# ISO 4217, as Stripe charges them.
WHOLE = frozenset(
    {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "ugx", "vnd", "vuv", "xaf", "xof", "xpf"}
)
THOUSANDTHS = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})


@dataclass(frozen=True, slots=True)
class Letter:
    """A mail before anybody is told. `kind` and `key` make it once."""

    kind: str
    key: str
    title: str
    text: str


def payment_failed(*, invoice: OpenInvoice, restricted_at: datetime | None) -> Letter:
    """Each failed try is told once, with the next one and the day on which calls would be refused."""
    due = money(invoice.due_minor, invoice.currency)
    lines = [f"The payment of {due} for {_named(invoice)} has failed."]
    if invoice.next_attempt_at:
        lines.append(f"It is tried again on {_day(invoice.next_attempt_at)}.")
    else:
        lines.append("It is not tried again by itself: please pay it.")
    if restricted_at:
        lines.append(
            f"Your calls are served until {_day(restricted_at)}. From then on they are refused until it is paid."
        )
    lines.append(_pay(invoice))
    return Letter("payment.failed", f"{invoice.id}:{invoice.attempts}", f"A payment of {due} has failed", _text(lines))


def payment_action_required(*, invoice: OpenInvoice) -> Letter:
    due = money(invoice.due_minor, invoice.currency)
    lines = [f"Your bank asks you to confirm the payment of {due} for {_named(invoice)}.", _pay(invoice)]
    return Letter("payment.action_required", invoice.id, f"Please confirm a payment of {due}", _text(lines))


def payment_recovered(*, invoice: Mapping[str, Any]) -> Letter:
    paid = money(invoice["amount_paid"], invoice["currency"])
    lines = [
        f"Invoice {invoice.get('number') or invoice['id']} of {paid}, whose payment had failed, is paid. Thank you."
    ]
    return Letter("payment.recovered", invoice["id"], f"{paid} paid: all is well again", _text(lines))


def payment_refunded(*, charge: Mapping[str, Any]) -> Letter:
    """A charge may be refunded in parts: each total is told."""
    back, of = (money(charge[name], charge["currency"]) for name in ("amount_refunded", "amount"))
    lines = [f"Of your payment of {of}, {back} have been refunded in all. Banks take up to ten days to show it."]
    return Letter("payment.refunded", f"{charge['id']}:{charge['amount_refunded']}", f"{back} refunded", _text(lines))


def payment_disputed(*, dispute: Mapping[str, Any]) -> Letter:
    amount = money(dispute["amount"], dispute["currency"])
    lines = [
        f"Your bank has taken back a payment of {amount}, because somebody disputed it.",
        "If that was a mistake, please tell your bank and write to us; if not, please write to us, too: we will settle it.",
    ]
    return Letter("payment.disputed", dispute["id"], f"A payment of {amount} is disputed", _text(lines))


def trial_ending(*, account: Account, ends_at: datetime) -> Letter:
    plan = account.plan_version.plan.name
    lines = [
        f"Your trial of {plan} ends on {_day(ends_at)}. The plan's fee is charged then.",
        "If you do not want to go on, cancel before: the plan page has a button for it.",
    ]
    title = f"Your trial of {plan} ends on {ends_at:%d %B}"
    return Letter("trial.ending", f"{account.subscription_id}:{ends_at:%Y-%m-%d}", title, _text(lines))


def money(amount_minor: int, currency: str) -> str:
    """Whole minor units as mails write them: 1,234.50 USD."""
    code = currency.lower()
    places = 0 if code in WHOLE else 3 if code in THOUSANDTHS else 2
    return f"{Decimal(amount_minor).scaleb(-places):,.{places}f} {code.upper()}"


def _named(invoice: OpenInvoice) -> str:
    return f"invoice {invoice.number or invoice.id} of {invoice.created_at:%d %B %Y}"


def _pay(invoice: OpenInvoice) -> str:
    return f"To pay it, or with another card:\n{invoice.pay_url}" if invoice.pay_url else "The plan page leads to it."


def _day(at: datetime) -> str:
    return f"{at:%d %B %Y, %H:%M} (UTC)"


def _text(lines: list[str]) -> str:
    return "\n\n".join(lines)
