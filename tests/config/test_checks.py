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


SETS = (
    (
        {"SECRET_KEY": "", "API_KEY_SECRET": "", "DATABASE_URL": "", "REDIS_URL": "", "TIME_ZONE": "Europe/Berlin"},
        ("SECRET_KEY is not set", "API_KEY_SECRET is not set", "DATABASE_URL is not set", "REDIS_URL is not set", "in UTC only"),
    ),
    (
        {
            "SECRET_KEY": "short", "DATABASE_URL": "sqlite:///x.db", "REDIS_URL": "memcached://x", "CALL_LOG_DAYS": "0",
            "PUBLIC_URL": "billing", "METERING_LEASE_SECONDS": "1", "STRIPE_API_BASE": "nonsense",
        },
        (
            "SECRET_KEY is too weak", "PostgreSQL", "REDIS_URL is not a Redis address", "CALL_LOG_DAYS is 0",
            "PUBLIC_URL is not an address", "METERING_LEASE_SECONDS", "STRIPE_API_BASE is not an address",
        ),
    ),
    (
        {
            "DATABASE_URL": "nonsense", "PUBLIC_URL": "https://billing.example.com", "DEBUG": "true",
            "STRIPE_API_BASE": "http://127.0.0.1:1", "STRIPE_TEST_SECRET_KEY": f"sk_live_{'a' * 24}",
        },
        (
            "DATABASE_URL is not a PostgreSQL address", "DEBUG is on", "is not Stripe", "not a secret key of test mode",
            "TRUSTED_PROXY_COUNT is 0", "Mails are printed",
        ),
    ),
    (
        {"DATABASE_URL": "postgresql://u:p@h:notaport/d", "STRIPE_LIVE_MODE": "true"},
        ("DATABASE_URL is not a PostgreSQL address", "without a live key"),
    ),
    (
        {"STRIPE_TEST_SECRET_KEY": f"sk_test_{'a' * 24}", "STRIPE_WEBHOOK_SECRETS": "x"},
        ("not a signing secret",),
    ),
)  # fmt: skip


@pytest.mark.parametrize(("changes", "messages"), SETS)
def test_bad_values_are_named_all_at_once(changes: dict[str, str], messages: tuple[str, ...]) -> None:
    code, output = checked(**changes)
    assert code != 0
    assert [message for message in messages if message not in output] == []
    assert "Traceback" not in output
