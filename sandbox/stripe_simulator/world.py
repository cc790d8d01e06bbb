"""The state that requests, timers and pages work on: objects, events, ids, time and the one lock around them."""

import json
import string
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from .clock import Clock
from .errors import Json, StripeError, missing
from .store import Store

API_VERSION = "2026-08-26.dahlia"
ACCOUNT_ID = "acct_1MeterhouseSandbox"
LETTERS = string.ascii_letters + string.digits

# How an object's `object` is called in Stripe's sentences.
NOUNS = {
    "billing.meter": "meter", "checkout.session": "checkout.session", "subscription_schedule": "subscription schedule",
    "promotion_code": "promotion code", "payment_method": "PaymentMethod", "invoiceitem": "invoiceitem",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How this Stripe behaves; fixed when it starts."""

    api_keys: tuple[str, ...] = ("sk_test_simulatedsimulatedsimulated",)
    url: str = "http://127.0.0.1"  # of the pages it hands out
    summary_delay_seconds: float = 1.0
    meter_checks: str = "asynchronous"  # or "synchronous": payloads are refused at once
    draft_seconds: int = 3_600
    retry_days: tuple[int, ...] = (3, 5, 7)
    after_retries: str = "unpaid"  # or "cancel", "past_due"
    country: str = "US"
    currency: str = "usd"
    delivery_retry_seconds: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 64)


@dataclass
class Origin:
    """The request that is being answered; empty while a timer runs."""

    request_id: str | None = None
    idempotency_key: str | None = None


@dataclass
class World:
    """Everything there is. Hold `lock` for as long as you use it."""

    store: Store
    clock: Clock
    settings: Settings
    lock: threading.RLock = field(default_factory=threading.RLock)
    origin: Origin = field(default_factory=Origin)
    random: Random = field(default_factory=Random)
    emitted: Callable[[Json], None] = lambda event: None
    wake: Callable[[], None] = lambda: None
    # A fault may reject an accepted meter event later: (identifier, event name) -> (code, message)
    verdict: Callable[[str, str], tuple[str, str] | None] = lambda identifier, event_name: None

    # Within one transaction every object exists once, so that all who change it change the same one.
    _held: dict[str, Json] = field(default_factory=dict)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block or nothing; hold the lock."""
        if self.store.db.in_transaction:
            yield
            return
        self._held.clear()
        try:
            with self.store.transaction():
                yield
        finally:
            self._held.clear()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Inside a transaction: a refusal undoes the block, unless its effect is to be kept."""
        self.store.db.execute("SAVEPOINT attempt")
        try:
            yield
        except StripeError as error:
            if not error.keeps_effect:
                self.store.db.execute("ROLLBACK TO attempt")
                self._held.clear()
            self.store.db.execute("RELEASE attempt")
            raise
        self.store.db.execute("RELEASE attempt")

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Inside a transaction: the block leaves no trace, as a preview must not."""
        self.store.db.execute("SAVEPOINT undone")
        try:
            yield
        finally:
            self.store.db.execute("ROLLBACK TO undone")
            self.store.db.execute("RELEASE undone")
            self._held.clear()

    @property
    def now(self) -> int:
        """The simulated second."""
        return int(self.clock.now())

    def new_id(self, prefix: str, length: int = 24) -> str:
        return f"{prefix}_{''.join(self.random.choices(LETTERS, k=length))}"

    def find(self, kind: str, identifier: Any) -> Json | None:
        """The object, or None."""
        found = self.any(str(identifier))
        return found if found is not None and found["object"] == kind else None

    def any(self, identifier: str) -> Json | None:
        """The object with this id, whatever it is."""
        if identifier not in self._held:
            body = self.store.get(identifier)
            if body is None:
                return None
            self._held[identifier] = json.loads(body)
        return self._held[identifier]

    def load(self, kind: str, identifier: Any, *, param: str | None = None) -> Json:
        """The object; raises StripeError. `param` is the parameter that named it, None if the path did."""
        found = self.find(kind, identifier)
        if found is None:
            raise missing(NOUNS.get(kind, kind), str(identifier), param=param)
        return found

    def walk(self, kind: str, **where: Any) -> Iterator[Json]:
        """Objects of a kind, newest first; see `Store.walk`."""
        for identifier, body in self.store.walk(kind, **where):
            held = self._held.get(identifier)
            if held is None:
                held = json.loads(body)
                if kind != "event":
                    self._held[identifier] = held
            yield held

    def all(self, kind: str, **where: Any) -> list[Json]:
        """The same, as a list: while walking, nothing may be saved."""
        return list(self.walk(kind, **where))

    def forget(self, identifier: str) -> None:
        """The object is gone."""
        self._held.pop(identifier, None)
        self.store.delete(identifier)

    def save(self, thing: Json) -> None:
        """Stored as it is, without an event."""
        kind = thing["object"]
        self._held[thing["id"]] = thing
        self.store.put(thing, kind=kind, parent=_parent(kind, thing))

    def add(self, thing: Json, event: str | None = None) -> Json:
        """A new object, and its event."""
        self.save(thing)
        if event:
            self.emit(event, thing)
        return thing

    def change(self, thing: Json, event: str | None, **fields: Any) -> Json:
        """The fields are set; the event says what they were. Nothing happens if nothing differs."""
        previous = {name: thing.get(name) for name, value in fields.items() if thing.get(name) != value}
        thing.update(fields)
        if previous:
            self.save(thing)
            if event:
                self.emit(event, thing, previous={name: v for name, v in previous.items() if not name.startswith("_")})
        return thing

    def emit(self, name: str, thing: Json, *, previous: Json | None = None) -> Json:
        """The event exists and is on its way to the endpoints when the transaction commits."""
        payload: Json = {"object": public(thing)}
        if previous:
            payload["previous_attributes"] = public(previous)
        event = {
            "id": self.new_id("evt"),
            "object": "event",
            "api_version": API_VERSION,
            "created": self.now,
            "data": payload,
            "livemode": False,
            "pending_webhooks": 0,
            "request": {"id": self.origin.request_id, "idempotency_key": self.origin.idempotency_key},
            "type": name,
        }
        self.save(event)
        self.emitted(event)
        return event


# What lists of a kind are mostly narrowed to: the field that goes into the index.
PARENTS = {
    "event": "type", "invoiceitem": "invoice", "invoice_payment": "invoice", "credit_note": "invoice",
    "charge": "payment_intent", "refund": "charge", "link": "to",
}  # fmt: skip


def _parent(kind: str, thing: Json) -> str | None:
    if kind == "invoice":
        return subscription_of(thing)
    return thing[PARENTS[kind]] if kind in PARENTS else None


def subscription_of(invoice: Json) -> str | None:
    """The subscription an invoice is for."""
    parent = invoice.get("parent") or {}
    return (parent.get("subscription_details") or {}).get("subscription")


def public(value: Any) -> Any:
    """A copy without the fields that only the simulator knows (they begin with "_")."""
    if isinstance(value, dict):
        return {key: public(inner) for key, inner in value.items() if not key.startswith("_")}
    if isinstance(value, list):
        return [public(inner) for inner in value]
    return value


def listing(url: str, data: list[Json], *, has_more: bool = False) -> Json:
    """A list object."""
    return {"object": "list", "data": data, "has_more": has_more, "url": url}
