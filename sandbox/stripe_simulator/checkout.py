"""Checkout sessions: in subscription mode, and in setup mode, where a card is left for later."""

from . import coupons, customers, lists, payment_methods, setup_intents, subscriptions, timers
from .checkout_shape import blank, details
from .errors import Json, StripeError, refused
from .invoice_lines import total_up
from .parameters import BOOLEAN, INTEGER, METADATA, RANGE, TEXT, one_of
from .routes import in_range, paged, route
from .subscription_items import PRICE_DATA, is_metered, price_for
from .world import World, listing

SHORTEST_SECONDS, LONGEST_SECONDS = 30 * 60, 24 * 3_600
PLACEHOLDER = "{CHECKOUT_SESSION_ID}"
CREATE: Json = {
    "allow_promotion_codes": BOOLEAN,
    "automatic_tax": {"enabled!": BOOLEAN},
    "billing_address_collection": one_of("auto", "required"),
    "cancel_url": TEXT,
    "client_reference_id": TEXT,
    "currency": TEXT,
    "customer": TEXT,
    "customer_email": TEXT,
    "customer_update": {
        "address": one_of("auto", "never"), "name": one_of("auto", "never"), "shipping": one_of("auto", "never"),
    },
    "discounts": [{"coupon": TEXT, "promotion_code": TEXT}],
    "expires_at": INTEGER,
    "line_items": [{"metadata": METADATA, "price": TEXT, "price_data": PRICE_DATA, "quantity": INTEGER}],
    "locale": TEXT,
    "metadata": METADATA,
    "mode": one_of("setup", "subscription"),
    "payment_method_collection": one_of("always", "if_required"),
    "payment_method_types": [one_of("card")],
    "phone_number_collection": {"enabled!": BOOLEAN},
    "saved_payment_method_options": {"payment_method_save": one_of("disabled", "enabled")},
    "subscription_data": {
        "billing_cycle_anchor": INTEGER,
        "billing_mode": subscriptions.BILLING_MODE,
        "description": TEXT,
        "metadata": METADATA,
        "proration_behavior": one_of("create_prorations", "none"),
        "trial_end": INTEGER,
        "trial_period_days": INTEGER,
        "trial_settings": subscriptions.TRIAL_SETTINGS,
    },
    "setup_intent_data": {"description": TEXT, "metadata": METADATA},
    "submit_type": one_of("auto", "pay", "subscribe"),
    "success_url": TEXT,
    "tax_id_collection": {"enabled!": BOOLEAN, "required": one_of("if_supported", "never")},
    "ui_mode": one_of("hosted_page"),
}  # fmt: skip


@route("POST", "/v1/checkout/sessions", CREATE)
def create(world: World, params: Json) -> Json:
    _check(params)
    customer = None
    if params.get("customer"):
        customer = customers.living(world, params["customer"], param="customer")
    expires_at = params.get("expires_at") or world.now + LONGEST_SECONDS
    if not world.now + SHORTEST_SECONDS <= expires_at <= world.now + LONGEST_SECONDS:
        raise refused("The `expires_at` timestamp must be 30 minutes to 24 hours from now.", param="expires_at")
    session = blank(world, customer, params, expires_at)
    if params["mode"] == "setup":
        _prepare_setup(world, session, params)
    else:
        session["_draft"] = _subscription_params(world, params)
        _price_up(world, session, customer)
    world.save(session)
    timers.schedule(world, "expire_checkout", session["id"], expires_at)
    return session


def _check(params: Json) -> None:
    """Raises StripeError for what does not go together."""
    is_setup = params.get("mode") == "setup"
    for name in ("mode", "success_url") if is_setup else ("mode", "success_url", "line_items"):
        if not params.get(name):
            raise refused(f"Missing required param: {name}.", param=name, code="parameter_missing")
    for name in ("line_items", "subscription_data", "allow_promotion_codes", "discounts"):
        if is_setup and params.get(name):
            raise refused(f"You can not pass `{name}` in `setup` mode.", param=name)
    for one, other in (("allow_promotion_codes", "discounts"), ("customer", "customer_email")):
        if params.get(one) and params.get(other):
            raise refused(f"You may only specify one of these parameters: {one}, {other}.")


