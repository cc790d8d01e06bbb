"""Celery workers, commands and processes with wrong clocks."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from celery import Celery
from django.utils import timezone

from config.celery import app
from metering.models import Call, UsageHour
from tests.conftest import ROOT, MakeTenant, environment, wait_until
from tests.faults.conftest import Breakable, recorded, sound
from tests.metering.ledger import books

pytestmark = pytest.mark.usefixtures("committed")
StartWorker = Callable[..., subprocess.Popen[bytes]]
MAKE_CALLS = "tests.faults.jobs.make_calls"
CALLS = """
from tests.metering.test_limit_is_exact import attempt, caller_of
print(attempt(caller_of({key!r}), {count}))
"""  # ends without a word to the engine
SKEWED = """
import time
real = time.time
time.time = lambda: real() + {seconds}
import django; django.setup()
"""


def env() -> dict[str, str]:
    return {**environment(0), "DJANGO_SETTINGS_MODULE": "config.settings", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[StartWorker]:
    """Start a real Celery worker with two forked children, each of which ends after two tasks."""
    started = []

    def start() -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "celery", "-A", "config.celery", "worker", "--concurrency", "2", "--pool", "prefork",
            "--max-tasks-per-child", "2", "--include", "tests.faults.jobs", "--queues", "faults", "--loglevel", "INFO",
            "--without-gossip", "--without-mingle",
        ]  # fmt: skip
        with (tmp_path / "worker.log").open("wb") as log:
            started.append(subprocess.Popen(command, env=env(), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT))
        return started[0]

    yield start
    for worker in started:
        if worker.poll() is None:
            worker.kill()
        worker.wait()


def made(folder: Path) -> set[str]:
    """Ids of the calls that a worker's tasks made."""
    return {call_id for file in folder.glob("*.ids") for call_id in file.read_text().split()}


def test_a_celery_worker_flushes_at_its_warm_shutdown(
    start_worker: StartWorker, make_tenant: MakeTenant, tmp_path: Path
) -> None:
    """Also when a child is replaced after its last task: the calls of a moment ago are counted, the leases returned."""
    acme = make_tenant(plan="scale", included=10**6, burst_per_second=10**6)
    worker = start_worker()
    for _ in range(10):
        app.send_task(MAKE_CALLS, (acme.api_key, 25, str(tmp_path)), queue="faults")
    wait_until(lambda: books(acme.tenant.id).used >= 100, seconds=60, what="the worker's calls")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=60) == 0
    kept = sound(acme.tenant.id)
    assert recorded(acme.tenant.id) == made(tmp_path)
    assert (kept.used, kept.reserved) == (len(made(tmp_path)), 0)


def test_a_celery_worker_resumes_when_valkey_is_back(
    breakable: Breakable, start_worker: StartWorker, make_tenant: MakeTenant, tmp_path: Path
) -> None:
    acme = make_tenant(plan="scale", included=10**6, burst_per_second=10**6)
    broker = Celery(broker=breakable.stack.urls.redis_url, set_as_current=False)  # else shared tasks stay with it
    worker = start_worker()
    broker.send_task(MAKE_CALLS, (acme.api_key, 5, str(tmp_path)), queue="faults")
    wait_until(lambda: books(acme.tenant.id).used == 5, seconds=60, what="the worker's calls before")
    with breakable.down(breakable.valkey, signal.SIGKILL):
        pass
    broker.close()
    broker.send_task(MAKE_CALLS, (acme.api_key, 5, str(tmp_path)), queue="faults")
    wait_until(lambda: books(acme.tenant.id).used == 10, seconds=60, what="its calls afterwards")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=60) == 0
    assert sound(acme.tenant.id).reserved == 0
    assert recorded(acme.tenant.id) == made(tmp_path)
    broker.close()


@pytest.mark.parametrize("ending", [pytest.param("", marks=pytest.mark.long), "1 / 0"])
def test_a_command_flushes_when_it_ends(make_tenant: MakeTenant, ending: str) -> None:
    acme = make_tenant(included=500, burst_per_second=10**6)
    done = run(["manage.py", "shell", "--command", CALLS.format(key=acme.api_key, count=77) + ending])
    assert (done.returncode == 0) == (ending == "")
    assert done.stdout.split()[-1] == b"77"
    kept = sound(acme.tenant.id)
    assert (kept.used, kept.reserved) == (77, 0)


@pytest.mark.parametrize("seconds", [pytest.param(-3600, marks=pytest.mark.long), 86_400 * 40])
def test_a_wrong_wall_clock_puts_no_call_into_a_wrong_hour(make_tenant: MakeTenant, seconds: int) -> None:
    acme = make_tenant(included=500, burst_per_second=10**6)
    before = timezone.now()
    done = run(["-c", SKEWED.format(seconds=seconds) + CALLS.format(key=acme.api_key, count=20)])
    assert done.stdout.split() == [b"20"]
    kept = sound(acme.tenant.id)
    assert (kept.used, kept.reserved) == (20, 0)
    occurred = list(Call.objects.filter(tenant=acme.tenant).values_list("occurred_at", flat=True))
    leeway = timedelta(seconds=2)
    assert before - leeway <= min(occurred) <= max(occurred) <= timezone.now() + leeway
    assert UsageHour.objects.filter(tenant=acme.tenant).count() <= 2


def run(arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, *arguments], env=env(), cwd=ROOT, capture_output=True, check=False)
