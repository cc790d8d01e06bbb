"""Start-up checks: each names a missing or unsafe value and its mend. Run by every command and by `config/wsgi.py`."""

import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004 -- Django's own name

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
STRIPE_KEY = re.compile(r"(sk|rk)_(test|live)_[A-Za-z0-9]{24,}")  # dj-stripe accepts no other form
STRIPE_WEBHOOK_SECRET = re.compile(r"whsec_\S{8,}")
SECRET_LENGTH = 32


def _secret(name: str, *, missing: bool, value: str, identity: str) -> Iterable[CheckMessage]:
    mend = f"Set {name} to at least {SECRET_LENGTH} random characters: python -c 'import secrets; print(secrets.token_urlsafe(50))'"
    if missing:
        yield Error(f"{name} is not set.", hint=mend, id=identity)
    elif len(value) < SECRET_LENGTH or len(set(value)) < 8:  # noqa: PLR2004
        yield Error(f"{name} is too weak ({len(value)} characters).", hint=mend, id=identity)


@register("meterhouse")
def secrets_are_set(**_: Any) -> list[CheckMessage]:
    """Both secrets exist and are long enough."""
    return [
        *_secret(
            "SECRET_KEY", missing=settings.SECRET_KEY_IS_MISSING, value=settings.SECRET_KEY, identity="meterhouse.E001"
        ),
        *_secret(
            "API_KEY_SECRET",
            missing=settings.API_KEY_SECRET_IS_MISSING,
            value=settings.API_KEY_SECRET,
            identity="meterhouse.E002",
        ),
    ]


@register("meterhouse")
def servers_are_named(**_: Any) -> list[CheckMessage]:
    """DATABASE_URL names a PostgreSQL, REDIS_URL names a Redis or Valkey."""
    found: list[CheckMessage] = []
    start = "Set it to your server's address, or run `uv run manage.py stack`, which starts one and prints the line."
    if not settings.DATABASE_URL:
        found.append(Error("DATABASE_URL is not set.", hint=start, id="meterhouse.E003"))
    elif not settings.DATABASE_IS_POSTGRESQL:
        found.append(
            Error(
                "DATABASE_URL is not a PostgreSQL address; Meterhouse counts in PostgreSQL (15 or newer) only.",
                hint="Write it as postgresql://user:password@host:5432/name.",
                id="meterhouse.E004",
            )
        )
    if not settings.REDIS_URL:
        found.append(Error("REDIS_URL is not set.", hint=start, id="meterhouse.E005"))
    elif urlsplit(settings.REDIS_URL).scheme not in {"redis", "rediss", "unix"}:
        found.append(
            Error(
                "REDIS_URL is not a Redis address.",
                hint="Write it as redis://:password@host:6379/0.",
                id="meterhouse.E005",
            )
        )
    return found


@register("meterhouse")
def time_zone_is_utc(**_: Any) -> list[CheckMessage]:
    """The time zone is UTC: periods, hours and reports have no other meaning."""
    if settings.TIME_ZONE == "UTC" and settings.USE_TZ:
        return []
    return [
        Error(
            f"TIME_ZONE is {settings.TIME_ZONE!r}; Meterhouse runs in UTC only.",
            hint="Remove TIME_ZONE from the environment, or set it to UTC.",
            id="meterhouse.E006",
        )
    ]


@register("meterhouse")
def public_url_is_safe(**_: Any) -> list[CheckMessage]:
    """A deployment that others can reach is served over https, without DEBUG and without the sandbox."""
    url = urlsplit(settings.PUBLIC_URL)
    if url.scheme not in {"http", "https"} or not url.hostname:
        hint = "Write it as https://billing.example.com."
        return [Error(f"PUBLIC_URL is not an address: {settings.PUBLIC_URL!r}.", hint=hint, id="meterhouse.E007")]
    if url.hostname in LOOPBACK:
        return []
    found: list[CheckMessage] = []
    if settings.DEBUG:
        found.append(
            Error("DEBUG is on and PUBLIC_URL is not this machine.", hint="Set DEBUG=false.", id="meterhouse.E008")
        )
    if url.scheme == "http":
        hint = "Serve it over https and set PUBLIC_URL=https://..."
        found.append(
            Warning("PUBLIC_URL is plain http: passwords and keys travel in clear.", hint=hint, id="meterhouse.W001")
        )
    if settings.WEBHOOK_ALLOW_PRIVATE:
        found.append(
            Error(
                "WEBHOOK_ALLOW_PRIVATE is on and PUBLIC_URL is not this machine: customers' webhooks could reach your network.",
                hint="Set WEBHOOK_ALLOW_PRIVATE=false.",
                id="meterhouse.E019",
            )
        )
    if settings.SANDBOX:
        hint = "Set SANDBOX=false in production."
        found.append(
            Warning("The sandbox is installed and PUBLIC_URL is not this machine.", hint=hint, id="meterhouse.W002")
        )
    return found


