import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

GOOD = {
    "SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyz",
    "API_KEY_SECRET": "zyxwvutsrqponmlkjihgfedcba9876543210",
    "DATABASE_URL": "postgresql://m@127.0.0.1:1/m",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "PATH": os.environ["PATH"],
}


def checked(**changes: str) -> tuple[int, str]:
    """Exit code and output of `manage.py check` in an environment of its own."""
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env={**GOOD, **changes},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_good_settings_pass() -> None:
    assert checked()[0] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SECRET_KEY": ""}, "SECRET_KEY is not set"),
        ({"STRIPE_API_BASE": "nonsense"}, "STRIPE_API_BASE is not an address"),
        ({"STRIPE_API_BASE": "http://127.0.0.1:1", "PUBLIC_URL": "https://billing.example.com"}, "is not Stripe"),
        ({"STRIPE_TEST_SECRET_KEY": f"sk_live_{'a' * 24}"}, "not a secret key of test mode"),
        ({"STRIPE_LIVE_MODE": "true"}, "without a live key"),
        ({"STRIPE_TEST_SECRET_KEY": f"sk_test_{'a' * 24}", "STRIPE_WEBHOOK_SECRETS": "x"}, "not a signing secret"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY is too weak"),
        ({"API_KEY_SECRET": ""}, "API_KEY_SECRET is not set"),
        ({"DATABASE_URL": ""}, "DATABASE_URL is not set"),
        ({"DATABASE_URL": "sqlite:///x.db"}, "PostgreSQL"),
        ({"DATABASE_URL": "nonsense"}, "DATABASE_URL is not a PostgreSQL address"),
        ({"DATABASE_URL": "postgresql://u:p@h:notaport/d"}, "DATABASE_URL is not a PostgreSQL address"),
        ({"REDIS_URL": ""}, "REDIS_URL is not set"),
        ({"REDIS_URL": "memcached://x"}, "REDIS_URL is not a Redis address"),
        ({"TIME_ZONE": "Europe/Berlin"}, "runs in UTC only"),
        ({"PUBLIC_URL": "billing"}, "PUBLIC_URL is not an address"),
        ({"PUBLIC_URL": "https://billing.example.com", "DEBUG": "true"}, "DEBUG is on"),
        ({"METERING_LEASE_SECONDS": "1"}, "METERING_LEASE_SECONDS"),
        ({"CALL_LOG_DAYS": "0"}, "CALL_LOG_DAYS is 0"),
    ],
)
def test_a_bad_value_is_named(changes: dict[str, str], message: str) -> None:
    code, output = checked(**changes)
    assert code != 0
    assert message in output
    assert "Traceback" not in output
