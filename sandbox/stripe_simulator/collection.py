"""Invoices become final, are paid or not, and are tried again."""

from . import coupons, payment_methods, payments, standing, timers
from .errors import Json, declined, refused
from .invoice_lines import recount
from .invoices import retotal, trimmed
from .parameters import BOOLEAN, TEXT
from .routes import route
from .world import World, subscription_of

DAY = 86_400


def finalize(world: World, invoice: Json) -> Json:
    """The draft is final: usage counted for the last time, numbered, due. Nothing due means paid."""
    recount(world, invoice)
    for line in invoice["lines"]["data"]:
        if "_usage" in line:
            line["_usage"] = {**line["_usage"], "is_frozen": True}
    retotal(world, invoice)
    timers.cancel(world, "finalize", invoice["id"])
    customer = world.load("customer", invoice["customer"])
    _take_balance(world, invoice, customer)
    transitions = {**invoice["status_transitions"], "finalized_at": world.now}
    page = f"{world.settings.url}/i/{invoice['id']}"
    invoice |= {
        "status": "open",
        "number": f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04d}",
        "status_transitions": transitions,
        "effective_at": world.now,
        "automatically_finalizes_at": None,
        "hosted_invoice_url": page,
        "invoice_pdf": f"{page}/pdf",
    }
    world.change(customer, None, next_invoice_sequence=customer["next_invoice_sequence"] + 1)
    for identifier in invoice["discounts"]:
        coupons.use(world, world.load("discount", identifier))
    world.save(invoice)
    world.emit("invoice.finalized", invoice)
    if invoice["amount_due"] == 0:
        settled(world, invoice, amount=0)
    else:
        method = payment_methods.default_of(world, customer, subscription_for(world, invoice))
        payments.intent_for(world, invoice, method["id"] if method else None)
    return invoice


def _take_balance(world: World, invoice: Json, customer: Json) -> None:
    """Credit is used up first; a negative total becomes credit."""
    after = invoice["total"] + invoice["starting_balance"]
    left = min(0, after)
    invoice["ending_balance"] = left
    if left != customer["balance"]:
        world.change(customer, "customer.updated", balance=left)


def subscription_for(world: World, invoice: Json) -> Json | None:
    identifier = subscription_of(invoice)
    return world.find("subscription", identifier) if identifier else None


@timers.action("finalize", rank=3)
def _finalize_later(world: World, identifier: str) -> None:
    invoice = world.find("invoice", identifier)
    if invoice is None or invoice["status"] != "draft" or not invoice["auto_advance"]:
        return
    finalize(world, invoice)
    collect(world, invoice, is_on_session=False)


def collect(world: World, invoice: Json, *, is_on_session: bool, method: Json | None = None) -> str | None:
    """One attempt to be paid automatically; the decline code if it failed. Failures are tried again on later days."""
    if invoice["status"] != "open" or invoice["collection_method"] != "charge_automatically":
        return None
    problem = attempt(world, invoice, is_on_session=is_on_session, method=method)
    if problem is None:
        return None
    subscription = subscription_for(world, invoice)
    count = invoice["attempt_count"] + 1
    upcoming = _next_attempt(world, invoice, count)
    fields = {"attempt_count": count, "attempted": True, "next_payment_attempt": upcoming}
    world.change(invoice, None, **fields, auto_advance=upcoming is not None)
    if upcoming:
        timers.schedule(world, "collect", invoice["id"], upcoming)
    world.emit("invoice.payment_failed", invoice)
    world.emit("invoice.updated", invoice)
    _customer_owes(world, invoice, True)
    if subscription:
        standing.after_failure(world, subscription)
        if upcoming is None:
            standing.after_last_retry(world, subscription)
    return problem


def _next_attempt(world: World, invoice: Json, count: int) -> int | None:
    """Days 3, 5 and 7 after the first failure by default; a subscription's first invoice is not tried again."""
    first = invoice.get("_first_failure") or world.now
    invoice["_first_failure"] = first
    days = world.settings.retry_days
    if invoice["billing_reason"] == "subscription_create" or count > len(days):
        return None
    return int(first + days[count - 1] * DAY)


@timers.action("collect", rank=4)
def _collect_later(world: World, identifier: str) -> None:
    invoice = world.find("invoice", identifier)
    if invoice is not None and invoice["status"] == "open":
        collect(world, invoice, is_on_session=False)


def attempt(world: World, invoice: Json, *, is_on_session: bool, method: Json | None = None) -> str | None:
    """The card is charged; the decline code if it refuses ("no_payment_method": there is none)."""
    customer = world.load("customer", invoice["customer"])
    chosen = method or world.find("payment_method", invoice["default_payment_method"])
    card = chosen or payment_methods.default_of(world, customer, subscription_for(world, invoice))
    intent = payments.intent_of(world, invoice)
    if card is None or intent is None:
        return "no_payment_method"
    problem = payment_methods.refusal(card, is_on_session=is_on_session)
    payments.charge(world, intent, card, amount=invoice["amount_remaining"], decline_code=problem)
    if problem is None:
        settled(world, invoice, amount=invoice["amount_remaining"])
    return problem


