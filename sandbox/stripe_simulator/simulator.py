"""The simulated Stripe as one object: start it, drive it from a test, stop it."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from random import Random
from types import TracebackType
from typing import Any, Self, TypeVar

from . import control, endpoints, oracle, payment_methods, refunds, timers
from .api import Api
from .clock import Clock
from .deliveries import Queue
from .endpoints import Endpoint
from .errors import Json
from .faults import Faults
from .messages import Answer, Request, as_json
from .pages import checkout as _checkout_page  # noqa: F401  # registers its pages
from .pages import html, index
from .pages import invoice as _invoice_page  # noqa: F401  # registers its pages
from .pages import portal as _portal_page  # noqa: F401  # registers its pages
from .resources import EVERY  # noqa: F401  # registers the routes
from .server import Server
from .store import Store
from .world import Settings, World, public

T = TypeVar("T")
log = logging.getLogger(__name__)
TICK_SECONDS = 0.25
DEFAULT_SECRET = "whsec_simulatedsimulatedsimulated00"  # noqa: S105  # of a sandbox on this machine
THIN_SECRET = "whsec_thinsimulatedthinsimulated000"  # noqa: S105  # of a sandbox on this machine


class ClockHandle:
    """The clock, from a test's side."""

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def now(self) -> int:
        with self._world.lock:
            return self._world.now

    def advance(self, seconds: float) -> int:
        """Time passes and all that is due happens; how many things did."""
        return timers.advance(self._world, control.moment(self._world, {"advance_seconds": seconds}))

    def to(self, moment: float) -> int:
        return timers.advance(self._world, moment)

    def to_next_invoice(self) -> int:
        """It is the second of the next renewal; its invoice is a draft."""
        return timers.advance(self._world, control.moment(self._world, {"to_next_invoice": True}))


class Objects:
    """Objects of one kind by id, newest last: `stripe.customers["cus_..."]`, `list(stripe.invoices)`."""

    def __init__(self, world: World, kind: str) -> None:
        self._world, self._kind = world, kind

    def __getitem__(self, identifier: str) -> Json:
        with self._world.lock, self._world.transaction():
            found: Json = public(self._world.load(self._kind, identifier))
        return found

    def all(self, **where: Any) -> list[Json]:
        """Those whose fields have these values, the oldest first."""
        with self._world.lock, self._world.transaction():
            found = [public(one) for one in self._world.all(self._kind, is_ascending=True)]
        return [one for one in found if all(one.get(name) == value for name, value in where.items())]

    def __len__(self) -> int:
        return len(self.all())

    def __iter__(self) -> Any:
        return iter(self.all())


def _endpoint(given: Endpoint | str) -> Endpoint:
    return Endpoint(given, (DEFAULT_SECRET,)) if isinstance(given, str) else given


