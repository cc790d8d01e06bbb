"""What all tests share: the story (acme pays, globex is on the free plan, initech must never see either) and real servers."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.db import connections
from django.db.models import Model
from django.test import Client
from django.test.utils import setup_databases, teardown_databases
from pytest_django import DjangoDbBlocker
from whitenoise.middleware import WhiteNoiseMiddleware

from billing import accounts, onboarding
from billing.models import Account, PaymentState, StripeEvent, StripePrices
from metering import engine
from tenants.keys import cache
from tenants.models import Notice

ROOT = Path(__file__).resolve().parent.parent
MakeTenant = Callable[..., onboarding.Onboarded]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="Longer loads and more faults in tests/faults and property tests."
    )


# Files whose tests share servers that are dear to start: in a parallel run one worker runs all of a file.
TOGETHER = {
    "test_demo",
    "test_stack",
    "test_demo_data",
    "test_djstripe_migration",
    "test_in_browser",
    "test_buying_in_browser",
    "test_account_in_browser",
    "test_stories_in_browser",
    "test_over_http",
    "test_documented_ways",
    "test_gateway_behind_nginx",
}
FEW_WORKERS = 2  # more would compete with the servers, clients and browsers that the tests start


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two workers for the whole suite; a part of it that is named runs in this process."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS or config.option.keyword:
        config.option.dist = "no"
        return 0
    return FEW_WORKERS


def pytest_xdist_setupnodes() -> None:
    """A worker reads the settings as this process did: after it has set its own environment (`servers.py`)."""
    os.environ.pop("DJANGO_SETTINGS_MODULE", None)


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    """Servers that are dear are started once, faults are made in one test at a time, and what is rarer is left to --long.

    First come the tests that share one transaction: nothing that others have committed or still do meets it.
    """
    for item in items:
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="Tried with --long."))
        name = "faults" if item.path.parent.name == "faults" else item.path.stem
        if name == "faults" or name in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(name))
    yield
    items.sort(key=lambda item: item.path.stem not in {"test_demo_data", "test_catalogue", "test_price_lab"})


@pytest.fixture(scope="session", autouse=True)
def _quick_passwords() -> Iterator[None]:
    """Hashing an owner's password as slowly as in production would be most of what making a tenant takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PBKDF2PasswordHasher, "iterations", 1)
        yield


@pytest.fixture(scope="session", autouse=True)
def _static_files_are_found_once() -> Iterator[None]:
    """Every test client loads the middleware anew, in which WhiteNoise looks at each of our static files."""
    find, found = WhiteNoiseMiddleware.add_files_from_finders, dict[str, Any]()

    def remember(middleware: WhiteNoiseMiddleware) -> None:
        if not found:
            find(middleware)
            found.update(middleware.files)
        middleware.files.update(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WhiteNoiseMiddleware, "add_files_from_finders", remember)
        yield


@pytest.fixture(autouse=True)
def _no_event_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Playwright's event loop stays with this thread until the session ends; to all but its own tests it is not there."""
    loop = None if "browser" in request.fixturenames else asyncio._get_running_loop()
    if loop is not None:
        asyncio._set_running_loop(None)
    yield
    if loop is not None:
        asyncio._set_running_loop(loop)


@pytest.fixture(autouse=True)
def _forget_keys() -> None:
    cache.clear()


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="session")
def django_db_setup(django_test_environment: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The test database exists for every test that asks, not only for those that pytest-django's marker names."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")  # each has a database of its own
    test = connections["default"].settings_dict["TEST"]
    test["NAME"] = "_".join(filter(None, ("test", connections["default"].settings_dict["NAME"], worker)))
    with django_db_blocker.unblock():
        made = setup_databases(verbosity=0, interactive=False, aliases={"default": None})
    yield
    with django_db_blocker.unblock():
        connections.close_all()
        _end_sessions(test["NAME"])
        teardown_databases(made, verbosity=0)


def _end_sessions(database: str) -> None:
    """No process that a test started and that has not ended yet keeps the database from being dropped."""
    with connections["default"]._nodb_cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database])


