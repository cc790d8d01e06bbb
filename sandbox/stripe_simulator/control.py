"""What only a simulator has, under /_simulator: the clock, faults, the oracle, cards, refunds and disputes."""

from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, TypeVar

from . import endpoints, oracle, payment_methods, refunds, timers
from .api import Api
from .clock import TimeGoesForward
from .deliveries import Queue
from .errors import Json, StripeError
from .faults import NotAFault
from .messages import Answer, Request, as_json
from .world import World, public

PREFIX = "/_simulator/"
Act = Callable[["Control", Json], Any]
A = TypeVar("A", bound=Act)
T = TypeVar("T")
ACTS: dict[tuple[str, str], Act] = {}


def act(method: str, name: str) -> Callable[[A], A]:
    """Register what answers a control."""

    def register(run: A) -> A:
        ACTS[method, name] = run
        return run

    return register


class Control:
    """The control endpoints; each takes and gives JSON."""

    def __init__(self, world: World, api: Api, queue: Queue) -> None:
        self.world, self.api, self.queue = world, api, queue

    def answer(self, request: Request) -> Answer:
        name = request.path.removeprefix(PREFIX)
        run = ACTS.get((request.method, name))
        if run is None:
            known = sorted(f"{method} {PREFIX}{one}" for method, one in ACTS)
            return as_json(HTTPStatus.NOT_FOUND, {"error": "No such control.", "controls": known})
        try:
            given = request.json()
            return as_json(HTTPStatus.OK, run(self, given if isinstance(given, dict) else {}))
        except (ValueError, KeyError, TypeError, TimeGoesForward, NotAFault) as error:
            return as_json(HTTPStatus.BAD_REQUEST, {"error": f"{type(error).__name__}: {error}"})
        except StripeError as error:
            return as_json(error.status, {"error": str(error)})

    def within(self, run: Callable[[World], T]) -> T:
        """The effect and its events, in one transaction at one moment."""
        with self.world.lock:
            self.world.clock.pin()
            try:
                with self.world.transaction():
                    shown: T = public(run(self.world))
                    return shown
            finally:
                self.world.clock.unpin()
                self.world.wake()


@act("GET", "clock")
def clock(control: Control, given: Json) -> Json:
    with control.world.lock:
        upcoming = timers.earliest(control.world, until=float("inf"))
        return {
            "now": control.world.now,
            "is_frozen": control.world.clock.is_frozen,
            "next": {"action": upcoming.action, "id": upcoming.id, "at": upcoming.at} if upcoming else None,
        }


@act("POST", "clock")
def move_clock(control: Control, given: Json) -> Json:
    """`advance_seconds`, `to`, or `to_next_invoice`: time passes, and all that is due happens in order."""
    done = timers.advance(control.world, moment(control.world, given))
    return {**clock(control, {}), "happened": done}


def moment(world: World, given: Json) -> float:
    """The moment asked for; raises ValueError when there is none."""
    with world.lock:
        now = world.clock.now()
        if given.get("to_next_invoice"):
            renewal = timers.earliest(world, until=float("inf"), name="renew")
            if renewal is None:
                raise ValueError("No subscription renews.")
            return max(now, renewal.at)
    if "to" in given:
        return float(given["to"])
    seconds = float(given["advance_seconds"])
    if seconds < 0:
        raise ValueError("Time never goes backwards.")
    return now + seconds


@act("GET", "faults")
def faults(control: Control, given: Json) -> Json:
    return {"rules": control.api.faults.rules()}


@act("POST", "faults")
def add_faults(control: Control, given: Json) -> Json:
    """`seed` and `rules`, added to those in force."""
    if "seed" in given:
        control.api.faults.seed(given["seed"])
    for rule in given.get("rules") or []:
        options = dict(rule)
        control.api.faults.add(options.pop("kind"), **options)
    return faults(control, {})


@act("DELETE", "faults")
def clear_faults(control: Control, given: Json) -> Json:
    control.api.faults.clear()
    return faults(control, {})


