"""The hosted invoice: what it charges, and paying it; and its PDF."""

from datetime import UTC, datetime
from http import HTTPStatus

from sandbox.stripe_simulator import collection, payment_methods
from sandbox.stripe_simulator.account import NAME
from sandbox.stripe_simulator.errors import Json, StripeError
from sandbox.stripe_simulator.messages import Answer, Request
from sandbox.stripe_simulator.world import World

from .checkout import CARDS
from .html import Html, Piece, choices, error, form, money, page, redirect, shows, table, tag
from .pdf import pdf


@shows("GET", "/i/{invoice}")
def show(world: World, request: Request, invoice: str) -> Answer:
    return _page(world, invoice)


@shows("POST", "/i/{invoice}")
def pay(world: World, request: Request, invoice: str) -> Answer:
    """Paid with the chosen card, which is kept for the renewals."""
    found = world.find("invoice", invoice)
    behavior = request.form.get("card", "")
    if found is None or found["status"] != "open" or behavior not in CARDS:
        return _page(world, invoice)
    try:
        customer = world.load("customer", found["customer"])
        method = payment_methods.for_customer(world, customer, behavior)
        collection.pay_now(world, found, is_on_session=True, method=method)
    except StripeError as refusal:
        return _page(world, invoice, refusal=str(refusal))
    _keep(world, found, customer, method)
    return redirect(f"/i/{invoice}")


def _keep(world: World, invoice: Json, customer: Json, method: Json) -> None:
    subscription = collection.subscription_for(world, invoice)
    if subscription and subscription["ended_at"] is None:
        world.change(subscription, "customer.subscription.updated", default_payment_method=method["id"])
    else:
        settings = {**customer["invoice_settings"], "default_payment_method": method["id"]}
        world.change(customer, "customer.updated", invoice_settings=settings)


def _day(moment: int) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"


def _page(world: World, identifier: str, refusal: str | None = None) -> Answer:
    invoice = world.find("invoice", identifier)
    if invoice is None or invoice["status"] == "draft":
        return page("Not found", tag("p", "There is no such invoice."), status=HTTPStatus.NOT_FOUND)
    status = HTTPStatus.PAYMENT_REQUIRED if refusal else HTTPStatus.OK
    links = tag("p", tag("a", "Download PDF", href=f"/i/{identifier}/pdf"))
    return page(
        f"Invoice {invoice['number']}",
        error(refusal),
        _facts(invoice),
        _lines(invoice),
        links,
        _pay(invoice),
        status=status,
    )


def _facts(invoice: Json) -> Html:
    who = invoice["customer_name"] or invoice["customer_email"] or invoice["customer"]
    return tag("p", f"For {who}. Status: ", tag("strong", invoice["status"]), f". Issued {_day(invoice['created'])}.")


def _lines(invoice: Json) -> Html:
    currency = invoice["currency"]
    rows: list[list[Piece]] = [
        [line["description"], f"{_day(line['period']['start'])} to {_day(line['period']['end'])}", line["quantity"],
         money(line["amount"], currency)]
        for line in invoice["lines"]["data"]
    ]  # fmt: skip
    for label, name in (("Subtotal", "subtotal"), ("Total", "total"), ("Amount due", "amount_remaining")):
        rows.append([tag("strong", label), "", "", tag("strong", money(invoice[name], currency))])
    return table(["What", "Period", "Quantity", "Amount"], rows)


def _pay(invoice: Json) -> Piece:
    if invoice["status"] != "open":
        return None
    return form(f"/i/{invoice['id']}", choices("card", CARDS, payment_methods.WORKS), button="Pay invoice")


@shows("GET", "/i/{invoice}/pdf")
def download(world: World, request: Request, invoice: str) -> Answer:
    found = world.find("invoice", invoice)
    if found is None or found["status"] == "draft":
        return page("Not found", tag("p", "There is no such invoice."), status=HTTPStatus.NOT_FOUND)
    currency = found["currency"]
    lines = [
        "Simulated Stripe - no real money", f"{NAME}", f"Invoice {found['number']}", f"Issued {_day(found['created'])}",
        f"For {found['customer_name'] or found['customer_email'] or found['customer']}", "",
        *[f"{line['description']}: {money(line['amount'], currency)}" for line in found["lines"]["data"]], "",
        f"Total {money(found['total'], currency)}", f"Status {found['status']}",
    ]  # fmt: skip
    headers = {"Content-Disposition": f'inline; filename="{found["number"]}.pdf"'}
    return Answer(HTTPStatus.OK, pdf(lines), "application/pdf", headers)