def settled(world: World, invoice: Json, *, amount: int) -> None:
    """The invoice is paid, with this much money."""
    timers.cancel(world, "collect", invoice["id"])
    if amount:
        payments.mark_paid(world, invoice, amount=amount)
        invoice["attempt_count"] += 1
    invoice |= {
        "status": "paid",
        "amount_paid": invoice["amount_paid"] + amount,
        "amount_remaining": 0,
        "attempted": True,
        "auto_advance": False,
        "next_payment_attempt": None,
        "status_transitions": {**invoice["status_transitions"], "paid_at": world.now},
    }
    world.save(invoice)
    _customer_owes(world, invoice, False)
    world.emit("invoice.paid", invoice)
    world.emit("invoice.payment_succeeded", invoice)
    subscription = subscription_for(world, invoice)
    if subscription:
        standing.after_payment(world, subscription)


def _customer_owes(world: World, invoice: Json, owes: bool) -> None:
    customer = world.load("customer", invoice["customer"])
    currency = customer["currency"] or invoice["currency"]
    world.change(customer, "customer.updated", delinquent=owes, currency=currency)


def pay_now(world: World, invoice: Json, *, is_on_session: bool, method: Json | None = None) -> Json:
    """Someone asks for payment now; raises StripeError (402) when the card refuses, and the attempt stays recorded."""
    if invoice["status"] == "draft":
        finalize(world, invoice)
    if invoice["status"] == "paid":
        return invoice
    if invoice["status"] == "void":
        raise refused("Invoice is void.", code="invoice_not_open")
    problem = attempt(world, invoice, is_on_session=is_on_session, method=method)
    if problem == "no_payment_method":
        raise refused("There is no `default_payment_method` set on this Customer or Invoice. Please set one first.")
    if problem:
        world.change(invoice, None, attempted=True, attempt_count=max(1, invoice["attempt_count"]))
        world.emit("invoice.payment_failed", invoice)
        intent = payments.intent_of(world, invoice) or {}
        charge = intent.get("latest_charge")
        raise declined(payments.DECLINED, decline_code=problem, keeps_effect=True, charge=charge)
    return invoice


@route("POST", "/v1/invoices/{invoice}/finalize", {"auto_advance": BOOLEAN})
def finalize_now(world: World, params: Json, invoice: str) -> Json:
    found = world.load("invoice", invoice)
    if found["status"] != "draft":
        raise refused("This invoice is already finalized.", code="invoice_not_editable")
    finalize(world, found)
    if found["status"] == "open" and params.get("auto_advance", found["auto_advance"]):
        world.change(found, None, auto_advance=True)
        timers.schedule(world, "collect", invoice, world.now + world.settings.draft_seconds)
    return trimmed(found)


@route(
    "POST",
    "/v1/invoices/{invoice}/pay",
    {"off_session": BOOLEAN, "paid_out_of_band": BOOLEAN, "payment_method": TEXT, "forgive": BOOLEAN},
)
def pay(world: World, params: Json, invoice: str) -> Json:
    found = world.load("invoice", invoice)
    if found["status"] == "paid":
        raise refused("Invoice is already paid")
    method = None
    if params.get("payment_method"):
        method = payment_methods.resolve(world, params["payment_method"], param="payment_method")
    if params.get("paid_out_of_band"):
        return trimmed(_paid_elsewhere(world, found))
    is_on_session = not params.get("off_session", True)
    return trimmed(pay_now(world, found, is_on_session=is_on_session, method=method))


def _paid_elsewhere(world: World, invoice: Json) -> Json:
    if invoice["status"] == "draft":
        finalize(world, invoice)
    if invoice["status"] == "open":
        payments.cancel(world, invoice)
        settled(world, invoice, amount=0)
    return invoice


@route("POST", "/v1/invoices/{invoice}/void")
def void(world: World, params: Json, invoice: str) -> Json:
    return trimmed(void_invoice(world, world.load("invoice", invoice)))


def void_invoice(world: World, invoice: Json) -> Json:
    if invoice["status"] not in {"open", "uncollectible"}:
        raise refused(f"You can only pass in open invoices. This invoice is {invoice['status']}.")
    timers.cancel(world, "collect", invoice["id"])
    payments.cancel(world, invoice)
    transitions = {**invoice["status_transitions"], "voided_at": world.now}
    fields = {"status": "void", "amount_remaining": 0, "auto_advance": False, "next_payment_attempt": None}
    world.change(invoice, None, **fields, status_transitions=transitions)
    world.emit("invoice.voided", invoice)
    return invoice


@route("POST", "/v1/invoices/{invoice}/mark_uncollectible")
def mark_uncollectible(world: World, params: Json, invoice: str) -> Json:
    found = world.load("invoice", invoice)
    if found["status"] != "open":
        raise refused(f"You can only pass in open invoices. This invoice is {found['status']}.")
    timers.cancel(world, "collect", invoice)
    transitions = {**found["status_transitions"], "marked_uncollectible_at": world.now}
    fields = {"status": "uncollectible", "auto_advance": False, "next_payment_attempt": None}
    world.change(found, None, **fields, status_transitions=transitions)
    world.emit("invoice.marked_uncollectible", found)
    return trimmed(found)


@route("POST", "/v1/invoices/{invoice}/send")
def send(world: World, params: Json, invoice: str) -> Json:
    found = world.load("invoice", invoice)
    if found["status"] == "draft":
        finalize(world, found)
    world.emit("invoice.sent", found)
    return trimmed(found)
