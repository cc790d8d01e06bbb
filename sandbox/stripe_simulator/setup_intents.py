"""Setup intents: a card is kept for later and nothing is charged."""

from . import lists, payment_methods
from .errors import Json
from .parameters import RANGE, TEXT
from .routes import in_range, paged, route
from .world import World


def begin(world: World, customer: str | None, metadata: Json) -> Json:
    """A setup intent that waits for a card."""
    intent = {
        "id": world.new_id("seti"),
        "object": "setup_intent",
        "application": None,
        "automatic_payment_methods": None,
        "cancellation_reason": None,
        "client_secret": None,
        "created": world.now,
        "customer": customer,
        "description": None,
        "flow_directions": None,
        "last_setup_error": None,
        "latest_attempt": None,
        "livemode": False,
        "mandate": None,
        "metadata": metadata,
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "single_use_mandate": None,
        "status": "requires_payment_method",
        "usage": "off_session",
    }
    intent["client_secret"] = f"{intent['id']}_secret_simulated"
    return world.add(intent, "setup_intent.created")


def succeed(world: World, intent: Json, customer: Json, behavior: str) -> Json:
    """A card of this behaviour is attached to the customer; it does not become their default."""
    method = payment_methods.for_customer(world, customer, behavior)
    fields = {"customer": customer["id"], "payment_method": method["id"], "status": "succeeded"}
    world.change(intent, None, **fields)
    world.emit("setup_intent.succeeded", intent)
    return method


@route("GET", "/v1/setup_intents", paged({"created": RANGE, "customer": TEXT}))
def index(world: World, params: Json) -> Json:
    found = world.walk("setup_intent", customer=params.get("customer"))
    chosen = (one for one in found if in_range(one["created"], params.get("created")))
    return lists.page(world, params, "/v1/setup_intents", chosen)


@route("GET", "/v1/setup_intents/{intent}")
def retrieve(world: World, params: Json, intent: str) -> Json:
    return world.load("setup_intent", intent)