def _prepare_setup(world: World, session: Json, params: Json) -> None:
    given = params.get("setup_intent_data") or {}
    intent = setup_intents.begin(world, session["customer"], given.get("metadata") or {})
    session |= {
        "setup_intent": intent["id"], "currency": params.get("currency"), "payment_status": "no_payment_required",
        "_line_items": listing(f"/v1/checkout/sessions/{session['id']}/line_items", []),
    }  # fmt: skip


def _subscription_params(world: World, params: Json) -> Json:
    """What the subscription will be created from."""
    data = params.get("subscription_data") or {}
    items = []
    for number, given in enumerate(params["line_items"]):
        price = price_for(world, given, param=f"line_items[{number}]")
        items.append(
            {"price": price["id"], **{name: given[name] for name in ("quantity", "metadata") if name in given}}
        )
    currency = {"currency": params["currency"]} if params.get("currency") else {}
    return {**data, **currency, "items": items, "discounts": params.get("discounts") or []}


def _price_up(world: World, session: Json, customer: Json | None) -> None:
    """Amounts and line items, as the first invoice will have them; raises StripeError."""
    stand_in = customer or {"id": "", "currency": None, "balance": 0, "invoice_settings": {"footer": None}}
    draft = session["_draft"]
    subscription = subscriptions.begin(world, stand_in, draft)
    rows = subscriptions.first_lines(world, subscription, prorates=draft.get("proration_behavior") != "none")
    invoice: Json = {"id": "", "created": world.now, "lines": {"data": rows}, "discounts": []}
    total_up(world, invoice, 0)
    off = _preview_discount(world, draft, rows)
    session |= {
        "currency": subscription["currency"],
        "amount_subtotal": invoice["subtotal"],
        "amount_total": invoice["total"] - off,
        "total_details": {"amount_discount": off, "amount_shipping": 0, "amount_tax": 0},
    }
    shown = [_line_item(world, item, rows, subscription["currency"]) for item in subscription["items"]["data"]]
    session["_line_items"] = listing(f"/v1/checkout/sessions/{session['id']}/line_items", shown)


def _preview_discount(world: World, draft: Json, rows: list[Json]) -> int:
    off = 0
    for given in draft["discounts"]:
        code = world.find("promotion_code", given.get("promotion_code")) if given.get("promotion_code") else None
        coupon = code["promotion"]["coupon"] if code else given.get("coupon")
        world.load("coupon", coupon, param="discounts")
        pretended = {"source": {"coupon": coupon}, "end": None, "_is_spent": False}
        off += sum(coupons.amounts_off(world, pretended, rows, at=world.now))
    return off


def _line_item(world: World, item: Json, rows: list[Json], currency: str) -> Json:
    own = [one for one in rows if one["parent"]["subscription_item_details"]["subscription_item"] == item["id"]]
    amount = sum(one["amount"] for one in own)
    product = world.load("product", item["price"]["product"])
    return {
        "id": world.new_id("li"),
        "object": "item",
        "amount_discount": 0,
        "amount_subtotal": amount,
        "amount_tax": 0,
        "amount_total": amount,
        "currency": currency,
        "description": product["name"],
        "price": item["price"],
        "quantity": None if is_metered(item) else item["quantity"],
    }


@route(
    "GET", "/v1/checkout/sessions", paged({"created": RANGE, "customer": TEXT, "status": TEXT, "subscription": TEXT})
)
def index(world: World, params: Json) -> Json:
    found = (
        one
        for one in world.walk("checkout.session", customer=params.get("customer"))
        if in_range(one["created"], params.get("created"))
        and all(params.get(name, one[name]) == one[name] for name in ("status", "subscription"))
    )
    return lists.page(world, params, "/v1/checkout/sessions", found)


