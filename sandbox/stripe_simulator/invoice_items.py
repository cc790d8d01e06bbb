"""Invoice items: amounts that wait for the next invoice, or were added to a draft."""

from decimal import Decimal

from . import customers, lists
from .errors import Json, refused
from .invoice_lines import from_item, pricing
from .parameters import BOOLEAN, DECIMAL, INTEGER, METADATA, RANGE, TEXT, chosen, merged_metadata
from .rating import amounts_of, round_minor
from .routes import in_range, paged, route
from .world import World

PERIOD: Json = {"end!": INTEGER, "start!": INTEGER}
PRICE_DATA: Json = {"currency!": TEXT, "product!": TEXT, "unit_amount": INTEGER, "unit_amount_decimal": DECIMAL}
CREATE: Json = {
    "amount": INTEGER, "currency": TEXT, "customer": TEXT, "description": TEXT, "discountable": BOOLEAN,
    "invoice": TEXT, "metadata": METADATA, "period": PERIOD, "price_data": PRICE_DATA, "pricing": {"price": TEXT},
    "quantity": INTEGER, "subscription": TEXT, "unit_amount_decimal": DECIMAL,
}  # fmt: skip


def new(
    world: World, customer: str, *, amount: int, currency: str, quantity: int = 1, description: str | None = None,
    start: int | None = None, end: int | None = None, proration: bool = False, subscription: str | None = None,
    item: str | None = None, price: Json | None = None, unit: str | None = None,
) -> Json:  # fmt: skip
    """An invoice item that is not saved."""
    parent = None
    if subscription:
        details = {"subscription": subscription, "subscription_item": item}
        parent = {"subscription_details": details, "type": "subscription_details"}
    return {
        "id": world.new_id("ii"),
        "object": "invoiceitem",
        "amount": amount,
        "currency": currency,
        "customer": customer,
        "date": world.now,
        "description": description,
        "discountable": not proration,
        "discounts": [],
        "invoice": None,
        "livemode": False,
        "metadata": {},
        "net_amount": amount,
        "parent": parent,
        "period": {"end": world.now if end is None else end, "start": world.now if start is None else start},
        "pricing": pricing(price, unit) if price else None,
        "proration": proration,
        "proration_details": {"credited_items": None, "discount_amounts": []} if proration else None,
        "quantity": quantity,
        "quantity_decimal": str(quantity),
        "tax_rates": [],
        "test_clock": None,
    }


def pending(world: World, customer: str, subscription: str | None) -> list[Json]:
    """Those that wait for the next invoice of this subscription (or of the customer), the oldest first."""
    found = world.all("invoiceitem", customer=customer, is_ascending=True)
    return [one for one in found if one["invoice"] is None and _subscription(one) in (None, subscription)]


def _subscription(one: Json) -> str | None:
    return ((one["parent"] or {}).get("subscription_details") or {}).get("subscription")


def as_lines(world: World, items: list[Json]) -> list[Json]:
    return [from_item(world, one) for one in items]


def bind(world: World, items: list[Json], invoice: str) -> None:
    """They are on this invoice now."""
    for one in items:
        world.change(one, None, invoice=invoice)


@route("POST", "/v1/invoiceitems", CREATE)
def create(world: World, params: Json) -> Json:
    from . import invoices  # noqa: PLC0415  # an invoice is made of items

    draft = _draft(world, params)
    identifier = params.get("customer") or (draft or {}).get("customer")
    if not identifier:
        raise refused("Missing required param: customer.", param="customer", code="parameter_missing")
    customer = customers.living(world, identifier, param="customer")
    made = _from_params(world, params, customer)
    if draft:
        made["invoice"] = draft["id"]
        draft["lines"]["data"].append(from_item(world, made))
        invoices.retotal(world, draft)
        world.save(draft)
    world.add(made, "invoiceitem.created")
    if draft:
        world.emit("invoice.updated", draft)
    return made


