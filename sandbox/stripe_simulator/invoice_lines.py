"""Lines of an invoice: usage, licensed items, invoice items; and the totals under them."""

from typing import Any

from . import coupons, meters
from .errors import Json
from .rating import Rated, amounts_of, rate
from .world import World


def _line(  # noqa: PLR0917
    world: World, amount: int, currency: str, quantity: int, start: int, end: int, description: str
) -> Json:
    return {
        "id": world.new_id("il"),
        "object": "line_item",
        "amount": amount,
        "currency": currency,
        "description": description,
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": None,
        "livemode": False,
        "metadata": {},
        "parent": None,
        "period": {"end": end, "start": start},
        "pretax_credit_amounts": [],
        "pricing": None,
        "quantity": quantity,
        "quantity_decimal": str(quantity),
        "subscription": None,
        "subtotal": amount,
        "taxes": [],
    }


def pricing(price: Json, unit_amount_decimal: str | None) -> Json:
    details = {"price": price["id"], "product": price["product"]}
    return {"price_details": details, "type": "price_details", "unit_amount_decimal": unit_amount_decimal}


def name_of(world: World, price: Json) -> str:
    product = world.find("product", price["product"])
    return str(price["nickname"] or (product["name"] if product else price["product"]))


def _says(world: World, price: Json, rated: Rated) -> str:
    recurring = price["recurring"] or {}
    tier = f"Tier {rated.tier} " if rated.tier else ""
    money = f"at {rated.unit_amount_decimal or 0} {price['currency']} minor"
    return f"{rated.quantity} x {name_of(world, price)} ({tier}{money} / {recurring.get('interval', 'once')})"


def _for_item(world: World, subscription: Json, item: Json, rated: Rated, start: int, end: int) -> Json:  # noqa: PLR0917
    price = item["price"]
    line = _line(world, rated.amount, subscription["currency"], rated.quantity, start, end, _says(world, price, rated))
    details = {
        "invoice_item": None,
        "proration": False,
        "proration_details": {"credited_items": None},
        "subscription": subscription["id"],
        "subscription_item": item["id"],
    }
    line["parent"] = {"subscription_item_details": details, "type": "subscription_item_details"}
    line["parent"]["invoice_item_details"] = None
    line["pricing"] = pricing(price, rated.unit_amount_decimal)
    line["subscription"] = subscription["id"]
    line["metadata"] = dict(subscription["metadata"])
    return line


def licensed(world: World, subscription: Json, item: Json, start: int, end: int) -> list[Json]:
    """A licensed item for one period, in advance."""
    found = rate(item["price"], subscription["currency"], item.get("quantity") or 0)
    return [_for_item(world, subscription, item, rated, start, end) for rated in found]


def trial(world: World, subscription: Json, item: Json, end: int) -> Json:
    """A licensed item while it costs nothing."""
    rated = Rated(item.get("quantity") or 1, "0", 0)
    line = _for_item(world, subscription, item, rated, world.now, end)
    line["description"] = f"Trial period for {name_of(world, item['price'])}"
    return line


def usage(world: World, subscription: Json, item: Json, start: int, end: int) -> list[Json]:
    """A metered item for [start, end): the usage that is visible now. It is counted again when the invoice is final."""
    price = item["price"]
    meter = price["recurring"]["meter"]
    quantity = meters.total(world, meter, subscription["customer"], start, end)
    lines = [
        _for_item(world, subscription, item, rated, start, end)
        for rated in rate(price, subscription["currency"], quantity)
    ]
    span = {
        "meter": meter, "customer": subscription["customer"], "item": item["id"], "price": price["id"],
        "currency": subscription["currency"], "start": start, "end": end, "is_frozen": False,
    }  # fmt: skip
    for line in lines:
        line["_usage"] = span
    return lines


