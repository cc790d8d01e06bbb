"""Payment intents, charges and what is recorded of a payment on its invoice."""

from . import lists
from .errors import Json
from .parameters import RANGE, TEXT
from .routes import in_range, paged, route
from .world import World, listing

DECLINED = "Your card was declined."
NO_CARD = "There is no default payment method."


def intent_for(world: World, invoice: Json, method: str | None) -> Json:
    """The payment intent of an invoice, and the invoice payment that ties the two."""
    intent = {
        "id": world.new_id("pi"),
        "object": "payment_intent",
        "amount": invoice["amount_due"],
        "amount_capturable": 0,
        "amount_received": 0,
        "automatic_payment_methods": None,
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": "automatic",
        "client_secret": None,
        "confirmation_method": "automatic",
        "created": world.now,
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "description": f"Invoice {invoice['number']}",
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": {},
        "next_action": None,
        "payment_method": method,
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "processing": None,
        "receipt_email": None,
        "setup_future_usage": "off_session",
        "shipping": None,
        "statement_descriptor": None,
        "status": "requires_payment_method",
        "_invoice": invoice["id"],
    }
    intent["client_secret"] = f"{intent['id']}_secret_simulated"
    world.add(intent, "payment_intent.created")
    payment = {
        "id": world.new_id("inpay"),
        "object": "invoice_payment",
        "amount_paid": None,
        "amount_requested": invoice["amount_due"],
        "created": world.now,
        "currency": invoice["currency"],
        "invoice": invoice["id"],
        "is_default": True,
        "livemode": False,
        "payment": {"type": "payment_intent", "payment_intent": intent["id"]},
        "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None},
    }
    world.save(payment)
    return intent


def intent_of(world: World, invoice: Json) -> Json | None:
    """The payment intent of an invoice, if it has one."""
    for payment in world.all("invoice_payment", parent=invoice["id"]):
        if identifier := payment["payment"].get("payment_intent"):
            return world.load("payment_intent", identifier)
    return None


def charge(world: World, intent: Json, method: Json, *, amount: int, decline_code: str | None) -> Json:
    """The attempt to take the money: a charge that succeeded or failed, with its events."""
    card = method["card"]
    is_paid = decline_code is None
    made = {
        "id": world.new_id("ch"),
        "object": "charge",
        "amount": amount,
        "amount_captured": amount if is_paid else 0,
        "amount_refunded": 0,
        "balance_transaction": None,
        "billing_details": method["billing_details"],
        "calculated_statement_descriptor": "METERHOUSE",
        "captured": is_paid,
        "created": world.now,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "failure_balance_transaction": None,
        "failure_code": None if is_paid else "card_declined",
        "failure_message": None if is_paid else DECLINED,
        "fraud_details": {},
        "livemode": False,
        "metadata": {},
        "outcome": _outcome(decline_code),
        "paid": is_paid,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": {
            "type": "card",
            "card": {
                "amount_authorized": amount if is_paid else None,
                "brand": card["brand"],
                "checks": card["checks"],
                "country": card["country"],
                "exp_month": card["exp_month"],
                "exp_year": card["exp_year"],
                "fingerprint": card["fingerprint"],
                "funding": card["funding"],
                "installments": None,
                "last4": card["last4"],
                "mandate": None,
                "network": card["brand"],
                "three_d_secure": None,
                "wallet": None,
            },
        },
        "receipt_email": None,
        "receipt_number": None,
        "receipt_url": None,
        "refunded": False,
        "review": None,
        "shipping": None,
        "statement_descriptor": None,
        "status": "succeeded" if is_paid else "failed",
        "_invoice": intent["_invoice"],
    }
    world.add(made, "charge.succeeded" if is_paid else "charge.failed")
    _settle(world, intent, made, method, decline_code)
    return made


def _outcome(decline_code: str | None) -> Json:
    outcome: Json = {
        "network_status": "approved_by_network",
        "reason": None,
        "risk_level": "normal",
        "seller_message": "Payment complete.",
        "type": "authorized",
    }
    if decline_code:
        outcome |= {"network_status": "declined_by_network", "reason": decline_code, "type": "issuer_declined"}
        outcome["seller_message"] = "The bank did not return any further details with this decline."
    return outcome