def _draft(world: World, params: Json) -> Json | None:
    if not params.get("invoice"):
        return None
    draft = world.load("invoice", params["invoice"], param="invoice")
    if draft["status"] != "draft":
        message = "This invoice is no longer editable"
        raise refused(message, param="invoice", code="invoice_not_editable")
    return draft


def _from_params(world: World, params: Json, customer: Json) -> Json:
    currency = params.get("currency") or customer["currency"] or world.settings.currency
    quantity = params.get("quantity", 1)
    price = None
    unit = params.get("unit_amount_decimal")
    if given := (params.get("pricing") or {}).get("price"):
        price = world.load("price", given, param="pricing[price]")
        unit = amounts_of(price, currency)["unit_amount_decimal"]
    elif data := params.get("price_data"):
        from . import catalogue  # noqa: PLC0415  # only inline prices need it

        price, currency = catalogue.new_price(world, data), data["currency"]
        unit = price["unit_amount_decimal"]
    amount = params.get("amount")
    if (amount is None) is (unit is None):
        raise refused("Pass exactly one of `amount`, `unit_amount_decimal`, `pricing` and `price_data`.")
    if amount is None:
        amount = round_minor(Decimal(unit or 0) * quantity)
    period = params.get("period") or {"start": world.now, "end": world.now}
    made = new(
        world, customer["id"], amount=amount, currency=currency, quantity=quantity,
        description=params.get("description"), start=period["start"], end=period["end"],
        subscription=params.get("subscription"), price=price, unit=unit,
    )  # fmt: skip
    made["metadata"] = params.get("metadata") or {}
    made["discountable"] = params.get("discountable", made["amount"] >= 0)
    return made


@route("GET", "/v1/invoiceitems", paged({"created": RANGE, "customer": TEXT, "invoice": TEXT, "pending": BOOLEAN}))
def index(world: World, params: Json) -> Json:
    found = (
        one
        for one in world.walk("invoiceitem", customer=params.get("customer"), parent=params.get("invoice"))
        if in_range(one["date"], params.get("created"))
        and params.get("pending", one["invoice"] is None) == (one["invoice"] is None)
    )
    return lists.page(world, params, "/v1/invoiceitems", found)


@route("GET", "/v1/invoiceitems/{invoiceitem}")
def retrieve(world: World, params: Json, invoiceitem: str) -> Json:
    return world.load("invoiceitem", invoiceitem)


@route("POST", "/v1/invoiceitems/{invoiceitem}", {"description": TEXT, "metadata": METADATA})
def update(world: World, params: Json, invoiceitem: str) -> Json:
    found = world.load("invoiceitem", invoiceitem)
    fields = chosen(params, "description")
    if "metadata" in params:
        fields["metadata"] = merged_metadata(found["metadata"] or {}, params["metadata"])
    return world.change(found, None, **fields)


@route("DELETE", "/v1/invoiceitems/{invoiceitem}")
def delete(world: World, params: Json, invoiceitem: str) -> Json:
    from . import invoices  # noqa: PLC0415  # an invoice is made of items

    found = world.load("invoiceitem", invoiceitem)
    draft = world.find("invoice", found["invoice"]) if found["invoice"] else None
    if draft:
        if draft["status"] != "draft":
            raise refused("This invoice item is on a finalized invoice.", code="invoice_not_editable")
        data = draft["lines"]["data"]
        data[:] = [one for one in data if _invoice_item_of(one) != invoiceitem]
        invoices.retotal(world, draft)
        world.save(draft)
    world.forget(invoiceitem)
    world.emit("invoiceitem.deleted", found)
    return {"id": invoiceitem, "object": "invoiceitem", "deleted": True}


def _invoice_item_of(line: Json) -> str | None:
    parent = line["parent"] or {}
    details = parent.get(parent.get("type", "")) or {}
    return details.get("invoice_item")
