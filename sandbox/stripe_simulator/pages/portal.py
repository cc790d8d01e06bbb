"""The customer portal: card, details, invoices, cancellation."""

from http import HTTPStatus

from sandbox.stripe_simulator import payment_methods, portal
from sandbox.stripe_simulator.errors import Json, StripeError
from sandbox.stripe_simulator.messages import Answer, Request
from sandbox.stripe_simulator.world import World

from .checkout import CARDS
from .html import Html, Piece, choices, error, field, form, money, page, redirect, shows, table, tag

CARD_FLOW = "payment_method_update"


@shows("GET", "/p/session/{session}")
def show(world: World, request: Request, session: str) -> Answer:
    return _page(world, session)


@shows("POST", "/p/session/{session}/card")
def card(world: World, request: Request, session: str) -> Answer:
    found = world.find("billing_portal.session", session)
    behavior = request.form.get("card", "")
    if found is None or behavior not in CARDS:
        return _page(world, session)
    try:
        with world.attempt():
            portal.change_card(world, found, behavior)
    except StripeError as refusal:
        return _page(world, session, refusal=str(refusal))
    after = (found["flow"] or {}).get("after_completion") or {}
    if after.get("type") == "redirect":
        return redirect(after["redirect"]["return_url"])
    return redirect(f"/p/session/{session}")


@shows("POST", "/p/session/{session}/details")
def details(world: World, request: Request, session: str) -> Answer:
    found = world.find("billing_portal.session", session)
    if found:
        portal.change_details(world, found, request.form)
    return redirect(f"/p/session/{session}")


@shows("POST", "/p/session/{session}/cancel")
def cancel(world: World, request: Request, session: str) -> Answer:
    found = world.find("billing_portal.session", session)
    if found is None:
        return _page(world, session)
    try:
        with world.attempt():
            portal.cancel(world, found, request.form.get("subscription", ""))
    except StripeError as refusal:
        return _page(world, session, refusal=str(refusal))
    return redirect(f"/p/session/{session}")


def _page(world: World, identifier: str, refusal: str | None = None) -> Answer:
    session = world.find("billing_portal.session", identifier)
    if session is None:
        return page("Not found", tag("p", "There is no such portal session."), status=HTTPStatus.NOT_FOUND)
    customer = world.load("customer", session["customer"])
    features = world.load("billing_portal.configuration", session["configuration"])["features"]
    only_card = session["flow"] is not None and session["flow"]["type"] == CARD_FLOW
    pieces: list[Piece] = [
        error(refusal),
        tag("p", f"Customer {customer['name'] or customer['email'] or customer['id']}"),
    ]
    if features["payment_method_update"]["enabled"]:
        pieces.append(_card(world, session, customer))
    if features["customer_update"]["enabled"] and not only_card:
        pieces.append(_details(world, session, customer))
    if features["subscription_cancel"]["enabled"] and not only_card:
        pieces.append(_subscriptions(world, session))
    if features["invoice_history"]["enabled"] and not only_card:
        pieces.append(_invoices(world, customer))
    if session["return_url"]:
        pieces.append(tag("p", tag("a", "Return", href=session["return_url"])))
    return page("Billing", *pieces)


def _card(world: World, session: Json, customer: Json) -> Html:
    held = payment_methods.default_of(world, customer, None)
    if held is None:
        held = next(iter(world.all("payment_method", customer=customer["id"])), None)
    now = f"{held['card']['brand']} ending in {held['card']['last4']}" if held else "none"
    return tag(
        "section",
        tag("h2", "Card"),
        tag("p", f"Now: {now}"),
        form(f"/p/session/{session['id']}/card", choices("card", CARDS, payment_methods.WORKS), button="Change card"),
    )


def _details(world: World, session: Json, customer: Json) -> Html:
    address = customer["address"] or {}
    tax_ids = [one["value"] for one in world.all("tax_id", customer=customer["id"])]
    names = {
        "line1": "Address", "line2": "Address, second line", "postal_code": "Postal code", "city": "City",
        "state": "State", "country": "Country (two letters)",
    }  # fmt: skip
    return tag(
        "section",
        tag("h2", "Billing details"),
        form(
            f"/p/session/{session['id']}/details",
            field("Name", "name", customer["name"]),
            field("Email", "email", customer["email"], kind="email"),
            *[field(label, name, address.get(name)) for name, label in names.items()],
            field("Tax id type", "tax_id_type", "eu_vat"),
            field("Tax id", "tax_id", tax_ids[0] if tax_ids else ""),
            button="Save details",
        ),
    )


def _subscriptions(world: World, session: Json) -> Html:
    rows: list[list[Piece]] = []
    for subscription in world.all("subscription", customer=session["customer"]):
        if subscription["ended_at"] is None:
            hidden = Html(f'<input type="hidden" name="subscription" value="{subscription["id"]}">')
            action = f"/p/session/{session['id']}/cancel"
            button = None if subscription["cancel_at"] else form(action, hidden, button="Cancel plan")
            rows.append([subscription["id"], subscription["status"], button or "ends with its period"])
    return tag("section", tag("h2", "Subscriptions"), table(["Subscription", "Status", ""], rows))


def _invoices(world: World, customer: Json) -> Html:
    rows: list[list[Piece]] = []
    for invoice in world.all("invoice", customer=customer["id"]):
        if invoice["status"] != "draft":
            link = tag("a", invoice["number"], href=f"/i/{invoice['id']}")
            rows.append([link, invoice["status"], money(invoice["total"], invoice["currency"])])
    return tag("section", tag("h2", "Invoices"), table(["Number", "Status", "Total"], rows))
