"""The index: what exists, and buttons for what a person tries: time, cards, refunds, disputes."""

import json
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

from sandbox.stripe_simulator import control, payment_methods, timers
from sandbox.stripe_simulator.clock import TimeGoesForward
from sandbox.stripe_simulator.errors import Json, StripeError
from sandbox.stripe_simulator.messages import Answer, Request
from sandbox.stripe_simulator.world import World, public

from .html import Html, Piece, choices, error, form, money, page, redirect, table, tag

if TYPE_CHECKING:
    from sandbox.stripe_simulator.control import Control

SHOWN = 100
DAY = 86_400
KINDS = (
    "customer", "subscription", "invoice", "checkout.session", "subscription_schedule", "product", "price", "coupon",
    "promotion_code", "billing.meter", "payment_method", "charge", "refund", "dispute", "credit_note", "event",
    "v2.core.event", "webhook_endpoint",
)  # fmt: skip
BEHAVIORS = {
    payment_methods.WORKS: "works",
    payment_methods.DECLINES: "declines",
    payment_methods.FAILS_LATER: "fails on renewal",
}


def answer(controls: "Control", request: Request) -> Answer | None:
    """The page at this path, or None when it is none of these."""
    world = controls.world
    parts = request.path.strip("/").split("/")
    match request.method, parts:
        case "GET", [""]:
            return _index(world)
        case "POST", ["", *_] | ["act"]:
            return _act(controls, request)
        case "GET", ["objects", kind]:
            return _objects(world, kind)
        case "GET", ["object", identifier]:
            return _object(world, identifier)
    return None


def _act(controls: "Control", request: Request) -> Answer:
    """One of the buttons."""
    fields = request.form
    refusal = None
    try:
        match fields.get("action"):
            case "day":
                timers.advance(controls.world, controls.world.clock.now() + DAY)
            case "invoice":
                timers.advance(controls.world, control.moment(controls.world, {"to_next_invoice": True}))
            case "card":
                control.cards(controls, {"customer": fields["customer"], "behavior": fields["behavior"]})
            case "refund":
                control.refund(controls, {"customer": fields["customer"]})
            case "dispute":
                control.dispute(controls, {"customer": fields["customer"]})
    except (StripeError, ValueError, KeyError, TimeGoesForward) as problem:
        refusal = str(problem)
    return _index(controls.world, refusal) if refusal else redirect("/")


def _index(world: World, refusal: str | None = None) -> Answer:
    with world.lock, world.transaction():
        counts = dict(world.store.db.execute("SELECT kind, COUNT(*) FROM objects GROUP BY kind").fetchall())
        customers = [one for one in world.all("customer") if not one.get("deleted")][:SHOWN]
        now = world.clock.now()
    pieces: list[Piece] = [
        error(refusal),
        tag("h2", "Clock"),
        tag("p", f"It is {datetime.fromtimestamp(now, UTC):%A %d %B %Y, %H:%M:%S} UTC here."),
        form("/act", button="+1 day", class_="inline", name="day"),
        form("/act", button="To the next invoice", class_="inline", name="invoice"),
        tag("h2", "Customers"),
        _customers(customers),
        tag("h2", "Objects"),
        table(["Kind", "How many"], [[tag("a", kind, href=f"/objects/{kind}"), counts.get(kind, 0)] for kind in KINDS]),
        _links(),
    ]
    return page("Simulated Stripe", *pieces, status=HTTPStatus.BAD_REQUEST if refusal else HTTPStatus.OK)


def _links() -> Html:
    names = ("clock", "oracle", "faults", "requests", "deliveries")
    items = [tag("li", tag("a", f"/_simulator/{name}", href=f"/_simulator/{name}")) for name in names]
    return tag("section", tag("h2", "As JSON"), tag("ul", *items))


def _customers(customers: list[Json]) -> Html:
    if not customers:
        return tag("p", "None yet.")
    names = {one["id"]: f"{one['name'] or one['email'] or 'unnamed'} ({one['id']})" for one in customers}
    options = [tag("option", name, value=identifier) for identifier, name in names.items()]

    def chooser() -> Html:
        return tag("label", "Customer", Html("<br>"), tag("select", *options, name="customer"))

    return tag(
        "section",
        form("/act", chooser(), choices("behavior", BEHAVIORS, "works"), button="Change their cards", name="card"),
        form("/act", chooser(), button="Refund their latest charge", name="refund"),
        form("/act", chooser(), button="Open a dispute about it", name="dispute"),
    )


def _objects(world: World, kind: str) -> Answer:
    with world.lock, world.transaction():
        found = [public(one) for _, one in zip(range(SHOWN), world.walk(kind), strict=False)]
    rows: list[list[Piece]] = []
    for one in found:
        amount = one.get("total", one.get("amount"))
        says = one.get("status") or one.get("type") or one.get("name") or ""
        total = money(amount, one.get("currency")) if isinstance(amount, int) else ""
        rows.append([tag("a", one["id"], href=f"/object/{one['id']}"), str(says), total])
    return page(kind, tag("p", f"The latest {SHOWN} at most."), table(["Id", "State", "Amount"], rows))


def _object(world: World, identifier: str) -> Answer:
    with world.lock, world.transaction():
        found = public(world.any(identifier) or {})
    if not found:
        return page("Not found", tag("p", "There is no such object."), status=HTTPStatus.NOT_FOUND)
    link = found.get("url") or found.get("hosted_invoice_url")
    shown = (
        tag("p", tag("a", "Open its page", href=link)) if isinstance(link, str) and link.startswith("http") else None
    )
    found.pop("secret", None)
    return page(identifier, shown, tag("pre", json.dumps(found, indent=2)))