def from_item(world: World, invoiceitem: Json) -> Json:
    """An invoice item as a line."""
    start, end = invoiceitem["period"]["start"], invoiceitem["period"]["end"]
    line = _line(
        world, invoiceitem["amount"], invoiceitem["currency"], invoiceitem["quantity"], start, end,
        invoiceitem["description"] or "",
    )  # fmt: skip
    details = (invoiceitem["parent"] or {}).get("subscription_details") or {}
    common: Json = {
        "invoice_item": invoiceitem["id"],
        "proration": invoiceitem["proration"],
        "proration_details": {"credited_items": None},
        "subscription": details.get("subscription"),
    }
    if details.get("subscription_item"):
        own = {**common, "subscription_item": details["subscription_item"]}
        parent: Json = {"type": "subscription_item_details", "subscription_item_details": own}
        parent["invoice_item_details"] = None
    else:
        parent = {"type": "invoice_item_details", "invoice_item_details": common, "subscription_item_details": None}
    line |= {
        "discountable": invoiceitem["discountable"], "metadata": invoiceitem["metadata"] or {}, "parent": parent,
        "pricing": invoiceitem["pricing"], "subscription": details.get("subscription"),
    }  # fmt: skip
    if "_usage" in invoiceitem:
        line["_usage"] = invoiceitem["_usage"]
    return line


def recount(world: World, invoice: Json) -> bool:
    """The usage lines of a draft say what the meters say now; True if that changed them."""
    spans: dict[Any, Json] = {}
    for line in invoice["lines"]["data"]:
        span = line.get("_usage")
        if span and not span["is_frozen"]:
            spans.setdefault((span["item"], span["start"], span["end"]), span)
    changed = [_recount_span(world, invoice, span) for span in spans.values()]
    return any(changed)


def _recount_span(world: World, invoice: Json, span: Json) -> bool:
    lines: list[Json] = invoice["lines"]["data"]
    old = [line for line in lines if line.get("_usage") == span]
    price = world.load("price", span["price"])
    rated = rate(
        price, span["currency"], meters.total(world, span["meter"], span["customer"], span["start"], span["end"])
    )
    if [(line["quantity"], line["amount"]) for line in old] == [(one.quantity, one.amount) for one in rated]:
        return False
    place = lines.index(old[0])
    fresh = []
    for number, one in enumerate(rated):
        pattern = old[number] if number < len(old) else {**old[0], "id": world.new_id("il")}
        fresh.append(
            {
                **pattern, "amount": one.amount, "subtotal": one.amount, "quantity": one.quantity,
                "quantity_decimal": str(one.quantity), "description": _says(world, price, one),
                "pricing": pricing(price, one.unit_amount_decimal),
            }
        )  # fmt: skip
    lines[:] = [line for line in lines if line.get("_usage") != span]
    lines[place:place] = fresh
    return True


def total_up(world: World, invoice: Json, balance: int) -> None:
    """Sums, discounts and what is due, after the customer's balance."""
    lines: list[Json] = invoice["lines"]["data"]
    totals = _discounted(world, invoice, lines)
    subtotal = sum(line["amount"] for line in lines)
    total = subtotal - sum(one["amount"] for one in totals)
    due = total + balance
    invoice |= {
        "subtotal": subtotal, "subtotal_excluding_tax": subtotal, "total": total, "total_excluding_tax": total,
        "total_discount_amounts": totals, "starting_balance": balance, "amount_due": max(0, due),
        "amount_remaining": max(0, due), "ending_balance": None,
    }  # fmt: skip
    invoice["total_pretax_credit_amounts"] = [{**one, "type": "discount"} for one in totals]
    for line in lines:
        line["invoice"] = invoice["id"]


def _discounted(world: World, invoice: Json, lines: list[Json]) -> list[Json]:
    for line in lines:
        line["discount_amounts"], line["pretax_credit_amounts"] = [], []
    totals = []
    for identifier in invoice["discounts"]:
        discount = world.find("discount", identifier)
        amounts = coupons.amounts_off(world, discount, lines, at=invoice["created"]) if discount else [0] * len(lines)
        for line, amount in zip(lines, amounts, strict=True):
            if amount:
                line["discount_amounts"].append({"amount": amount, "discount": identifier})
                line["pretax_credit_amounts"].append({"amount": amount, "discount": identifier, "type": "discount"})
        totals.append({"amount": sum(amounts), "discount": identifier})
    return totals


def check_currency(items: list[Json], currency: str) -> None:
    """Raises StripeError when a price has no amount in the currency."""
    for item in items:
        amounts_of(item["price"], currency)
