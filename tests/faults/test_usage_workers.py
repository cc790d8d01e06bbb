"""Real Celery workers report usage to a Stripe that fails, and are killed at random moments: each unit is at Stripe once.

By default a few kills; `--long` makes 2,000 windows of ten tenants and kills a hundred times. `-s` shows the figures.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from billing import catalogue
from billing.models import BilledPeriod, UsageReport
from config.celery import app
from metering import partitions
from sandbox.stripe_simulator import Settings, StripeSimulator
from tests.billing.plan_story import KEY, Story
from tests.billing.usage_story import HOUR, by_hour, reports, use
from tests.conftest import ROOT, MakeTenant, wait_until
from tests.faults.conftest import children, rest
from tests.faults.test_other_processes import env
from tests.faults.test_reports import assert_exact, fail, forget, payer

pytestmark = pytest.mark.usefixtures("committed")
QUEUE = "usage-under-faults"
TASKS = ("make_usage_reports", "send_usage_reports", "confirm_usage_reports")
KILLS, TENANTS, WINDOWS = 3, 3, 45
LONG_KILLS, LONG_TENANTS, LONG_WINDOWS = 100, 10, 2_000
SETTLED_WITHIN_SECONDS = 60


@dataclass
class Workers:
    """A Celery worker with two children, as beat and its supervisor see it."""

    env: dict[str, str]
    log: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        command = [
            sys.executable, "-m", "celery", "-A", "config.celery", "worker", "--concurrency", "2", "--pool", "prefork",
            "--queues", QUEUE, "--loglevel", "INFO", "--without-gossip", "--without-mingle", "--without-heartbeat",
        ]  # fmt: skip
        ready = self.said("ready.")
        with self.log.open("ab") as log:
            started = subprocess.Popen(
                command, env=self.env, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.running.append(started)
        # Celery itself gives up when a child is killed before it is up, and leaves the rest to its supervisor.
        wait_until(lambda: self.said("ready.") > ready, seconds=60, what="the worker's start")

    def said(self, words: str) -> int:
        """How often its log says this."""
        return self.log.read_text(errors="replace").count(words) if self.log.exists() else 0

    def beat(self) -> None:
        """Two beats at once: each task of the timetable is asked for twice."""
        BilledPeriod.objects.update(scanned_to=None)  # as if another hour had closed
        for name in (*TASKS, *TASKS):
            app.send_task(f"billing.tasks.{name}", queue=QUEUE, expires=5)

    def kill_child(self, chance: random.Random) -> None:
        """SIGKILL to one of the processes that do the work."""
        found = wait_until(lambda: children(self.running[-1].pid), what="a child of the worker")
        os.kill(chance.choice(found), signal.SIGKILL)

    def kill_all(self) -> None:
        """SIGKILL to the worker and all that it started, as when the machine's memory runs out."""
        worker = self.running[-1]
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    @property
    def killed_at_work(self) -> int:
        """How many children had a task when they were killed."""
        return self.said("(SIGKILL) Job:")


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Callable[[StripeSimulator], Workers]]:
    made: list[Workers] = []

    def start(simulator: StripeSimulator) -> Workers:
        own = {
            "STRIPE_API_BASE": simulator.url, "STRIPE_TEST_SECRET_KEY": KEY, "STRIPE_LIVE_MODE": "false",
            "STRIPE_TIMEOUT_SECONDS": "0.3", "REPORT_SENDERS": "2",
        }  # fmt: skip
        made.append(Workers({**env(), **own}, tmp_path / "worker.log"))
        made[0].start()
        return made[0]

    yield start
    for one in made:
        one.kill_all()


@pytest.fixture
def simulator(settings: Any) -> Iterator[StripeSimulator]:
    """A Stripe of some days ago, with the time since then to be used; its clock goes."""
    start = datetime.now(UTC) - timedelta(days=10)
    made = partitions.ensure(calls_from=start, hours_from=start - timedelta(days=40), now=datetime.now(UTC))
    with StripeSimulator(start=start.timestamp(), settings=Settings(api_keys=(KEY,))) as simulator:
        settings.STRIPE_API_BASE, settings.STRIPE_IS_REAL = simulator.url, False
        settings.STRIPE_LIVE_MODE, settings.STRIPE_TEST_SECRET_KEY = False, KEY
        yield simulator
    with connection.cursor() as cursor:
        for name in made:
            cursor.execute(f"DROP TABLE {name}")


def test_workers_killed_at_random_moments_double_and_lose_nothing(
    simulator: StripeSimulator,
    workers: Callable[[StripeSimulator], Workers],
    make_tenant: MakeTenant,
    is_long: bool,
) -> None:
    kills, count, windows = (LONG_KILLS, LONG_TENANTS, LONG_WINDOWS) if is_long else (KILLS, TENANTS, WINDOWS)
    begun = datetime.fromtimestamp(simulator.clock.now // 3600 * 3600, UTC)
    catalogue.make(now=begun)
    tenants = [payer(simulator, make_tenant) for _ in range(count)]
    simulator.clock.to(time.time())
    chance, started = random.Random(5), time.monotonic()
    fail(tenants[0], seed=5)
    worker = workers(simulator)
    hours = iter(range(1, windows // count + 1))
    for number in range(kills):
        for hour in [next(hours) for _ in range(windows // count // kills)]:
            for one in tenants:
                use(one, chance.randint(1, 99), at=begun + hour * HOUR + timedelta(minutes=chance.randint(1, 59)))
        latest = simulator.requests[0]
        worker.beat()
        wait_until(lambda: simulator.requests[0] is not latest, what="a request")  # noqa: B023
        rest(chance.uniform(0, 0.5))
        if number % 10 == 9:
            worker.kill_all()
            worker.start()
        else:
            worker.kill_child(chance)
    simulator.faults.clear()
    seconds = settled(worker, tenants)
    found = [report for one in tenants for report in reports(one)]
    assert_exact(*tenants)
    assert len(found) >= windows // count // kills * kills * count
    print(  # noqa: T201
        f"\n{len(found):,} reports of {count} tenants, {kills} kills ({worker.killed_at_work} of a child at work), "
        f"{time.monotonic() - started:.0f} s; settled {seconds:.0f} s after the last kill."
    )
    forget([one.acme.tenant.pk for one in tenants])


def settled(worker: Workers, tenants: list[Story]) -> float:
    """Seconds until nothing is open any more, while beat comes by."""
    started, mine = time.monotonic(), [one.acme.tenant.pk for one in tenants]
    due = [0.0]

    def is_settled() -> bool:
        if time.monotonic() > due[0]:
            worker.beat()
            due[0] = time.monotonic() + 2
        opened = UsageReport.objects.filter(account__in=mine).exclude(state=UsageReport.State.CONFIRMED)
        return not opened.exists() and all(one.accepted == sum(by_hour(one).values()) for one in tenants)

    wait_until(is_settled, seconds=SETTLED_WITHIN_SECONDS, what="the settlement")
    return time.monotonic() - started