@register("meterhouse")
def people_can_come_in(**_: Any) -> list[CheckMessage]:
    """The limits on signing in tell clients apart, and mails with links leave the house."""
    url = urlsplit(settings.PUBLIC_URL)
    if url.hostname in LOOPBACK:
        return []
    found: list[CheckMessage] = []
    if url.scheme == "https" and settings.ALLAUTH_TRUSTED_PROXY_COUNT < 1:
        hint = "Set it to the number of your proxies that append to X-Forwarded-For, mostly 1."
        found.append(
            Warning(
                "TRUSTED_PROXY_COUNT is 0: all who come through a proxy share one limit on signing in.",
                hint=hint,
                id="meterhouse.W004",
            )
        )
    if settings.EMAIL_BACKEND.endswith((".console.EmailBackend", ".dummy.EmailBackend")):
        hint = "Set EMAIL_URL: nobody can reset a password or confirm an address otherwise."
        found.append(Warning("Mails are printed, not sent.", hint=hint, id="meterhouse.W005"))
    return found


@register("meterhouse")
def metering_values_make_sense(**_: Any) -> list[CheckMessage]:
    """The metering tunables are within the bounds in which the engine's promises were tested."""
    bounds = {
        "LEASE_SECONDS": (3, 300),
        "LEASE_MAX_UNITS": (1, 100_000),
        "BUFFER_CALLS": (1000, 10_000_000),
        "POOL_SIZE": (2, 50),
    }
    found: list[CheckMessage] = [
        Error(f"METERING_{name} is {settings.METERING[name]}.", hint=f"Choose {low} to {high}.", id="meterhouse.E009")
        for name, (low, high) in bounds.items()
        if not low <= settings.METERING[name] <= high
    ]
    if settings.CALL_LOG_DAYS < 1:  # today's calls would be dropped while they are written
        hint = "Choose at least 1; 35 keeps a whole period, so that its boundaries can be drawn anew and its calls corrected."
        found.append(Error(f"CALL_LOG_DAYS is {settings.CALL_LOG_DAYS}.", hint=hint, id="meterhouse.E010"))
    return found


@register("meterhouse")
def stripe_is_safe(**_: Any) -> list[CheckMessage]:
    """No invented money in production, no real money by accident, and webhooks that can be verified."""
    return [*_stripe_server(), *_stripe_keys(), *_stripe_webhooks()]


def _stripe_server() -> Iterator[CheckMessage]:
    if settings.STRIPE_IS_REAL:
        return
    url = urlsplit(settings.STRIPE_API_BASE)
    if url.scheme not in {"http", "https"} or not url.hostname:
        hint = f"Leave it away for Stripe itself ({settings.STRIPE_REAL_API})."
        yield Error(
            f"STRIPE_API_BASE is not an address: {settings.STRIPE_API_BASE!r}.", hint=hint, id="meterhouse.E011"
        )
    elif urlsplit(settings.PUBLIC_URL).hostname not in LOOPBACK:
        hint = "Remove STRIPE_API_BASE in production: what another server calls paid is not paid."
        yield Error(
            "STRIPE_API_BASE is not Stripe, and PUBLIC_URL is not this machine.", hint=hint, id="meterhouse.E012"
        )


def _stripe_keys() -> Iterator[CheckMessage]:
    for name, mode in (("STRIPE_TEST_SECRET_KEY", "test"), ("STRIPE_LIVE_SECRET_KEY", "live")):
        value = getattr(settings, name)
        if value and not ((form := STRIPE_KEY.fullmatch(value)) and form[2] == mode):
            hint = f"It begins with sk_{mode}_ or rk_{mode}_; copy it again from Stripe's dashboard."
            yield Error(f"{name} is not a secret key of {mode} mode.", hint=hint, id="meterhouse.E013")
    if settings.STRIPE_LIVE_MODE and not settings.STRIPE_LIVE_SECRET_KEY:
        hint = "Set STRIPE_LIVE_SECRET_KEY, or STRIPE_LIVE_MODE=false."
        yield Error("STRIPE_LIVE_MODE is on without a live key.", hint=hint, id="meterhouse.E014")
    if settings.STRIPE_LIVE_MODE and not settings.STRIPE_IS_REAL:
        hint = "Set STRIPE_LIVE_MODE=false, or remove STRIPE_API_BASE."
        yield Error("STRIPE_LIVE_MODE is on and STRIPE_API_BASE is not Stripe.", hint=hint, id="meterhouse.E014")


def _stripe_webhooks() -> Iterator[CheckMessage]:
    if not (settings.STRIPE_TEST_SECRET_KEY or settings.STRIPE_LIVE_SECRET_KEY):
        return
    for name in ("STRIPE_WEBHOOK_SECRETS", "STRIPE_THIN_WEBHOOK_SECRETS"):
        values = getattr(settings, name)
        if not values:
            hint = "Set it to the endpoint's signing secret (whsec_...): docs/stripe.md says where it stands."
            yield Warning(f"{name} is not set: its events are refused.", hint=hint, id="meterhouse.W003")
        elif not all(STRIPE_WEBHOOK_SECRET.fullmatch(value) for value in values):
            hint = "Each begins with whsec_; two are divided by a comma."
            yield Error(f"{name} is not a signing secret.", hint=hint, id="meterhouse.E015")
