"""Stripe's objects as the rest of the product sees them: frozen, with aware UTC instants and whole minor units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

Json = Mapping[str, Any]

LIVE_STATUSES = ("trialing", "active", "past_due", "unpaid", "paused")


@dataclass(frozen=True, slots=True)
class Item:
    """One price that a subscription is on. `created_at` is when it joined; its period may have begun before."""

    id: str
    price_id: str
    created_at: datetime
    period_start: datetime
    period_end: datetime


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription as Stripe has it now."""

    id: str
    customer_id: str
    status: str
    items: tuple[Item, ...]
    anchor: datetime
    currency: str
    trial_ends_at: datetime | None
    cancels_at: datetime | None
    schedule_id: str
    latest_invoice_id: str
    metadata: Mapping[str, str]
    started_at: datetime
    ended_at: datetime | None

    @property
    def is_live(self) -> bool:
        """Whether it gives a right to the plan, paid or not yet paid."""
        return self.status in LIVE_STATUSES

    @property
    def price_ids(self) -> frozenset[str]:
        return frozenset(item.price_id for item in self.items)


@dataclass(frozen=True, slots=True)
class PreviewLine:
    """One line of an invoice that does not exist yet; negative for unused time."""

    description: str
    amount_minor: int
    is_proration: bool


@dataclass(frozen=True, slots=True)
class Preview:
    """What Stripe would invoice. `proration_at` is the instant it was computed for, where there is one."""

    currency: str
    due_minor: int
    lines: tuple[PreviewLine, ...]
    proration_at: datetime | None


@dataclass(frozen=True, slots=True)
class Checkout:
    """A page of Stripe on which a customer pays or leaves a card. `status` is open, complete or expired."""

    id: str
    url: str
    status: str
    customer_id: str
    subscription_id: str
    currency: str = ""
    metadata: Mapping[str, str] | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class OpenInvoice:
    """An invoice that is not paid. `due_since` is when it was made final, from when on payment was tried."""

    id: str
    number: str
    due_minor: int
    currency: str
    created_at: datetime
    next_attempt_at: datetime | None
    attempts: int
    pay_url: str
    subscription_id: str
    due_since: datetime


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """One line of an invoice for a price, from `start` to `end`. `final_at` is None while the invoice is a draft."""

    invoice_id: str
    number: str
    final_at: datetime | None
    price_id: str
    quantity: int
    amount_minor: int
    currency: str
    start: datetime
    end: datetime
    metadata: Mapping[str, str]
    subscription_id: str  # with the item's id: of a subscription's own lines
    item_id: str
    is_proration: bool


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at Stripe; what it means is read from the object's present state."""

    id: str
    type: str
    created_at: datetime
    object_id: str
    customer_id: str
    is_live: bool
    body: dict[str, Any]


def instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def instant_or_none(seconds: int | None) -> datetime | None:
    return None if seconds is None else instant(seconds)


def id_of(reference: Any) -> str:
    """The id behind a field that holds an id, the expanded object or nothing."""
    if isinstance(reference, Mapping):
        reference = reference.get("id")
    return str(reference or "")


def read_item(body: Json) -> Item:
    return Item(
        id=body["id"],
        price_id=id_of(body["price"]),
        created_at=instant(body["created"]),
        period_start=instant(body["current_period_start"]),
        period_end=instant(body["current_period_end"]),
    )


def read_subscription(body: Json) -> Subscription:
    items = tuple(read_item(item) for item in body["items"]["data"])
    cancels_at = instant_or_none(body.get("cancel_at"))
    if cancels_at is None and body.get("cancel_at_period_end"):
        cancels_at = min(item.period_end for item in items)
    return Subscription(
        id=body["id"],
        customer_id=id_of(body["customer"]),
        status=body["status"],
        items=items,
        anchor=instant(body["billing_cycle_anchor"]),
        currency=body["currency"],
        trial_ends_at=instant_or_none(body.get("trial_end")),
        cancels_at=cancels_at,
        schedule_id=id_of(body.get("schedule")),
        latest_invoice_id=id_of(body.get("latest_invoice")),
        metadata=dict(body.get("metadata") or {}),
        started_at=instant(body["start_date"]),
        ended_at=instant_or_none(body.get("ended_at")),
    )


def read_preview(body: Json, lines: Sequence[Json], *, proration_at: datetime | None) -> Preview:
    return Preview(
        currency=body["currency"],
        due_minor=int(body["amount_due"]),
        lines=tuple(
            PreviewLine(line.get("description") or "", int(line["amount"]), _is_proration(line)) for line in lines
        ),
        proration_at=proration_at,
    )


def _is_proration(line: Json) -> bool:
    parent = line.get("parent") or {}
    details = parent.get("subscription_item_details") or parent.get("invoice_item_details") or {}
    return bool(details.get("proration"))


