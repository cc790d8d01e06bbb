"""Handling Stripe's events: the worker killed at every step, Stripe failing in every way, PostgreSQL and Valkey away."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections
from pytest_django import Settings

from billing import inbox, stripe_api, sweep
from billing.models import Account, PaymentState, StripeEvent, StripePrices
from metering.models import Allowance
from sandbox.stripe_simulator import Endpoint
from tenants.models import AuditEntry, Notice
from tests.billing import conftest as fixtures
from tests.billing.conftest import Stripe, public
from tests.billing.test_webhooks import SECRET, signature, snapshot
from tests.conftest import ROOT, MakeTenant, Product, wait_until
from tests.faults.conftest import Breakable
from tests.faults.test_other_processes import env

pytestmark = pytest.mark.usefixtures("committed")
stripe = fixtures.stripe
KILLED = -signal.SIGKILL
MINUTE = timedelta(minutes=1)
MakePayer = Callable[[], Account]


@pytest.fixture
def make_payer(stripe: Stripe, make_tenant: MakeTenant, settings: Settings) -> Iterator[MakePayer]:
    """A tenant that has just paid for Launch at Stripe, of which we have not heard yet."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    leave_stripe()
    version = public("launch")
    product = stripe.client.v1.products.create({"name": "Launch"})
    price = stripe.client.v1.prices.create(
        {"product": product.id, "currency": "usd", "unit_amount": version.fee_minor, "recurring": {"interval": "month"}}
    )
    prices = StripePrices.objects.create(version=version, product_id=product.id, fee_price_id=price.id)

    def make() -> Account:
        account = make_tenant().account
        stripe_api.subscribe(
            customer_id=stripe.customer_of(account), tenant_id=account.pk, prices=prices, currency="usd", anchor=None,
            key=str(account.pk),
        )  # fmt: skip
        return account

    yield make
    prices.delete()
    leave_stripe()


def leave_stripe() -> None:
    """No account is known to any Stripe: these tests' database outlives their Stripes, whose ids begin anew."""
    Account.objects.filter(customer_id__isnull=False).update(
        customer_id=None, subscription_id=None, state=PaymentState.NONE, past_due_since=None
    )


def put_event(account: Account, now: datetime) -> str:
    """An event about the account, whose object nobody mirrors."""
    about = {"id": "ba_1", "object": "balance", "customer": account.customer_id}
    body = snapshot(type="customer.subscription.created", data={"object": about})
    assert inbox.store(kind=StripeEvent.Kind.SNAPSHOT, body=body, now=now)
    return str(body["id"])


class Dying:
    """Counts statements, and kills its process before one of them."""

    def __init__(self, kill_before: int | None) -> None:
        self.kill_before, self.seen = kill_before, 0

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        self.seen += 1
        if self.seen == self.kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        return execute(sql, params, many, context)


def in_child(run: Callable[[], object], *, kill_before: int | None = None) -> int:
    """Run it in a process of its own, killed just before its n-th statement; how many it made, or -9 for killed."""
    connections.close_all()
    pid = os.fork()
    if pid == 0:
        dying, code = Dying(kill_before), 255
        try:
            with connection.execute_wrapper(dying):
                run()
            code = min(dying.seen, 254)
        finally:
            os._exit(code)  # no exit handlers
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def assert_followed(account: Account, event_id: str) -> None:
    """The account is on what was paid, and all that follows was done and told exactly once."""
    account.refresh_from_db()
    assert (account.state, account.plan_version.plan.code) == (PaymentState.ACTIVE, "launch")
    assert Allowance.objects.get(tenant=account.tenant).included == 100_000
    assert StripeEvent.objects.get(pk=event_id).state == StripeEvent.State.HANDLED
    assert Notice.objects.filter(tenant=account.tenant, kind="plan.began").count() == 1
    assert AuditEntry.objects.filter(tenant=account.tenant, action="plan.changed").count() == 1


def test_a_worker_killed_at_any_step_leaves_nothing_undone_and_nothing_twice(
    stripe: Stripe, make_payer: MakePayer, is_long: bool
) -> None:
    now = stripe.now
    account = make_payer()
    event_id = put_event(account, now)
    steps = in_child(lambda: inbox.handle(event_id=event_id, now=now))
    assert 10 < steps < 200
    assert_followed(account, event_id)
    for step in range(1, steps + 1, 1 if is_long else 7):
        account = make_payer()
        event_id = put_event(account, now)
        if in_child(lambda: inbox.handle(event_id=event_id, now=now), kill_before=step) != KILLED:  # noqa: B023
            assert step > steps // 2, (
                "the first account took more statements, to know what the others share; not so many"
            )
            break
        assert inbox.handle_due(now=now + timedelta(seconds=59)) == (step == 1)  # it is claimed by then
        inbox.handle_due(now=now + MINUTE)
        assert_followed(account, event_id)


