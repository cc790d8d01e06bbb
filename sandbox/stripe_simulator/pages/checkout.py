"""The page on which a customer pays, or is declined."""

from http import HTTPStatus

from sandbox.stripe_simulator import checkout, payment_methods
from sandbox.stripe_simulator.errors import Json, StripeError
from sandbox.stripe_simulator.messages import Answer, Request
from sandbox.stripe_simulator.world import World

from .html import Html, Piece, choices, error, field, form, money, page, redirect, shows, table, tag

CARDS = {
    payment_methods.WORKS: "4242 4242 4242 4242 - works",
    payment_methods.DECLINES: "4000 0000 0000 0341 - declines",
    payment_methods.FAILS_LATER: "4000 0000 0000 3220 - works now but fails on renewal",
}


@shows("GET", "/c/pay/{session}")
def show(world: World, request: Request, session: str) -> Answer:
    return _page(world, session)


@shows("POST", "/c/pay/{session}")
def submit(world: World, request: Request, session: str) -> Answer:
    """Pay, try a promotion code, or go back."""
    found = world.find("checkout.session", session)
    if found is None or found["status"] != "open":
        return _page(world, session)
    fields = request.form
    if fields.get("action") == "cancel":
        return redirect(found["cancel_url"] or found["success_url"])
    try:
        with world.attempt():
            if fields.get("action") == "code":
                checkout.apply_code(world, found, fields.get("promotion_code", ""))
                return _page(world, session)
            return redirect(
                checkout.complete(
                    world, found, card=_card(fields), email=fields.get("email", ""), name=fields.get("name", "")
                )
            )
    except StripeError as refusal:
        return _page(world, session, refusal=str(refusal))


def _card(fields: dict[str, str]) -> str:
    card = fields.get("card", payment_methods.WORKS)
    return card if card in CARDS else payment_methods.WORKS


def _page(world: World, identifier: str, refusal: str | None = None) -> Answer:
    session = world.find("checkout.session", identifier)
    if session is None:
        return page("Not found", tag("p", "There is no such Checkout Session."), status=HTTPStatus.NOT_FOUND)
    if session["status"] != "open":
        return page("Checkout", tag("p", f"This Checkout Session is {session['status']}."), status=HTTPStatus.GONE)
    status = HTTPStatus.PAYMENT_REQUIRED if refusal else HTTPStatus.OK
    if session["mode"] == "setup":
        about = tag("p", "The card is kept for later. Nothing is charged now.")
        return page("Save a card", error(refusal), about, *_forms(session, button="Save card"), status=status)
    return page("Subscribe", error(refusal), _summary(session), *_forms(session, button="Subscribe"), status=status)


def _summary(session: Json) -> Html:
    currency = session["currency"]
    rows: list[list[Piece]] = []
    for line in session["_line_items"]["data"]:
        recurring = line["price"]["recurring"]
        metered = recurring["usage_type"] == "metered"
        price = "as used" if metered else money(line["amount_total"], currency)
        rows.append([line["description"], line["quantity"] or "", f"{price} / {recurring['interval']}"])
    off = session["total_details"]["amount_discount"]
    if off:
        rows.append(["Discount", "", money(-off, currency)])
    rows.append([tag("strong", "Due today"), "", tag("strong", money(session["amount_total"], currency))])
    return table(["What", "Quantity", "Price"], rows)


def _forms(session: Json, *, button: str) -> list[Piece]:
    action = f"/c/pay/{session['id']}"
    details = session["customer_details"] or {}
    pay = form(
        action,
        field("Email", "email", details.get("email"), kind="email", readonly="" if session["customer"] else None),
        field("Name on card", "name", details.get("name")),
        tag("fieldset", tag("legend", "Card"), choices("card", CARDS, payment_methods.WORKS)),
        button=button,
        name="pay",
    )
    code = None
    if session["allow_promotion_codes"]:
        code = form(action, field("Promotion code", "promotion_code"), button="Apply", name="code")
    back = form(action, button="Back", name="cancel") if session["cancel_url"] else None
    return [code, pay, back]
