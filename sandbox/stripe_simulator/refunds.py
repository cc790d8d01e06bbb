"""Refunds and disputes."""

from . import lists
from .errors import Json, refused
from .parameters import BOOLEAN, INTEGER, METADATA, RANGE, TEXT, merged_metadata, one_of
from .routes import in_range, paged, route
from .world import World

EVIDENCE_DAYS = 20
REASONS = one_of("duplicate", "fraudulent", "requested_by_customer")


@route(
    "POST",
    "/v1/refunds",
    {"amount": INTEGER, "charge": TEXT, "metadata": METADATA, "payment_intent": TEXT, "reason": REASONS},
)
def create(world: World, params: Json) -> Json:
    charge = _charge(world, params)
    refund = refund_charge(world, charge, amount=params.get("amount"), reason=params.get("reason"))
    return world.change(refund, None, metadata=params.get("metadata") or {})


def _charge(world: World, params: Json) -> Json:
    if params.get("payment_intent"):
        intent = world.load("payment_intent", params["payment_intent"], param="payment_intent")
        if not intent["latest_charge"]:
            raise refused("This PaymentIntent does not have a successful charge to refund.", param="payment_intent")
        return world.load("charge", intent["latest_charge"])
    if not params.get("charge"):
        raise refused("Missing required param: charge.", param="charge", code="parameter_missing")
    return world.load("charge", params["charge"], param="charge")


def refund_charge(world: World, charge: Json, *, amount: int | None = None, reason: str | None = None) -> Json:
    """Money goes back to the card; raises StripeError when that is more than is left."""
    left = charge["amount_captured"] - charge["amount_refunded"]
    wanted = left if amount is None else amount
    if not charge["paid"] or left == 0:
        raise refused(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    if not 0 < wanted <= left:
        message = f"Refund amount ({wanted}) is greater than unrefunded amount on charge ({left})"
        raise refused(message, param="amount")
    refund = {
        "id": world.new_id("re"),
        "object": "refund",
        "amount": wanted,
        "balance_transaction": None,
        "charge": charge["id"],
        "created": world.now,
        "currency": charge["currency"],
        "destination_details": {
            "card": {"reference_status": "pending", "reference_type": "acquirer_reference_number", "type": "refund"},
            "type": "card",
        },
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "reason": reason,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "succeeded",
        "transfer_reversal": None,
    }
    world.add(refund, "refund.created")
    previous = {"amount_refunded": charge["amount_refunded"], "refunded": charge["refunded"]}
    total = charge["amount_refunded"] + wanted
    world.change(charge, None, amount_refunded=total, refunded=total == charge["amount_captured"])
    world.emit("charge.refunded", charge, previous=previous)
    return refund


@route("GET", "/v1/refunds", paged({"charge": TEXT, "created": RANGE, "payment_intent": TEXT}))
def index(world: World, params: Json) -> Json:
    found = (
        one
        for one in world.walk("refund", parent=params.get("charge"))
        if in_range(one["created"], params.get("created"))
        and params.get("payment_intent", one["payment_intent"]) == one["payment_intent"]
    )
    return lists.page(world, params, "/v1/refunds", found)


@route("GET", "/v1/refunds/{refund}")
def retrieve(world: World, params: Json, refund: str) -> Json:
    return world.load("refund", refund)


@route("POST", "/v1/refunds/{refund}", {"metadata": METADATA})
def update(world: World, params: Json, refund: str) -> Json:
    found = world.load("refund", refund)
    return world.change(
        found, "refund.updated", metadata=merged_metadata(found["metadata"], params.get("metadata", found["metadata"]))
    )


def dispute_charge(world: World, charge: Json, *, reason: str = "fraudulent") -> Json:
    """The cardholder's bank takes the money back for now; raises StripeError when it already has."""
    if charge["disputed"] or not charge["paid"]:
        raise refused(f"The charge {charge['id']} cannot be disputed.")
    names = (
        "access_activity_log", "billing_address", "cancellation_policy", "cancellation_policy_disclosure",
        "cancellation_rebuttal", "customer_communication", "customer_email_address", "customer_name",
        "customer_purchase_ip", "customer_signature", "duplicate_charge_documentation", "duplicate_charge_explanation",
        "duplicate_charge_id", "product_description", "receipt", "refund_policy", "refund_policy_disclosure",
        "refund_refusal_explanation", "service_date", "service_documentation", "shipping_address", "shipping_carrier",
        "shipping_date", "shipping_documentation", "shipping_tracking_number", "uncategorized_file",
        "uncategorized_text",
    )  # fmt: skip
    dispute = {
        "id": world.new_id("du"),
        "object": "dispute",
        "amount": charge["amount"],
        "balance_transactions": [],
        "charge": charge["id"],
        "created": world.now,
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": {**dict.fromkeys(names), "enhanced_evidence": {}},
        "evidence_details": {
            "due_by": world.now + EVIDENCE_DAYS * 86_400, "enhanced_eligibility": {}, "has_evidence": False,
            "past_due": False, "submission_count": 0,
        },
        "is_charge_refundable": False,
        "livemode": False,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "reason": reason,
        "status": "needs_response",
        "_customer": charge["customer"],
    }  # fmt: skip
    world.change(charge, None, disputed=True)
    return world.add(dispute, "charge.dispute.created")


def close_dispute(world: World, dispute: Json, *, status: str) -> Json:
    """Won or lost."""
    world.change(dispute, None, status=status)
    world.emit("charge.dispute.closed", dispute)
    return dispute


@route("GET", "/v1/disputes", paged({"charge": TEXT, "created": RANGE, "payment_intent": TEXT}))
def disputes(world: World, params: Json) -> Json:
    found = (
        one
        for one in world.walk("dispute")
        if all(params.get(name, one[name]) == one[name] for name in ("charge", "payment_intent"))
        and in_range(one["created"], params.get("created"))
    )
    return lists.page(world, params, "/v1/disputes", found)


@route("GET", "/v1/disputes/{dispute}")
def dispute(world: World, params: Json, dispute: str) -> Json:
    return world.load("dispute", dispute)


@route("POST", "/v1/disputes/{dispute}", {"metadata": METADATA, "submit": BOOLEAN})
def update_dispute(world: World, params: Json, dispute: str) -> Json:
    found = world.load("dispute", dispute)
    metadata = merged_metadata(found["metadata"], params.get("metadata", found["metadata"]))
    return world.change(found, "charge.dispute.updated", metadata=metadata)


@route("POST", "/v1/disputes/{dispute}/close")
def close(world: World, params: Json, dispute: str) -> Json:
    return close_dispute(world, world.load("dispute", dispute), status="lost")
