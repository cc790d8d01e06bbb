"""A simulated Stripe whose every request, answer and event is held against the stripe package's types."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.stripe_simulator import StripeSimulator
from sandbox.stripe_simulator.messages import Request

from . import contract
from .shop import Shop

NOON = 1_795_521_600  # 2026-11-24 12:00 UTC


class Watch:
    """Collects what breaks the contract."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.seen: set[str] = set()

    def __call__(self, request: Request, params: dict[str, Any], status: int, body: Any) -> None:
        where = f"{request.method} {request.path} -> {status}"
        if status < 400:
            self.seen.add(body.get("object", "") if isinstance(body, dict) else "")
            self._add(where, contract.request_problems(request.method, request.path, params))
            self._add(where, contract.response_problems(request.method, request.path, body))
        elif status != 404:
            assert {"type", "message"} <= set(body["error"]), body

    def check_events(self, stripe: StripeSimulator) -> None:
        for event in [*stripe.events, *stripe.objects("v2.core.event")]:
            self._add(event["type"], contract.event_problems(event))

    def _add(self, where: str, found: list[str]) -> None:
        self.problems += [f"{where}: {problem}" for problem in found]


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def stripe(watch: Watch) -> Iterator[StripeSimulator]:
    """Frozen at noon, usage visible after one second; what it shows and sends keeps the contract."""
    with StripeSimulator(start=NOON, is_frozen=True, seed=7) as simulator:
        simulator.api.observers.append(watch)
        yield simulator
        watch.check_events(simulator)
    assert not watch.problems, json.dumps(sorted(set(watch.problems)), indent=1)


@pytest.fixture
def shop(stripe: StripeSimulator) -> Shop:
    """A client, a catalogue and customers."""
    return Shop(stripe)
