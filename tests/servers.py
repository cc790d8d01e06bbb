"""Used before Django's settings are read: a PostgreSQL and a Valkey for this test run, and the environment.

DATABASE_URL and REDIS_URL, when set, are used instead. Worker processes of pytest-xdist inherit what the first one set.
"""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from config.stack import Stack

ENVIRONMENT = {
    "DJANGO_SETTINGS_MODULE": "config.settings",
    "SECRET_KEY": "only-for-tests-0123456789-abcdefghijklmnopqrstuvwxyz",
    "API_KEY_SECRET": "only-for-tests-9876543210-zyxwvutsrqponmlkjihgfedcba",
    "PUBLIC_URL": "http://127.0.0.1:8000",
    "SANDBOX": "true",
    "DEBUG": "false",
    "CALL_LOG_DAYS": "7",
    "DJANGO_ALLOW_ASYNC_UNSAFE": "true",  # Playwright's event loop runs in the test's thread
    "TZ": "UTC",
}


def _start() -> None:
    state_dir = Path(tempfile.mkdtemp(prefix="meterhouse-tests-"))
    stack = Stack(state_dir, durable=False, say=lambda line: print(line, file=sys.stderr))  # noqa: T201
    urls = stack.start()
    atexit.register(shutil.rmtree, state_dir, ignore_errors=True)
    atexit.register(stack.stop)
    os.environ.update(DATABASE_URL=urls.database_url, REDIS_URL=urls.redis_url)
    os.environ.setdefault("METERING_SPOOL_DIR", str(state_dir / "spool"))


def provide() -> None:
    """The environment of this test run is set, and the servers that it names run."""
    os.environ.update(ENVIRONMENT)
    if not (os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL")):
        _start()
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if worker:  # the servers are shared, what is in them is not: see also conftest's django_db_setup
        os.environ["REDIS_URL"] = urlsplit(os.environ["REDIS_URL"])._replace(path=f"/{int(worker) + 1}").geturl()
