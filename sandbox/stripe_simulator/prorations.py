"""What a change of items credits and charges: licensed time by the second, metered usage as reported so far."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal, localcontext

from . import invoice_items, periods
from .errors import Json, missing, refused
from .invoice_lines import check_currency, licensed, name_of, usage
from .parameters import merged_metadata
from .rating import PRECISION, round_minor, unrounded
from .subscription_items import is_metered, new, plan_of, price_for, quantity_for, usage_start
from .world import World


@dataclass(frozen=True)
class Change:
    """New items, and the invoice items (not saved) that the change brings. `resets`: a new period begins now."""

    items: list[Json]
    rows: list[Json]
    resets: bool


@dataclass(frozen=True)
class Step:
    """An item before and after: None where there was none, or is none any more."""

    old: Json | None
    new: Json | None

    @property
    def is_same(self) -> bool:
        """Price and quantity did not change."""
        if self.old is None or self.new is None:
            return False
        same_price = self.old["price"]["id"] == self.new["price"]["id"]
        return bool(same_price and self.old.get("quantity") == self.new.get("quantity"))


def plan(
    world: World, subscription: Json, given: list[Json], *, at: int, is_prorated: bool, anchors_now: bool = False
) -> Change:
    """What the items will be and what is credited and charged for it; nothing is changed. Raises StripeError."""
    steps = _steps(world, subscription, given)
    items = [step.new for step in steps if step.new is not None]
    _check(subscription, items)
    resets = anchors_now or _cycle(items[0]) != _cycle(subscription["items"]["data"][0])
    if resets:
        steps = [_in_new_period(world, step) for step in steps]
        items = [step.new for step in steps if step.new is not None]
    if not is_prorated:
        return Change(items, [], resets)
    rows: list[Json] = []
    for step in steps:
        if resets or not step.is_same:
            rows += _rows(world, subscription, step, at=at, resets=resets)
    return Change(items, rows, resets)


def _steps(world: World, subscription: Json, given: list[Json]) -> list[Step]:
    held = {one["id"]: one for one in subscription["items"]["data"]}
    changed: dict[str, Json | None] = dict(held)
    added = []
    for number, wish in enumerate(given):
        param = f"items[{number}]"
        if wish.get("id"):
            if wish["id"] not in held:
                raise missing("subscription item", wish["id"], param=f"{param}[id]")
            changed[wish["id"]] = None if wish.get("deleted") else _changed(world, held[wish["id"]], wish, param)
        else:
            added.append(_added(world, subscription, wish, param))
    return [Step(held[identifier], item) for identifier, item in changed.items()] + [Step(None, one) for one in added]


def _changed(world: World, item: Json, wish: Json, param: str) -> Json:
    has_price = bool(wish.get("price") or wish.get("price_data"))
    price = price_for(world, wish, param=param) if has_price else item["price"]
    same = price["id"] == item["price"]["id"]
    quantity = quantity_for(price, wish.get("quantity", item.get("quantity") if same else None), param=param)
    after = {**item, "price": price, "plan": plan_of(price), "quantity": quantity}
    if quantity is None:
        del after["quantity"]
    if not same:
        after["_usage_from"] = world.now
    if "metadata" in wish:
        after["metadata"] = merged_metadata(item["metadata"], wish["metadata"])
    return after


def _added(world: World, subscription: Json, wish: Json, param: str) -> Json:
    price = price_for(world, wish, param=param)
    like = subscription["items"]["data"][0]
    quantity = quantity_for(price, wish.get("quantity"), param=param)
    item = new(world, subscription["id"], price, quantity, like["current_period_start"], like["current_period_end"])
    return {**item, "metadata": wish.get("metadata") or {}}


def _cycle(item: Json) -> tuple[str, int]:
    recurring = item["price"]["recurring"]
    return recurring["interval"], recurring["interval_count"]


def _check(subscription: Json, items: list[Json]) -> None:
    if not items:
        raise refused("A subscription must have at least one active item.", param="items")
    if len({_cycle(one) for one in items}) > 1:
        raise refused("This simulator needs all prices of a subscription to have the same interval.", param="items")
    prices = [one["price"]["id"] for one in items]
    if len(set(prices)) < len(prices):
        raise refused("A subscription cannot have two items with the same price.", param="items")
    check_currency(items, subscription["currency"])


def _in_new_period(world: World, step: Step) -> Step:
    if step.new is None:
        return step
    interval, count = _cycle(step.new)
    end = periods.moved(world.now, interval, count)
    moved = {**step.new, "current_period_start": world.now, "current_period_end": end, "_usage_from": world.now}
    return replace(step, new=moved)


def _rows(world: World, subscription: Json, step: Step, *, at: int, resets: bool) -> list[Json]:
    rows: list[Json] = []
    is_trial = subscription["status"] == "trialing"
    if step.old is not None and not is_trial:
        is_gone = resets or step.new is None or step.new["price"]["id"] != step.old["price"]["id"]
        if is_metered(step.old):
            rows += _usage_so_far(world, subscription, step.old) if is_gone else []
        else:
            rows.append(part(world, subscription, step.old, at=at, sign=-1))
    if step.new is not None and not is_metered(step.new) and not is_trial and not resets:
        rows.append(part(world, subscription, step.new, at=at, sign=1))
    return rows


def _usage_so_far(world: World, subscription: Json, item: Json) -> list[Json]:
    """One invoice item per tier; the quantity is what had been reported, and stays."""
    rows = []
    for line in usage(world, subscription, item, usage_start(item), world.now):
        row = invoice_items.new(
            world, subscription["customer"], amount=line["amount"], currency=line["currency"],
            quantity=line["quantity"], description=line["description"], start=line["period"]["start"],
            end=line["period"]["end"], subscription=subscription["id"], item=item["id"], price=item["price"],
            unit=line["pricing"]["unit_amount_decimal"],
        )  # fmt: skip
        row["_usage"] = {**line["_usage"], "is_frozen": True}
        rows.append(row)
    return rows


def share(amount: Decimal, *, start: int, end: int, at: int) -> int:
    """The part of a period's amount that falls between `at` and the period's end, by the second."""
    left = Decimal(max(0, min(end, end - at)))
    with localcontext(prec=PRECISION):
        return round_minor(amount * min(left, Decimal(end - start)) / Decimal(end - start))


def part(world: World, subscription: Json, item: Json, *, at: int, sign: int) -> Json:
    """Credit for the unused time (-1) or charge for the remaining time (1) of a licensed item."""
    quantity = item.get("quantity") or 0
    whole = unrounded(item["price"], subscription["currency"], quantity)
    start, end = item["current_period_start"], item["current_period_end"]
    amount = sign * share(whole, start=start, end=end, at=at)
    day = f"{datetime.fromtimestamp(at, UTC):%d %b %Y}"
    words = "Unused time on" if sign < 0 else "Remaining time on"
    return invoice_items.new(
        world, subscription["customer"], amount=amount, currency=subscription["currency"], quantity=quantity,
        description=f"{words} {quantity} x {name_of(world, item['price'])} after {day}", start=at, end=end,
        proration=True, subscription=subscription["id"], item=item["id"], price=item["price"],
        unit=item["price"]["unit_amount_decimal"],
    )  # fmt: skip


def first_part(world: World, subscription: Json, item: Json) -> list[Json]:
    """The line of a first period that is shorter because the billing day was chosen."""
    start, end = item["current_period_start"], item["current_period_end"]
    interval, count = _cycle(item)
    whole = unrounded(item["price"], subscription["currency"], item.get("quantity") or 0)
    amount = share(whole, start=periods.moved(end, interval, -count), end=end, at=start)
    line = licensed(world, subscription, item, start, end)[0]
    line["parent"]["subscription_item_details"]["proration"] = True
    return [{**line, "amount": amount, "subtotal": amount}]


def credit_all(world: World, subscription: Json) -> None:
    """Unused time of all licensed items waits as credit."""
    for item in subscription["items"]["data"]:
        if not is_metered(item) and subscription["status"] != "trialing":
            world.add(part(world, subscription, item, at=world.now, sign=-1), "invoiceitem.created")
