"""Credit notes: less to pay on an open invoice; a refund or credit for a paid one."""

from . import collection, lists, payments, refunds
from .errors import Json, refused
from .parameters import INTEGER, METADATA, RANGE, TEXT, merged_metadata, one_of
from .routes import in_range, paged, route
from .world import World, listing

REASONS = one_of("duplicate", "fraudulent", "order_change", "product_unsatisfactory")
LINE: Json = {
    "amount": INTEGER,
    "description": TEXT,
    "invoice_line_item": TEXT,
    "quantity": INTEGER,
    "type!": one_of("custom_line_item", "invoice_line_item"),
    "unit_amount": INTEGER,
}
CREATE: Json = {
    "amount": INTEGER,
    "credit_amount": INTEGER,
    "email_type": one_of("credit_note", "none"),
    "invoice!": TEXT,
    "lines": [LINE],
    "memo": TEXT,
    "metadata": METADATA,
    "out_of_band_amount": INTEGER,
    "reason": REASONS,
    "refund_amount": INTEGER,
}


@route("POST", "/v1/credit_notes", CREATE)
def create(world: World, params: Json) -> Json:
    invoice = world.load("invoice", params["invoice"], param="invoice")
    note = _note(world, invoice, params)
    if invoice["status"] == "open":
        _reduce(world, invoice, note["amount"])
    else:
        _give_back(world, invoice, note, params)
    world.add(note, "credit_note.created")
    return note


@route("POST", "/v1/credit_notes/{note}", {"memo": TEXT, "metadata": METADATA})
def update(world: World, params: Json, note: str) -> Json:
    found = world.load("credit_note", note)
    metadata = merged_metadata(found["metadata"], params.get("metadata", found["metadata"]))
    return world.change(found, "credit_note.updated", memo=params.get("memo", found["memo"]), metadata=metadata)


@route("GET", "/v1/credit_notes/preview", CREATE)
def preview(world: World, params: Json) -> Json:
    return _note(world, world.load("invoice", params["invoice"], param="invoice"), params)


def _note(world: World, invoice: Json, params: Json) -> Json:
    """The credit note, not saved; raises StripeError when it is more than the invoice allows."""
    if invoice["status"] not in {"open", "paid"}:
        raise refused("You can only create credit notes for open or paid invoices.", param="invoice")
    lines = [_line(world, invoice, given) for given in params.get("lines") or []]
    amount = sum(one["amount"] for one in lines) if lines else params.get("amount")
    if not amount or amount < 0:
        raise refused("Pass a positive `amount` or `lines`.", param="amount")
    if not lines:
        lines = [_line(world, invoice, {"type": "custom_line_item", "description": "Credit", "amount": amount})]
    notes = [one for one in world.all("credit_note", parent=invoice["id"]) if one["status"] == "issued"]
    before = sum(one["amount"] for one in notes)
    most = invoice["amount_remaining"] if invoice["status"] == "open" else invoice["total"] - before
    if amount > most:
        raise refused(f"The credit note of {amount} is more than the {most} that can be credited.", param="amount")
    is_open = invoice["status"] == "open"
    identifier = world.new_id("cn")
    return {
        "id": identifier,
        "object": "credit_note",
        "amount": amount,
        "amount_shipping": 0,
        "created": world.now,
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "customer_balance_transaction": None,
        "discount_amount": 0,
        "discount_amounts": [],
        "effective_at": world.now,
        "invoice": invoice["id"],
        "lines": listing(f"/v1/credit_notes/{identifier}/lines", lines),
        "livemode": False,
        "memo": params.get("memo"),
        "metadata": params.get("metadata") or {},
        "number": f"{invoice['number']}-CN-{len(world.all('credit_note', parent=invoice['id'])) + 1:02d}",
        "out_of_band_amount": params.get("out_of_band_amount"),
        "pdf": f"{world.settings.url}/i/{invoice['id']}/pdf",
        "post_payment_amount": 0 if is_open else amount,
        "pre_payment_amount": amount if is_open else 0,
        "pretax_credit_amounts": [],
        "reason": params.get("reason"),
        "refunds": [],
        "shipping_cost": None,
        "status": "issued",
        "subtotal": amount,
        "subtotal_excluding_tax": amount,
        "total": amount,
        "total_excluding_tax": amount,
        "total_taxes": [],
        "type": "pre_payment" if is_open else "post_payment",
        "voided_at": None,
    }


