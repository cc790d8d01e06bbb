"""The state outlives the process, and nothing but this machine can reach it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.stripe_simulator import StripeSimulator
from sandbox.stripe_simulator.__main__ import main
from sandbox.stripe_simulator.clock import TimeGoesForward
from sandbox.stripe_simulator.server import NotLoopback

from .conftest import NOON
from .shop import Shop, client

ROOT = Path(__file__).resolve().parents[3]
KEY = "sk_test_fromtheenvironment000000000"


def test_stopping_and_starting_keeps_everything(tmp_path: Path) -> None:
    state = str(tmp_path / "stripe.sqlite")
    with StripeSimulator(state=state, start=NOON, is_frozen=True) as stripe:
        shop = Shop(stripe)
        customer = shop.customer()
        subscription = shop.subscribe(customer).id
        shop.use(customer, 1_200, identifier="u1")
        stripe.clock.advance(1_000)
        shop.v1.customers.create({"name": "globex"}, {"idempotency_key": "k"})

    with StripeSimulator(state=state, start=NOON + 5, is_frozen=True) as stripe:
        assert stripe.clock.now == NOON + 1_000
        assert stripe.accepted(customer, "calls") == 1_200
        client(stripe).v1.customers.create({"name": "globex"}, {"idempotency_key": "k"})
        assert len(stripe.customers) == 2
        stripe.clock.to_next_invoice()
        stripe.clock.advance(3_600)
        invoice = stripe.invoices[stripe.subscriptions[subscription]["latest_invoice"]]
        assert invoice["total"] == 2_900 + 50


@contextmanager
def process(state: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A simulator of its own, and its address."""
    command = [sys.executable, "-m", "sandbox.stripe_simulator", "--port", "0", "--state", str(state)]
    environment = {**os.environ, "STRIPE_SIMULATOR_API_KEYS": KEY}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as running:
        assert running.stdout
        line = running.stdout.readline()
        try:
            yield running, line.split()[3]
        finally:
            running.kill()


def test_a_killed_process_has_lost_nothing_it_answered(tmp_path: Path) -> None:
    state = tmp_path / "stripe.sqlite"
    with process(state) as (running, url):
        simulator = StripeSimulator.__new__(StripeSimulator)
        simulator.url = url
        made = client(simulator, key=KEY).v1.customers.create({"name": "acme"}).id
        running.send_signal(signal.SIGKILL)
        running.wait()

    with StripeSimulator(state=str(state)) as stripe:
        assert stripe.customers[made]["name"] == "acme"


def test_a_terminated_process_ends_by_itself(tmp_path: Path) -> None:
    with process(tmp_path / "stripe.sqlite") as (running, _):
        running.terminate()
        assert running.wait(timeout=20) == 0


def test_it_binds_to_this_machine_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotLoopback):
        StripeSimulator(host="0.0.0.0")  # noqa: S104  # that is what must not work
    assert main(["--host", "192.0.2.1"]) == 2
    assert "this machine only" in capsys.readouterr().err
    assert main(["--port", "0", "--webhook-url", "http://example.com/hook"]) == 2


def test_time_never_goes_backwards() -> None:
    with StripeSimulator(start=NOON, is_frozen=True) as stripe:
        stripe.clock.advance(10)
        with pytest.raises(TimeGoesForward):
            stripe.clock.to(NOON)


def test_a_running_clock_does_what_is_due_by_itself() -> None:
    with StripeSimulator(start=NOON) as stripe:
        assert stripe.clock.now >= NOON
        shop = Shop(stripe)
        shop.subscribe(shop.customer())
        stripe.clock.to(NOON + 30 * 86_400 + 3_600)
        assert [one["status"] for one in stripe.invoices] == ["paid", "paid"]