def _settle(world: World, intent: Json, made: Json, method: Json, decline_code: str | None) -> None:
    if decline_code is None:
        fields: Json = {
            "amount_received": made["amount"], "last_payment_error": None, "payment_method": method["id"],
            "status": "succeeded",
        }  # fmt: skip
    else:
        fields = {"last_payment_error": failure(made, decline_code), "status": "requires_payment_method"}
    world.change(intent, None, latest_charge=made["id"], **fields)
    world.emit(f"payment_intent.{'succeeded' if decline_code is None else 'payment_failed'}", intent)


def failure(made: Json, decline_code: str) -> Json:
    """What the payment intent says of the last decline."""
    return {
        "charge": made["id"],
        "code": "card_declined",
        "decline_code": decline_code,
        "doc_url": "https://stripe.com/docs/error-codes/card-declined",
        "message": DECLINED,
        "type": "card_error",
    }


def mark_paid(world: World, invoice: Json, *, amount: int) -> None:
    """The invoice payment says that the money came."""
    for payment in world.all("invoice_payment", parent=invoice["id"]):
        if payment["status"] == "open":
            transitions = {"canceled_at": None, "paid_at": world.now}
            world.change(payment, None, status="paid", amount_paid=amount, status_transitions=transitions)
            world.emit("invoice_payment.paid", payment)


def cancel(world: World, invoice: Json) -> None:
    """Nothing will be paid any more: the invoice was voided or paid out of band."""
    intent = intent_of(world, invoice)
    if intent and intent["status"] not in {"succeeded", "canceled"}:
        world.change(
            intent,
            "payment_intent.canceled",
            status="canceled",
            canceled_at=world.now,
            cancellation_reason="void_invoice",
        )
    for payment in world.all("invoice_payment", parent=invoice["id"]):
        if payment["status"] == "open":
            transitions = {"canceled_at": world.now, "paid_at": None}
            world.change(payment, None, status="canceled", status_transitions=transitions)


@lists.included("invoice", "payments")
def _payments(world: World, invoice: Json) -> Json:
    found = world.all("invoice_payment", parent=invoice["id"])
    return listing(f"/v1/invoice_payments?invoice={invoice['id']}", found)


@lists.included("invoice", "confirmation_secret")
def _confirmation_secret(world: World, invoice: Json) -> Json | None:
    intent = intent_of(world, invoice)
    return {"client_secret": intent["client_secret"], "type": "payment_intent"} if intent else None


@route("GET", "/v1/invoice_payments", paged({"invoice": TEXT, "status": TEXT, "created": RANGE}))
def invoice_payments(world: World, params: Json) -> Json:
    found = (
        one
        for one in world.walk("invoice_payment", parent=params.get("invoice"))
        if params.get("status", one["status"]) == one["status"] and in_range(one["created"], params.get("created"))
    )
    return lists.page(world, params, "/v1/invoice_payments", found)


@route("GET", "/v1/invoice_payments/{invoice_payment}")
def invoice_payment(world: World, params: Json, invoice_payment: str) -> Json:
    return world.load("invoice_payment", invoice_payment)


@route("GET", "/v1/payment_intents", paged({"created": RANGE, "customer": TEXT}))
def intents(world: World, params: Json) -> Json:
    found = world.walk("payment_intent", customer=params.get("customer"))
    chosen = (one for one in found if in_range(one["created"], params.get("created")))
    return lists.page(world, params, "/v1/payment_intents", chosen)


@route("GET", "/v1/payment_intents/{intent}")
def intent(world: World, params: Json, intent: str) -> Json:
    return world.load("payment_intent", intent)


@route("GET", "/v1/charges", paged({"created": RANGE, "customer": TEXT, "payment_intent": TEXT}))
def charges(world: World, params: Json) -> Json:
    found = world.walk("charge", customer=params.get("customer"), parent=params.get("payment_intent"))
    chosen = (one for one in found if in_range(one["created"], params.get("created")))
    return lists.page(world, params, "/v1/charges", chosen)


@route("GET", "/v1/charges/{charge}")
def one_charge(world: World, params: Json, charge: str) -> Json:
    return world.load("charge", charge)


@lists.included("charge", "refunds")
def _refunds(world: World, made: Json) -> Json:
    return listing(f"/v1/charges/{made['id']}/refunds", world.all("refund", parent=made["id"]))