def _line(world: World, invoice: Json, given: Json) -> Json:
    source = None
    if given["type"] == "invoice_line_item":
        rows = invoice["lines"]["data"]
        source = next((one for one in rows if one["id"] == given.get("invoice_line_item")), None)
        if source is None:
            raise refused("The invoice has no such line.", param="lines[invoice_line_item]")
    quantity, unit = given.get("quantity"), given.get("unit_amount")
    amount = given.get("amount")
    if amount is None:
        amount = (quantity or 1) * unit if unit is not None else (source or {}).get("amount")
    if amount is None:
        raise refused("A line needs an `amount`, or `quantity` and `unit_amount`.", param="lines[amount]")
    return {
        "id": world.new_id("cnli"),
        "object": "credit_note_line_item",
        "amount": amount,
        "description": given.get("description") or (source or {}).get("description"),
        "discount_amount": 0,
        "discount_amounts": [],
        **({"invoice_line_item": source["id"]} if source else {}),
        "livemode": False,
        "metadata": {},
        "pretax_credit_amounts": [],
        "quantity": quantity,
        "tax_rates": [],
        "taxes": [],
        "type": given["type"],
        "unit_amount": unit,
        "unit_amount_decimal": None if unit is None else str(unit),
    }


def _reduce(world: World, invoice: Json, amount: int) -> None:
    """Less remains to be paid; nothing left means paid."""
    left = invoice["amount_remaining"] - amount
    credited = invoice["pre_payment_credit_notes_amount"] + amount
    world.change(invoice, "invoice.updated", amount_remaining=left, pre_payment_credit_notes_amount=credited)
    intent = payments.intent_of(world, invoice)
    if intent:
        world.change(intent, None, amount=left)
    if left == 0:
        payments.cancel(world, invoice)
        collection.settled(world, invoice, amount=0)


def _give_back(world: World, invoice: Json, note: Json, params: Json) -> None:
    """Refunded, credited to the customer's balance, or given back elsewhere: together the whole amount."""
    refund, credit = params.get("refund_amount") or 0, params.get("credit_amount") or 0
    if refund + credit + (params.get("out_of_band_amount") or 0) != note["amount"]:
        message = "The sum of credit amount, refund amount and out of band amount must equal the credit note amount"
        raise refused(f"{message} ({note['amount']}).", param="refund_amount")
    if refund:
        intent = payments.intent_of(world, invoice)
        if intent is None or not intent["latest_charge"]:
            raise refused("The invoice has no charge to refund.", param="refund_amount")
        charge = world.load("charge", intent["latest_charge"])
        made = refunds.refund_charge(world, charge, amount=refund)
        note["refunds"] = [{"amount_refunded": refund, "refund": made["id"]}]
    if credit:
        customer = world.load("customer", invoice["customer"])
        world.change(customer, "customer.updated", balance=customer["balance"] - credit)
    credited = invoice["post_payment_credit_notes_amount"] + note["amount"]
    world.change(invoice, "invoice.updated", post_payment_credit_notes_amount=credited)


@route("GET", "/v1/credit_notes", paged({"created": RANGE, "customer": TEXT, "invoice": TEXT}))
def index(world: World, params: Json) -> Json:
    found = (
        one
        for one in world.walk("credit_note", customer=params.get("customer"), parent=params.get("invoice"))
        if in_range(one["created"], params.get("created"))
    )
    return lists.page(world, params, "/v1/credit_notes", found)


@route("GET", "/v1/credit_notes/{note}")
def retrieve(world: World, params: Json, note: str) -> Json:
    return world.load("credit_note", note)


@route("GET", "/v1/credit_notes/{note}/lines", paged())
def lines(world: World, params: Json, note: str) -> Json:
    found = world.load("credit_note", note)
    return lists.page(world, params, f"/v1/credit_notes/{note}/lines", found["lines"]["data"])


@route("POST", "/v1/credit_notes/{note}/void")
def void(world: World, params: Json, note: str) -> Json:
    found = world.load("credit_note", note)
    invoice = world.load("invoice", found["invoice"])
    if found["status"] == "void" or invoice["status"] != "open":
        raise refused("You can only void issued credit notes of open invoices.")
    amount = found["amount"]
    world.change(
        invoice, "invoice.updated", amount_remaining=invoice["amount_remaining"] + amount,
        pre_payment_credit_notes_amount=invoice["pre_payment_credit_notes_amount"] - amount,
    )  # fmt: skip
    world.change(found, None, status="void", voided_at=world.now)
    world.emit("credit_note.voided", found)
    return found