@act("GET", "oracle")
def show_oracle(control: Control, given: Json) -> Any:
    return control.within(oracle.report)


@act("GET", "requests")
def requests(control: Control, given: Json) -> Json:
    return {"requests": [asdict(line) for line in list(control.api.log)]}


@act("GET", "deliveries")
def deliveries(control: Control, given: Json) -> Json:
    return {"deliveries": control.queue.report()}


@act("POST", "cards")
def cards(control: Control, given: Json) -> Any:
    """All cards of `customer` behave as `behavior` says: works, declines, fails_on_renewal."""
    if given["behavior"] not in payment_methods.BEHAVIORS:
        raise ValueError(f"behavior is one of {', '.join(payment_methods.BEHAVIORS)}")
    changed = control.within(lambda world: payment_methods.set_behavior(world, given["customer"], given["behavior"]))
    return {"changed": changed}


def _latest_charge(world: World, given: Json) -> Json:
    if given.get("charge"):
        return world.load("charge", given["charge"])
    customer = world.load("customer", given["customer"])
    for charge in world.all("charge", customer=customer["id"]):
        if charge["paid"] and not charge["refunded"] and not charge["disputed"]:
            return charge
    raise ValueError(f"{customer['id']} has no charge that could be refunded or disputed.")


@act("POST", "refunds")
def refund(control: Control, given: Json) -> Any:
    """The latest charge of `customer` (or `charge`) is refunded, or `amount` of it."""
    return control.within(
        lambda world: refunds.refund_charge(world, _latest_charge(world, given), amount=given.get("amount"))
    )


@act("POST", "disputes")
def dispute(control: Control, given: Json) -> Any:
    """The latest charge of `customer` (or `charge`) is disputed."""
    return control.within(
        lambda world: refunds.dispute_charge(
            world, _latest_charge(world, given), reason=given.get("reason") or "fraudulent"
        )
    )


@act("POST", "disputes/close")
def close_dispute(control: Control, given: Json) -> Any:
    """`dispute` is `won` or `lost`."""
    if given["status"] not in {"won", "lost"}:
        raise ValueError("status is won or lost")
    return control.within(
        lambda world: refunds.close_dispute(world, world.load("dispute", given["dispute"]), status=given["status"])
    )


@act("POST", "subscriptions")
def give_up(control: Control, given: Json) -> Any:
    """`subscription` is `unpaid`, as after the last attempt to be paid."""
    if given["status"] != "unpaid":
        raise ValueError("status is unpaid")

    def run(world: World) -> Json:
        found = world.load("subscription", given["subscription"])
        for invoice in world.walk("invoice", parent=found["id"]):
            timers.cancel(world, "collect", invoice["id"])
            if invoice["status"] == "open":
                world.change(invoice, None, auto_advance=False, next_payment_attempt=None)
        world.change(found, "customer.subscription.updated", status="unpaid")
        return found

    return control.within(run)


@act("POST", "events")
def send_event(control: Control, given: Json) -> Any:
    """An event of `type` about the object `id`, whether anything happened or not."""

    def run(world: World) -> Json:
        found = world.any(given["id"])
        if found is None:
            raise ValueError(f"There is no {given['id']}.")
        return world.emit(given["type"], found)

    return control.within(run)


@act("POST", "webhooks")
def webhooks(control: Control, given: Json) -> Json:
    """`hold`, `release` (in this order), `drop`, or `secrets` for the endpoint with this `url`."""
    if given.get("hold"):
        control.queue.hold()
    if given.get("drop"):
        control.queue.drop()
    if "release" in given:
        control.queue.release(given["release"] or "oldest")
    if "secrets" in given:
        control.within(lambda world: endpoints.rotate(world, given["url"], tuple(given["secrets"])))
    return deliveries(control, {})


@act("POST", "keys")
def keys(control: Control, given: Json) -> Json:
    """Exactly these secret keys are accepted from now on."""
    control.api.keys[:] = [str(key) for key in given["keys"]]
    return {"accepted": len(control.api.keys)}