def test_a_worker_killed_in_a_sweep_leaves_it_to_the_next(stripe: Stripe, make_payer: MakePayer) -> None:
    payers = [make_payer() for _ in range(3)]
    now = stripe.now
    steps = 0
    while in_child(lambda: sweep.sweep(now=now), kill_before=20 + steps) == KILLED:
        steps += 15
    assert steps
    for account in payers:
        account.refresh_from_db()
        assert account.state == PaymentState.ACTIVE
        assert Notice.objects.filter(tenant=account.tenant, kind="plan.began").count() == 1


@pytest.mark.parametrize("seed", [1, 2])
def test_with_stripe_failing_in_every_way_all_comes_right(
    stripe: Stripe, make_payer: MakePayer, settings: Settings, seed: int
) -> None:
    settings.STRIPE_TIMEOUT_SECONDS = 0.2
    waiting = [(account := make_payer(), put_event(account, stripe.now)) for _ in range(4)]
    stripe.faults.seed(seed)
    for kind in (
        "drop_before",
        "drop_after",
        "error_500_before",
        "error_500_after",
        "rate_limit_429",
        "garbage",
        "timeout",
    ):
        stripe.faults.add(kind, method="GET", probability=0.12, count=1_000, seconds=0.3)
    now = stripe.now
    for _ in range(60):
        now += 5 * MINUTE
        inbox.handle_due(now=now)
    stripe.faults.clear()
    for account, event_id in waiting:
        assert_followed(account, event_id)


# -- a real product ----------------------------------------------------------------------------------------------------


def send(product: Product, payload: bytes) -> tuple[int, float]:
    """Post a webhook over the wire; the status and how many seconds it took."""
    started = time.monotonic()
    client = http.client.HTTPConnection(*product.address, timeout=30)
    try:
        headers = {"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": signature(payload)}
        client.request("POST", "/webhooks/stripe", payload, headers)
        response = client.getresponse()
        response.read()
        return response.status, time.monotonic() - started
    finally:
        client.close()


def test_what_comes_in_while_servers_are_away_is_not_lost(
    breakable: Breakable, start_product: Callable[..., Product]
) -> None:
    """PostgreSQL away: 503, and Stripe sends it again. Valkey dead or hung: 200, stored, and soon."""
    product = start_product(workers=1, STRIPE_WEBHOOK_SECRETS=SECRET)
    bodies = [snapshot() for _ in range(4)]
    payloads = [json.dumps(body).encode() for body in bodies]
    assert send(product, payloads[0])[0] == 200
    with breakable.down(breakable.postgres, signal.SIGKILL):
        assert send(product, payloads[1])[0] == 503
    deadline = time.monotonic() + 15
    while send(product, payloads[1])[0] != 200:
        assert time.monotonic() < deadline
    with breakable.down(breakable.valkey, signal.SIGKILL):
        assert send(product, payloads[2])[0] == 200
    with breakable.frozen(breakable.valkey):
        status, seconds = send(product, payloads[3])
    assert (status, seconds < 5) == (200, True)
    ids = [body["id"] for body in bodies]
    connections.close_all()  # ours was lost with the server
    assert StripeEvent.objects.filter(pk__in=ids, state=StripeEvent.State.RECEIVED).count() == 4


@pytest.fixture
def start_worker(stripe: Stripe, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Start a real Celery worker that works for this Stripe."""
    running: list[subprocess.Popen[bytes]] = []
    address = {"STRIPE_API_BASE": stripe.url, "STRIPE_TEST_SECRET_KEY": fixtures.KEY, "STRIPE_LIVE_MODE": "false"}
    command = [
        sys.executable, "-m", "celery", "-A", "config.celery", "worker", "--pool", "solo", "--loglevel", "INFO",
        "--without-gossip", "--without-mingle", "--without-heartbeat",
    ]  # fmt: skip

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "worker.log").open("ab") as log:
            worker = subprocess.Popen(command, env={**env(), **address}, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        running.append(worker)
        return worker

    yield start
    for worker in running:
        if worker.poll() is None:
            worker.kill()
        worker.wait()


def test_from_the_payment_to_what_is_enforced_with_real_processes(
    stripe: Stripe,
    make_payer: MakePayer,
    start_product: Callable[..., Product],
    start_worker: Callable[[], subprocess.Popen[bytes]],
) -> None:
    """Stripe posts, the web server stores, the worker follows. Then the worker is killed, and the next one takes over."""
    product = start_product(workers=1, STRIPE_WEBHOOK_SECRETS=SECRET)
    stripe.simulator.add_webhook(Endpoint(f"{product.url}/webhooks/stripe", (SECRET,)))

    def is_followed(account: Account) -> bool:
        account.refresh_from_db()
        return account.state == PaymentState.ACTIVE

    worker = start_worker()
    first = make_payer()
    wait_until(lambda: is_followed(first), seconds=60, what="the worker's effect")
    worker.kill()
    worker.wait()
    others = [make_payer() for _ in range(3)]
    start_worker()
    for account in others:
        wait_until(partial(is_followed, account), seconds=60, what="the next worker's effect")
    for account in (first, *others):
        assert Notice.objects.filter(tenant=account.tenant, kind="plan.began").count() == 1
        assert AuditEntry.objects.filter(tenant=account.tenant, action="plan.changed").count() == 1
