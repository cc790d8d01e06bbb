"""The simulator's own count of usage, kept apart from the meters, and what was invoiced for it."""

from typing import Any

from .errors import Json
from .world import World, subscription_of


def note(
    world: World, identifier: str, event_name: str, customer: str, *, value: int | str, at: int, fate: str
) -> None:
    """An event was accepted, cancelled or rejected."""
    world.store.db.execute(
        "INSERT INTO oracle_events (identifier, event_name, customer, value, at, fate) VALUES (?, ?, ?, ?, ?, ?)",
        (identifier, event_name, customer, str(value)[:40], at, fate),
    )


def report(world: World) -> Json:
    """Accepted value per customer and meter, per subscription item and period, and what was invoiced."""
    return {
        "now": world.now,
        "usage": _usage(world),
        "periods": _periods(world),
        "rejected": _rejected(world),
    }


def accepted(world: World, customer: str, event_name: str, *, start: int = 0, end: int = 1 << 62) -> int:
    """Accepted less cancelled value with a timestamp in [start, end)."""
    (total,) = world.store.db.execute(
        "SELECT COALESCE(SUM(CAST(value AS INTEGER)), 0) FROM oracle_events"
        " WHERE customer = ? AND event_name = ? AND at >= ? AND at < ? AND fate IN ('accepted', 'cancelled')",
        (customer, event_name, start, end),
    ).fetchone()
    return int(total)


def _usage(world: World) -> list[Json]:
    rows = world.store.db.execute(
        "SELECT customer, event_name, SUM(CAST(value AS INTEGER)), SUM(fate = 'accepted'), SUM(fate = 'cancelled')"
        " FROM oracle_events WHERE fate IN ('accepted', 'cancelled') GROUP BY customer, event_name ORDER BY 1, 2"
    )
    names = ("customer", "event_name", "accepted", "events", "cancelled")
    return [dict(zip(names, row, strict=True)) for row in rows.fetchall()]


def _rejected(world: World) -> list[Json]:
    rows = world.store.db.execute(
        "SELECT identifier, customer, event_name, value, at, fate FROM oracle_events"
        " WHERE fate NOT IN ('accepted', 'cancelled') ORDER BY seq"
    )
    names = ("identifier", "customer", "event_name", "value", "timestamp", "why")
    return [dict(zip(names, row, strict=True)) for row in rows.fetchall()]


def _periods(world: World) -> list[Json]:
    """Windows of usage: those that were invoiced, and the open one of each metered item."""
    windows = _invoiced(world)
    for subscription in world.all("subscription"):
        if subscription["status"] not in {"canceled", "incomplete_expired"}:
            for item in subscription["items"]["data"]:
                _add_open(windows, subscription, item)
    for window in windows.values():
        meter = world.load("billing.meter", window["meter"])
        window["event_name"] = meter["event_name"]
        window["accepted"] = accepted(
            world, window["customer"], meter["event_name"], start=window["start"], end=window["end"]
        )
    return sorted(windows.values(), key=lambda one: (one["customer"], one["start"], one["subscription_item"]))


def _invoiced(world: World) -> dict[Any, Json]:
    windows: dict[Any, Json] = {}
    for invoice in world.all("invoice", is_ascending=True):
        if invoice["status"] == "void":
            continue
        for line in invoice["lines"]["data"]:
            if span := line.get("_usage"):
                key = (span["item"], span["start"], span["end"])
                window = windows.setdefault(key, _window(span, subscription_of(invoice), invoice))
                window["invoiced_quantity"] += line["quantity"] or 0
                window["invoiced_amount"] += line["amount"]
    return windows


def _window(span: Json, subscription: str | None, invoice: Json | None) -> Json:
    state = "open" if invoice is None else "draft" if invoice["status"] == "draft" else "final"
    return {
        "customer": span["customer"],
        "subscription": subscription,
        "subscription_item": span["item"],
        "price": span["price"],
        "meter": span["meter"],
        "start": span["start"],
        "end": span["end"],
        "state": state,
        "invoice": invoice["id"] if invoice else None,
        "currency": span["currency"],
        "invoiced_quantity": 0,
        "invoiced_amount": 0,
    }


def _add_open(windows: dict[Any, Json], subscription: Json, item: Json) -> None:
    meter = item["price"]["recurring"]["meter"]
    if not meter:
        return
    start, end = max(item["current_period_start"], item["_usage_from"]), item["current_period_end"]
    span = {
        "customer": subscription["customer"], "item": item["id"], "price": item["price"]["id"], "meter": meter,
        "start": start, "end": end, "currency": subscription["currency"],
    }  # fmt: skip
    windows.setdefault((item["id"], start, end), _window(span, subscription["id"], None))