def read_checkout(body: Json) -> Checkout:
    return Checkout(
        id=body["id"],
        url=body.get("url") or "",
        status=body.get("status") or "",
        customer_id=id_of(body.get("customer")),
        subscription_id=id_of(body.get("subscription")),
        currency=body.get("currency") or "",
        metadata=dict(body.get("metadata") or {}),
        expires_at=instant_or_none(body.get("expires_at")),
    )


def read_open_invoice(body: Json) -> OpenInvoice:
    created_at = instant(body["created"])
    finalized_at = (body.get("status_transitions") or {}).get("finalized_at")
    return OpenInvoice(
        id=body["id"],
        number=body.get("number") or "",
        due_minor=int(body["amount_remaining"]),
        currency=body["currency"],
        created_at=created_at,
        next_attempt_at=instant_or_none(body.get("next_payment_attempt")),
        attempts=int(body.get("attempt_count") or 0),
        pay_url=body.get("hosted_invoice_url") or "",
        subscription_id=invoice_subscription_id(body),
        due_since=instant_or_none(finalized_at) or created_at,
    )


def invoice_subscription_id(body: Json) -> str:
    details = (body.get("parent") or {}).get("subscription_details") or {}
    return id_of(details.get("subscription"))


def read_invoice_line(invoice: Json, line: Json) -> InvoiceLine:
    is_draft = invoice["status"] == "draft"
    final_at = (invoice.get("status_transitions") or {}).get("finalized_at") or invoice["created"]
    details = (line.get("parent") or {}).get("subscription_item_details") or {}
    return InvoiceLine(
        invoice_id=invoice["id"],
        number=invoice.get("number") or "",
        final_at=None if is_draft else instant(final_at),
        price_id=id_of(((line.get("pricing") or {}).get("price_details") or {}).get("price")),
        quantity=int(line.get("quantity") or 0),
        amount_minor=int(line["amount"]),
        currency=line["currency"],
        start=instant(line["period"]["start"]),
        end=instant(line["period"]["end"]),
        metadata=dict(line.get("metadata") or {}),
        subscription_id=id_of(details.get("subscription")),
        item_id=id_of(details.get("subscription_item")),
        is_proration=_is_proration(line),
    )


def read_event(body: Json) -> Event:
    """A snapshot event."""
    about = body["data"]["object"]
    is_customer = about.get("object") == "customer"
    return Event(
        id=body["id"],
        type=body["type"],
        created_at=instant(body["created"]),
        object_id=about.get("id") or "",
        customer_id=id_of(about.get("id") if is_customer else about.get("customer")),
        is_live=bool(body["livemode"]),
        body=dict(body),
    )


def read_thin_event(body: Json) -> Event:
    """A thin event: it names an object and says nothing of it. Its time is ISO 8601."""
    created = body["created"]
    return Event(
        id=body["id"],
        type=body["type"],
        created_at=datetime.fromisoformat(created) if isinstance(created, str) else instant(created),
        object_id=id_of(body.get("related_object")),
        customer_id="",
        is_live=bool(body["livemode"]),
        body=dict(body),
    )


@dataclass(frozen=True, slots=True)
class Meter:
    """What sums meter events of one name by customer."""

    id: str
    event_name: str
    formula: str


@dataclass(frozen=True, slots=True)
class Product:
    id: str
    name: str
    is_active: bool


@dataclass(frozen=True, slots=True)
class Tier:
    """Units up to a bound (None: all further ones) cost this each."""

    up_to: int | None
    unit_price_minor: Decimal


@dataclass(frozen=True, slots=True)
class Price:
    """A monthly price. `terms` by currency: one tier is a licensed fee; with a meter they are graduated steps of usage."""

    id: str
    lookup_key: str
    product_id: str
    meter_id: str
    terms: Mapping[str, tuple[Tier, ...]]


def read_meter(body: Json) -> Meter:
    return Meter(body["id"], body["event_name"], body["default_aggregation"]["formula"])


def read_product(body: Json) -> Product:
    return Product(body["id"], body.get("name") or "", bool(body.get("active")))


def read_price(body: Json) -> Price:
    options = {name: _tiers(option) for name, option in (body.get("currency_options") or {}).items()}
    return Price(
        id=body["id"],
        lookup_key=body.get("lookup_key") or "",
        product_id=id_of(body["product"]),
        meter_id=(body.get("recurring") or {}).get("meter") or "",
        terms={**options, body["currency"]: _tiers(body)},
    )


def _tiers(body: Json) -> tuple[Tier, ...]:
    if body.get("tiers") is not None:
        return tuple(Tier(tier.get("up_to"), _amount(tier)) for tier in body["tiers"])
    return (Tier(None, _amount(body)),)


def _amount(body: Json) -> Decimal:
    """Minor units, exact; Stripe gives whole ones in either field, others as text only."""
    exact = body.get("unit_amount_decimal")
    return Decimal(str(exact if exact is not None else body.get("unit_amount") or 0))