class StripeSimulator:
    """A simulated Stripe on a free port of this machine: `with StripeSimulator(webhooks=[url]) as stripe: ...`."""

    def __init__(
        self,
        webhooks: Sequence[Endpoint | str] = (),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        state: str = ":memory:",
        start: float | None = None,
        is_frozen: bool = False,
        seed: int | None = None,
        settings: Settings | None = None,
    ) -> None:
        """`start` is the first moment of a new state; a frozen clock moves only when told."""
        made = [_endpoint(one) for one in webhooks]
        for endpoint in made:
            endpoints.check_url(endpoint.url)
        self._server = Server(host, port, self._respond)
        self.url = f"http://{host}:{self._server.server_address[1]}"
        store = Store(state)
        clock = Clock(store, start=start, is_frozen=is_frozen)
        self.settings = replace(settings or Settings(), url=self.url)
        self.world = World(store, clock, self.settings, random=Random(seed))
        self.faults = Faults(seed)
        self.webhooks = Queue(self.world, self.faults, random=Random(seed))
        self.world.emitted, self.world.wake = self.webhooks.add, self.webhooks.wake
        self.world.verdict = lambda identifier, event_name: self.faults.meter_event(event_name)
        self.api = Api(self.world, self.faults, list(self.settings.api_keys))
        self.control = control.Control(self.world, self.api, self.webhooks)
        self.clock = ClockHandle(self.world)
        self._stopping = threading.Event()
        for endpoint in made:
            self.add_webhook(endpoint)

    def add_webhook(self, endpoint: Endpoint | str) -> None:
        """The endpoint gets events from now on; raises StripeError unless it is on this machine."""
        with self.world.lock, self.world.transaction():
            endpoints.install(self.world, _endpoint(endpoint))

    def start(self) -> Self:
        """Serving, delivering and, unless frozen, ticking."""
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="stripe-http", daemon=True).start()
        self.webhooks.start()
        if not self.world.clock.is_frozen:
            threading.Thread(target=self._tick, name="stripe-clock", daemon=True).start()
        return self

    def stop(self) -> None:
        """Nothing runs any more; the state is on disk."""
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.close_all()
        self.webhooks.stop()
        with self.world.lock:
            with self.world.transaction():
                self.world.clock.keep()
            self.world.store.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _tick(self) -> None:
        while not self._stopping.wait(TICK_SECONDS):
            with self.world.lock:
                if not self._stopping.is_set():
                    timers.run_due(self.world, until=self.world.clock.now())

    def _respond(self, request: Request) -> Answer:
        try:
            return self._answer(request)
        except Exception:  # a bug of the simulator must not look like a dropped connection
            log.exception("%s %s failed", request.method, request.path)
            return as_json(
                HTTPStatus.INTERNAL_SERVER_ERROR, {"error": {"type": "api_error", "message": "simulator bug"}}
            )

    def _answer(self, request: Request) -> Answer:
        with self.world.lock:
            timers.run_due(self.world, until=self.world.clock.now())
        if request.path.startswith(("/v1/", "/v2/")):
            return self.api.answer(request)
        if request.path.startswith(control.PREFIX):
            return self.control.answer(request)
        return index.answer(self.control, request) or html.call(self.world, request)

    def objects(self, kind: str) -> Objects:
        """All objects of a kind, by Stripe's name of it: `invoice`, `checkout.session`."""
        return Objects(self.world, kind)

    @property
    def customers(self) -> Objects:
        return self.objects("customer")

    @property
    def subscriptions(self) -> Objects:
        return self.objects("subscription")

    @property
    def invoices(self) -> Objects:
        return self.objects("invoice")

    @property
    def charges(self) -> Objects:
        return self.objects("charge")

    @property
    def events(self) -> Objects:
        return self.objects("event")

    def oracle(self) -> Json:
        """The simulator's own totals."""
        return self._within(oracle.report)

    def accepted(self, customer: str, event_name: str, *, start: int = 0, end: int = 1 << 62) -> int:
        """Value of the accepted meter events with a timestamp in [start, end), less what was cancelled."""
        return self._within(lambda world: oracle.accepted(world, customer, event_name, start=start, end=end))

    def set_card(self, customer: str, behavior: str) -> int:
        """All cards of the customer: `works`, `declines`, `fails_on_renewal`."""
        return self._within(lambda world: payment_methods.set_behavior(world, customer, behavior))

    def refund(self, charge: str, *, amount: int | None = None) -> Json:
        return self._within(lambda world: refunds.refund_charge(world, world.load("charge", charge), amount=amount))

    def dispute(self, charge: str, *, reason: str = "fraudulent") -> Json:
        return self._within(lambda world: refunds.dispute_charge(world, world.load("charge", charge), reason=reason))

    def rotate_secrets(self, url: str, *secrets: str) -> None:
        """The endpoint signs with these, all at once."""
        self._within(lambda world: endpoints.rotate(world, url, secrets))

    def accept_keys(self, *keys: str) -> None:
        """Exactly these secret keys are accepted."""
        self.api.keys[:] = keys

    @property
    def requests(self) -> list[Any]:
        """The latest requests, the newest first."""
        return list(self.api.log)

    def _within(self, run: Callable[[World], T]) -> T:
        return self.control.within(run)
