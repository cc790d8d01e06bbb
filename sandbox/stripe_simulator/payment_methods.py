"""Cards: which ones work, which decline, and to whom they are attached."""

from dataclasses import dataclass
from datetime import UTC, datetime

from . import customers, lists
from .errors import Json, declined, refused
from .parameters import ADDRESS, INTEGER, METADATA, TEXT, merged_metadata, one_of
from .routes import paged, route
from .world import World

WORKS, DECLINES, FAILS_LATER, REFUSED = "works", "declines", "fails_on_renewal", "refused"
BEHAVIORS = (WORKS, DECLINES, FAILS_LATER)


@dataclass(frozen=True, slots=True)
class Kind:
    """A test card."""

    brand: str
    number: str
    behavior: str
    decline_code: str = "generic_decline"


CARDS = {
    "pm_card_visa": Kind("visa", "4242424242424242", WORKS),
    "pm_card_mastercard": Kind("mastercard", "5555555555554444", WORKS),
    "pm_card_chargeCustomerFail": Kind("visa", "4000000000000341", DECLINES),
    "pm_card_visa_chargeDeclined": Kind("visa", "4000000000000002", REFUSED),
    "pm_card_chargeDeclined": Kind("visa", "4000000000000002", REFUSED),
    "pm_card_chargeDeclinedInsufficientFunds": Kind("visa", "4000000000009995", REFUSED, "insufficient_funds"),
    "pm_card_failsOnRenewal": Kind("visa", "4000000000003220", FAILS_LATER),
}
BY_BEHAVIOR = {WORKS: "pm_card_visa", DECLINES: "pm_card_chargeCustomerFail", FAILS_LATER: "pm_card_failsOnRenewal"}
BY_NUMBER = {kind.number: token for token, kind in CARDS.items()}
BY_TOKEN = {"tok_visa": "pm_card_visa", "tok_chargeCustomerFail": "pm_card_chargeCustomerFail"}
DETAILS: Json = {"address": ADDRESS, "email": TEXT, "name": TEXT, "phone": TEXT}


@route(
    "POST",
    "/v1/payment_methods",
    {
        "allow_redisplay": one_of("always", "limited", "unspecified"),
        "billing_details": DETAILS,
        "card": {"cvc": TEXT, "exp_month": INTEGER, "exp_year": INTEGER, "number": TEXT, "token": TEXT},
        "metadata": METADATA,
        "type": one_of("card"),
    },
)
def create(world: World, params: Json) -> Json:
    card = params.get("card") or {}
    token = BY_TOKEN.get(card.get("token") or "") or BY_NUMBER.get(card.get("number") or "")
    if token is None:
        raise refused("Your card number is none of the simulator's test cards.", param="card[number]")
    return new(world, token, params)


def new(world: World, token: str, given: Json | None = None) -> Json:
    """A card of this kind, attached to nobody."""
    kind, given = CARDS[token], given or {}
    details = {"address": None, "email": None, "name": None, "phone": None, "tax_id": None}
    method = {
        "id": world.new_id("pm"),
        "object": "payment_method",
        "allow_redisplay": given.get("allow_redisplay") or "unspecified",
        "billing_details": {**details, **(given.get("billing_details") or {})},
        "card": {
            "brand": kind.brand,
            "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
            "country": world.settings.country,
            "display_brand": kind.brand,
            "exp_month": 12,
            "exp_year": datetime.fromtimestamp(world.now, UTC).year + 3,
            "fingerprint": f"simulated{kind.number[-7:]}",
            "funding": "credit",
            "generated_from": None,
            "last4": kind.number[-4:],
            "networks": {"available": [kind.brand], "preferred": None},
            "three_d_secure_usage": {"supported": True},
            "wallet": None,
        },
        "created": world.now,
        "customer": None,
        "livemode": False,
        "metadata": given.get("metadata") or {},
        "type": "card",
        "_behavior": kind.behavior,
        "_decline_code": kind.decline_code,
    }
    world.save(method)
    return method


def resolve(world: World, identifier: str, *, param: str) -> Json:
    """The payment method, or a new one for a test token such as `pm_card_visa`."""
    if identifier in CARDS:
        return new(world, identifier)
    return world.load("payment_method", identifier, param=param)


