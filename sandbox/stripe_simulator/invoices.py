"""Invoices as objects: made as drafts, changed, listed."""

from . import customers, invoice_items, lists, timers
from .account import NAME
from .errors import Json, refused
from .invoice_lines import recount, total_up
from .parameters import BOOLEAN, INTEGER, METADATA, RANGE, TEXT, chosen, merged_metadata, one_of
from .routes import in_range, paged, route
from .world import World, listing, subscription_of

METHODS = one_of("charge_automatically", "send_invoice")
STATUSES = one_of("draft", "open", "paid", "uncollectible", "void")


def new(
    world: World, customer: Json, subscription: Json | None, *, reason: str, lines: list[Json], start: int, end: int
) -> Json:
    """A draft that is not saved: totals are right, nothing else has happened."""
    currency = subscription["currency"] if subscription else customer["currency"] or world.settings.currency
    identifier = world.new_id("in")
    invoice = {
        "id": identifier,
        "object": "invoice",
        "account_country": world.settings.country,
        "account_name": NAME,
        "account_tax_ids": None,
        "amount_due": 0,
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_remaining": 0,
        "amount_shipping": 0,
        "application": None,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": True,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None, "provider": None, "status": None},
        "automatically_finalizes_at": None,
        "billing_reason": reason,
        "collection_method": (subscription or {}).get("collection_method", "charge_automatically"),
        "created": world.now,
        "currency": currency,
        "custom_fields": None,
        "customer": customer["id"],
        **_snapshot(world, customer),
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": _discounts(world, customer, subscription),
        "due_date": _due(world, subscription),
        "effective_at": None,
        "ending_balance": None,
        "footer": customer["invoice_settings"]["footer"],
        "from_invoice": None,
        "hosted_invoice_url": None,
        "invoice_pdf": None,
        "issuer": {"type": "self"},
        "last_finalization_error": None,
        "latest_revision": None,
        "lines": listing(f"/v1/invoices/{identifier}/lines", lines),
        "livemode": False,
        "metadata": {},
        "next_payment_attempt": None,
        "number": None,
        "on_behalf_of": None,
        "parent": _parent(subscription),
        "payment_settings": {"default_mandate": None, "payment_method_options": None, "payment_method_types": None},
        "period_end": end,
        "period_start": start,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "receipt_number": None,
        "rendering": None,
        "shipping_cost": None,
        "shipping_details": None,
        "starting_balance": 0,
        "statement_descriptor": None,
        "status": "draft",
        "status_transitions": {
            "finalized_at": None, "marked_uncollectible_at": None, "paid_at": None, "voided_at": None,
        },
        "subtotal": 0,
        "subtotal_excluding_tax": 0,
        "test_clock": None,
        "total": 0,
        "total_discount_amounts": [],
        "total_excluding_tax": 0,
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
        "webhooks_delivered_at": None,
    }  # fmt: skip
    total_up(world, invoice, customer["balance"])
    return invoice