@pytest.fixture
def committed(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Database access without a wrapping transaction: the engine and other processes see it. Use tenants of your own."""
    with django_db_blocker.unblock():
        yield
        engine.stop()
        _forget_stripe()
        connections.close_all()


def _forget_stripe() -> None:
    """What a test left behind does not meet the next one's Stripe, whose ids may be the same."""
    Account.objects.exclude(customer_id=None).update(
        customer_id=None, subscription_id=None, state=PaymentState.NONE, past_due_since=None
    )
    for left in (StripePrices, StripeEvent, Notice):
        left.objects.all().delete()


@pytest.fixture
def make_tenant(now: datetime) -> MakeTenant:
    """A tenant with owner, project, key and account; unique, whatever its name.

    PostgreSQL holds the constraints; Django asks it about each one before, which would be a third of what a tenant takes.
    """

    def make(name: str = "Acme", *, plan: str = "free", **options: Any) -> onboarding.Onboarded:
        agreed = {key: options.pop(key) for key in ("included", "policy", "burst_per_second") if key in options}
        unique = uuid.uuid4().hex[:10]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Model, "validate_constraints", lambda *_, **__: None)
            return onboarding.onboard(
                name=name,
                slug=f"{name.lower()}-{unique}",
                email=f"owner-{unique}@{name.lower()}.example",
                plan_code=plan,
                actor="test",
                now=options.pop("now", now),
                agreed=accounts.Agreed(**agreed),
                **options,
            )

    return make


@pytest.fixture
def call() -> Callable[..., Any]:
    """Call the API in process with a key: call(key, "/api/v1/usage")."""

    def get(key: str, path: str, *, method: str = "get", **options: Any) -> Any:
        return getattr(Client(), method)(path, headers={"authorization": f"Bearer {key}"}, **options)

    return get


@dataclass(frozen=True)
class Product:
    """A running product: real gunicorn workers on the test database."""

    url: str
    pid: int
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(port: int) -> dict[str, str]:
    """The environment in which another process works on this test run's database."""
    database = connections["default"].settings_dict
    url = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{database['NAME']}").geturl()
    return {
        **os.environ,
        "DATABASE_URL": url,
        "WEB_BIND": f"127.0.0.1:{port}",
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
    }


def wait_until(condition: Callable[[], Any], *, seconds: float = 15, what: str = "it") -> Any:
    """The first true answer of the condition; fails the test when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = condition()
        if answer:
            return answer
        time.sleep(0.02)
    pytest.fail(f"{what} did not happen within {seconds} s")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


StartProduct = Callable[..., Product]


@contextmanager
def products(folder: Path) -> Iterator[StartProduct]:
    """In the block one may start gunicorn: start(workers=2). What was started is stopped afterwards."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*, workers: int = 2, **extra: str) -> Product:
        port = free_port()
        log = folder / f"web-{port}.log"
        env = {**environment(port), "WEB_WORKERS": str(workers), **extra}
        command = [sys.executable, "-m", "gunicorn", "-c", "config/gunicorn.py", "config.wsgi"]
        with log.open("wb") as out:
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT)
        running.append(process)
        wait_until(lambda: listens(port) or process.poll() is not None, seconds=40, what="gunicorn's start")
        if process.poll() is not None:
            pytest.fail(f"gunicorn ended: {log.read_text()[-2000:]}")
        return Product(f"http://127.0.0.1:{port}", process.pid, log)

    yield start
    for process in running:
        process.send_signal(signal.SIGTERM)
    for process in running:
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture
def start_product(committed: None, tmp_path: Path) -> Iterator[StartProduct]:
    """Start a product of the test's own."""
    with products(tmp_path) as start:
        yield start
