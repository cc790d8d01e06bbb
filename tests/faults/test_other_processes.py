"""Celery workers, commands and processes with wrong clocks."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from config.celery import app
from metering.models import Call, UsageHour
from tests.conftest import ROOT, MakeTenant, environment, wait_until
from tests.metering.ledger import Books, books

pytestmark = pytest.mark.usefixtures("committed")
COMMAND = """
import sys, django; django.setup()
from tests.metering.test_limit_is_exact import attempt, caller_of
print(attempt(caller_of(sys.argv[1]), int(sys.argv[2])))
"""  # ends without a word to the engine
SKEWED = """
import sys, time
real = time.time
time.time = lambda: real() + float(sys.argv[3])
""" + COMMAND  # fmt: skip


def env() -> dict[str, str]:
    return {**environment(0), "DJANGO_SETTINGS_MODULE": "config.settings", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real Celery worker with two forked children, on this test run's servers."""
    command = [
        sys.executable, "-m", "celery", "-A", "config.celery", "worker", "--concurrency", "2", "--pool", "prefork",
        "--include", "tests.faults.jobs", "--queues", "faults", "--loglevel", "INFO", "--without-gossip", "--without-mingle",
    ]  # fmt: skip
    log = (tmp_path / "worker.log").open("wb")
    process = subprocess.Popen(command, env=env(), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()
    log.close()


def test_a_celery_worker_flushes_at_its_warm_shutdown(
    worker: subprocess.Popen[bytes], make_tenant: MakeTenant, settles: Callable[..., Books]
) -> None:
    acme = make_tenant(plan="scale", included=10**6, burst_per_second=10**6)
    for _ in range(8):
        app.send_task("tests.faults.jobs.make_calls", (acme.api_key, 25), queue="faults")
    wait_until(lambda: books(acme.tenant.id).used >= 100, seconds=60, what="the worker's calls")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=60) == 0
    kept = settles(acme.tenant.id)
    assert kept.used % 25 == 0
    assert kept.used == kept.logged["billable"]
    assert kept.reserved == 0


def test_a_command_flushes_when_it_ends(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=500, burst_per_second=10**6)
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, acme.api_key, "77"], env=env(), cwd=ROOT, capture_output=True, check=True
    )
    assert done.stdout.split() == [b"77"]
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert (kept.used, kept.reserved) == (77, 0)


@pytest.mark.parametrize("seconds", [-3600, 3600, 86_400 * 40])
def test_a_wrong_wall_clock_puts_no_call_into_a_wrong_hour(make_tenant: MakeTenant, seconds: int) -> None:
    acme = make_tenant(included=500, burst_per_second=10**6)
    before = timezone.now()
    arguments = [sys.executable, "-c", SKEWED, acme.api_key, "20", str(seconds)]
    subprocess.run(arguments, env=env(), cwd=ROOT, capture_output=True, check=True)
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert kept.used == 20
    occurred = list(Call.objects.filter(tenant=acme.tenant).values_list("occurred_at", flat=True))
    leeway = timedelta(seconds=2)
    assert before - leeway <= min(occurred) <= max(occurred) <= timezone.now() + leeway
    assert UsageHour.objects.filter(tenant=acme.tenant).count() <= 2