def _snapshot(world: World, customer: Json) -> Json:
    """The customer as the invoice shows them."""
    tax_ids = [{"type": one["type"], "value": one["value"]} for one in world.walk("tax_id", customer=customer["id"])]
    return {
        "customer_address": customer["address"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_phone": customer["phone"],
        "customer_shipping": customer["shipping"],
        "customer_tax_exempt": customer["tax_exempt"],
        "customer_tax_ids": tax_ids,
    }


def _parent(subscription: Json | None) -> Json | None:
    if subscription is None:
        return None
    details = {"metadata": dict(subscription["metadata"]), "subscription": subscription["id"]}
    return {"quote_details": None, "subscription_details": details, "type": "subscription_details"}


def _discounts(world: World, customer: Json, subscription: Json | None) -> list[str]:
    """Discounts that still take something off."""
    found = [world.find("discount", one) for one in (subscription or {}).get("discounts", [])]
    return [one["id"] for one in found if one and not one["_is_spent"] and (one["end"] or world.now + 1) > world.now]


def _due(world: World, subscription: Json | None) -> int | None:
    if subscription is None or subscription["collection_method"] != "send_invoice":
        return None
    return world.now + 86_400 * (subscription["days_until_due"] or 30)


def save_draft(world: World, invoice: Json, *, finalizes_in: int | None) -> Json:
    """The draft exists; it becomes final by itself after so many seconds (None: never)."""
    if finalizes_in is None:
        invoice["auto_advance"] = False
    else:
        invoice["automatically_finalizes_at"] = world.now + finalizes_in
        timers.schedule(world, "finalize", invoice["id"], world.now + finalizes_in)
    world.add(invoice, "invoice.created")
    if subscription := subscription_of(invoice):
        found = world.load("subscription", subscription)
        world.change(found, None, latest_invoice=invoice["id"])
    return invoice


@route(
    "POST",
    "/v1/invoices",
    {
        "auto_advance": BOOLEAN, "collection_method": METHODS, "currency": TEXT, "customer": TEXT,
        "days_until_due": INTEGER, "default_payment_method": TEXT, "description": TEXT, "footer": TEXT,
        "metadata": METADATA, "pending_invoice_items_behavior": one_of("exclude", "include"), "subscription": TEXT,
    },
)  # fmt: skip
def create(world: World, params: Json) -> Json:
    subscription = None
    if params.get("subscription"):
        subscription = world.load("subscription", params["subscription"], param="subscription")
    identifier = params.get("customer") or (subscription or {}).get("customer")
    if not identifier:
        raise refused("Missing required param: customer.", param="customer", code="parameter_missing")
    customer = customers.living(world, identifier, param="customer")
    is_taking = params.get("pending_invoice_items_behavior") == "include" or subscription is not None
    pending = invoice_items.pending(world, customer["id"], subscription["id"] if subscription else None)
    lines = invoice_items.as_lines(world, pending) if is_taking else []
    if subscription and not lines:
        raise refused("Nothing to invoice for subscription", code="invoice_no_subscription_line_items")
    invoice = new(world, customer, subscription, reason="manual", lines=lines, start=world.now, end=world.now)
    invoice |= chosen(params, "description", "footer", "default_payment_method")
    invoice["metadata"] = params.get("metadata") or {}
    invoice["currency"] = params.get("currency") or invoice["currency"]
    invoice["collection_method"] = params.get("collection_method") or invoice["collection_method"]
    if days := params.get("days_until_due"):
        invoice["due_date"] = world.now + 86_400 * days
    save_draft(world, invoice, finalizes_in=world.settings.draft_seconds if params.get("auto_advance") else None)
    if is_taking:
        invoice_items.bind(world, pending, invoice["id"])
    return invoice


@route(
    "GET",
    "/v1/invoices",
    paged({
        "collection_method": METHODS, "created": RANGE, "customer": TEXT, "due_date": RANGE, "status": STATUSES,
        "subscription": TEXT,
    }),
)  # fmt: skip
def index(world: World, params: Json) -> Json:
    found = (
        trimmed(one)
        for one in world.walk("invoice", customer=params.get("customer"), parent=params.get("subscription"))
        if in_range(one["created"], params.get("created"))
        and in_range(one["due_date"], params.get("due_date"))
        and all(params.get(name, one[name]) == one[name] for name in ("status", "collection_method"))
    )
    return lists.page(world, params, "/v1/invoices", found)


def trimmed(invoice: Json) -> Json:
    """The invoice with its first lines only, as the API embeds them."""
    data = invoice["lines"]["data"]
    if len(data) <= lists.DEFAULT_LIMIT:
        return invoice
    lines = {**invoice["lines"], "data": data[: lists.DEFAULT_LIMIT], "has_more": True}
    return {**invoice, "lines": lines}


@route("GET", "/v1/invoices/{invoice}")
def retrieve(world: World, params: Json, invoice: str) -> Json:
    found = world.load("invoice", invoice)
    refresh(world, found)
    return trimmed(found)


def refresh(world: World, invoice: Json) -> None:
    """A draft shows the usage that has arrived so far."""
    if invoice["status"] == "draft" and recount(world, invoice):
        retotal(world, invoice)
        world.save(invoice)


def retotal(world: World, invoice: Json) -> None:
    total_up(world, invoice, world.load("customer", invoice["customer"])["balance"])


@route("GET", "/v1/invoices/{invoice}/lines", paged())
def lines(world: World, params: Json, invoice: str) -> Json:
    found = world.load("invoice", invoice)
    refresh(world, found)
    return lists.page(world, params, f"/v1/invoices/{invoice}/lines", found["lines"]["data"])


@route(
    "POST",
    "/v1/invoices/{invoice}",
    {
        "auto_advance": BOOLEAN, "collection_method": METHODS, "days_until_due": INTEGER,
        "default_payment_method": TEXT, "description": TEXT, "footer": TEXT, "metadata": METADATA,
    },
)  # fmt: skip
def update(world: World, params: Json, invoice: str) -> Json:
    found = world.load("invoice", invoice)
    fields = {name: value for name, value in params.items() if name not in {"expand", "metadata", "days_until_due"}}
    if "metadata" in params:
        fields["metadata"] = merged_metadata(found["metadata"], params["metadata"])
    if days := params.get("days_until_due"):
        fields["due_date"] = world.now + 86_400 * days
    if found["status"] != "draft" and set(fields) - {"auto_advance", "metadata", "default_payment_method"}:
        raise refused("Finalized invoices can't be updated in this way", code="invoice_not_editable")
    if found["status"] == "draft" and "auto_advance" in fields:
        if fields["auto_advance"]:
            fields["automatically_finalizes_at"] = world.now + world.settings.draft_seconds
            timers.schedule(world, "finalize", invoice, fields["automatically_finalizes_at"])
        else:
            fields["automatically_finalizes_at"] = None
            timers.cancel(world, "finalize", invoice)
    return world.change(found, "invoice.updated", **fields)


@route("DELETE", "/v1/invoices/{invoice}")
def delete(world: World, params: Json, invoice: str) -> Json:
    found = world.load("invoice", invoice)
    if found["status"] != "draft" or found["parent"]:
        raise refused("You can only delete draft invoices that belong to no subscription.", code="invoice_not_editable")
    for one in world.all("invoiceitem", parent=invoice):
        world.forget(one["id"])
    timers.cancel(world, "finalize", invoice)
    world.forget(invoice)
    world.emit("invoice.deleted", found)
    return {"id": invoice, "object": "invoice", "deleted": True}