@route("GET", "/v1/checkout/sessions/{session}")
def retrieve(world: World, params: Json, session: str) -> Json:
    return world.load("checkout.session", session)


@route("GET", "/v1/checkout/sessions/{session}/line_items", paged())
def line_items(world: World, params: Json, session: str) -> Json:
    found = world.load("checkout.session", session)
    return lists.page(world, params, f"/v1/checkout/sessions/{session}/line_items", found["_line_items"]["data"])


@route("POST", "/v1/checkout/sessions/{session}", {"metadata": METADATA})
def update(world: World, params: Json, session: str) -> Json:
    found = world.load("checkout.session", session)
    return world.change(found, None, metadata={**found["metadata"], **(params.get("metadata") or {})})


@route("POST", "/v1/checkout/sessions/{session}/expire")
def expire(world: World, params: Json, session: str) -> Json:
    found = world.load("checkout.session", session)
    if found["status"] != "open":
        message = f'Only Checkout Sessions with a status in ["open"] can be expired. This one is {found["status"]}.'
        raise refused(message)
    return _expired(world, found)


@timers.action("expire_checkout")
def _expire_later(world: World, identifier: str) -> None:
    session = world.find("checkout.session", identifier)
    if session and session["status"] == "open":
        _expired(world, session)


def _expired(world: World, session: Json) -> Json:
    timers.cancel(world, "expire_checkout", session["id"])
    world.change(session, None, status="expired", url=None)
    world.emit("checkout.session.expired", session)
    return session


def apply_code(world: World, session: Json, text: str) -> None:
    """The promotion code is on the session; raises StripeError."""
    code = coupons.typed_code(world, text, customer=session["customer"])
    session["_draft"]["discounts"] = [{"promotion_code": code["id"]}]
    session["discounts"] = [{"coupon": None, "promotion_code": code["id"]}]
    customer = world.find("customer", session["customer"]) if session["customer"] else None
    _price_up(world, session, customer)
    world.save(session)


def complete(world: World, session: Json, *, card: str, email: str, name: str) -> str:
    """Paid: the subscription exists. The URL to go to; raises StripeError, and nothing has happened, when declined."""
    if session["status"] != "open":
        raise refused("This Checkout Session is no longer open.")
    customer = _customer(world, session, email=email, name=name)
    if session["mode"] == "setup":
        setup_intents.succeed(world, world.load("setup_intent", session["setup_intent"]), customer, card)
        return _completed(world, session, customer, {})
    draft = session["_draft"]
    subscription = subscriptions.begin(world, customer, draft)
    if card != "none":
        method = payment_methods.for_customer(world, customer, card)
        subscription["default_payment_method"] = method["id"]
    params = {**draft, "payment_behavior": "error_if_incomplete"}
    subscriptions.start(world, customer, subscription, params, is_on_session=True)
    if subscription["trial_end"] and card == payment_methods.DECLINES:
        raise StripeError("Your card was declined.", status=402, kind="card_error", code="card_declined")
    invoice = world.find("invoice", subscription["latest_invoice"]) if subscription["latest_invoice"] else None
    is_paid = invoice is not None and invoice["amount_paid"] > 0
    made = {
        "payment_status": "paid" if is_paid else "no_payment_required",
        "subscription": subscription["id"],
        "invoice": invoice["id"] if invoice else None,
    }
    return _completed(world, session, customer, made)


def _completed(world: World, session: Json, customer: Json, made: Json) -> str:
    """The session is done; the URL to go to."""
    timers.cancel(world, "expire_checkout", session["id"])
    known = details(world, customer, None)
    world.change(session, None, status="complete", customer=customer["id"], customer_details=known, url=None, **made)
    world.emit("checkout.session.completed", session)
    return str(session["success_url"]).replace(PLACEHOLDER, session["id"])


def _customer(world: World, session: Json, *, email: str, name: str) -> Json:
    """The session's customer, or a new one with what was typed."""
    if session["customer"]:
        return customers.living(world, session["customer"])
    given = {"email": email or session["customer_email"], "name": name or None}
    return customers.create(world, given)