def attach_to(world: World, identifier: str, customer: str, *, param: str = "payment_method") -> Json:
    """The card is attached to the customer; raises StripeError when it is refused or belongs to another."""
    method = resolve(world, identifier, param=param)
    if method["customer"] == customer:
        return method
    if method["customer"]:
        raise refused("The payment method you provided has already been attached to a customer.", param=param)
    if method["_behavior"] == REFUSED:
        raise declined("Your card was declined.", decline_code=method["_decline_code"], keeps_effect=False)
    world.change(method, None, customer=customer)
    world.emit("payment_method.attached", method)
    return method


def for_customer(world: World, customer: Json, behavior: str) -> Json:
    """A new card of this behaviour, attached to the customer."""
    return attach_to(world, BY_BEHAVIOR[behavior], customer["id"])


def default_of(world: World, customer: Json, subscription: Json | None) -> Json | None:
    """The card that pays: the subscription's, else the customer's."""
    own = (subscription or {}).get("default_payment_method")
    chosen = own or customer["invoice_settings"]["default_payment_method"]
    return world.find("payment_method", chosen) if chosen else None


def refusal(method: Json, *, is_on_session: bool) -> str | None:
    """The decline code a charge meets, or None when the card pays."""
    behavior = method["_behavior"]
    if behavior == WORKS or (behavior == FAILS_LATER and is_on_session):
        return None
    return str(method["_decline_code"])


def set_behavior(world: World, customer: str, behavior: str) -> int:
    """All cards of the customer work, decline or fail on renewal; how many they are."""
    methods = world.all("payment_method", customer=customer)
    for method in methods:
        world.change(method, None, _behavior=behavior)
    return len(methods)


@route("POST", "/v1/payment_methods/{payment_method}/attach", {"customer!": TEXT})
def attach(world: World, params: Json, payment_method: str) -> Json:
    customers.living(world, params["customer"], param="customer")
    return attach_to(world, payment_method, params["customer"])


@route("POST", "/v1/payment_methods/{payment_method}/detach")
def detach(world: World, params: Json, payment_method: str) -> Json:
    method = world.load("payment_method", payment_method)
    if not method["customer"]:
        raise refused("The payment method you provided is not attached to a customer.")
    previous = method["customer"]
    world.change(method, None, customer=None)
    world.emit("payment_method.detached", method, previous={"customer": previous})
    return method


@route("POST", "/v1/payment_methods/{payment_method}", {"billing_details": DETAILS, "metadata": METADATA})
def update(world: World, params: Json, payment_method: str) -> Json:
    method = world.load("payment_method", payment_method)
    details = {**method["billing_details"], **(params.get("billing_details") or {})}
    metadata = merged_metadata(method["metadata"], params["metadata"]) if "metadata" in params else method["metadata"]
    return world.change(method, "payment_method.updated", billing_details=details, metadata=metadata)


@route("GET", "/v1/payment_methods/{payment_method}")
def retrieve(world: World, params: Json, payment_method: str) -> Json:
    return world.load("payment_method", payment_method)


@route("GET", "/v1/payment_methods", paged({"customer": TEXT, "type": one_of("card")}))
def index(world: World, params: Json) -> Json:
    found = world.walk("payment_method", customer=params["customer"]) if params.get("customer") else iter(())
    return lists.page(world, params, "/v1/payment_methods", found)


@route("GET", "/v1/customers/{customer}/payment_methods", paged({"type": one_of("card")}))
def of_customer(world: World, params: Json, customer: str) -> Json:
    world.load("customer", customer)
    url = f"/v1/customers/{customer}/payment_methods"
    return lists.page(world, params, url, world.walk("payment_method", customer=customer))


@route("GET", "/v1/customers/{customer}/payment_methods/{payment_method}")
def one_of_customer(world: World, params: Json, customer: str, payment_method: str) -> Json:
    method = world.load("payment_method", payment_method)
    if method["customer"] != customer:
        raise refused(f"No such PaymentMethod: '{payment_method}'", code="resource_missing")
    return method
