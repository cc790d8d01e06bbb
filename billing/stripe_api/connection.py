"""The connection: the key of the mode, the library's client, and what goes wrong as one of our errors.

Nothing is repeated here: a write takes an idempotency key, so that its caller may ask again without a second effect.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import stripe
from django.conf import settings

from billing.errors import (
    AlreadyDelivered,
    CardRefused,
    NoSuchObject,
    SavedFailure,
    StripeError,
    StripeNotConfigured,
    StripeRefused,
    StripeUnavailable,
)

PAGE = 100
SECRET = re.compile(r"\b(?:sk|rk|pk|whsec)_[A-Za-z0-9_*]+")
KNOWN_IDENTIFIER = "already exists with identifier"


def secret_key() -> str:
    """The key of this deployment's mode; raises StripeNotConfigured, naming the setting."""
    if problem := _key_problem():  # raised here, where no variable holds the key: a debug page shows variables
        raise StripeNotConfigured(problem)
    return str(settings.STRIPE_LIVE_SECRET_KEY if settings.STRIPE_LIVE_MODE else settings.STRIPE_TEST_SECRET_KEY)


def _key_problem() -> str:
    mode = "live" if settings.STRIPE_LIVE_MODE else "test"
    name = f"STRIPE_{mode.upper()}_SECRET_KEY"
    if not getattr(settings, name):
        return f"Stripe is not connected: set {name}."
    if not re.match(rf"(?:sk|rk)_{mode}_", getattr(settings, name)):
        return f"{name} is not a secret or restricted key of {mode} mode. Set another, or STRIPE_LIVE_MODE."
    return ""


def client() -> stripe.StripeClient:
    """The client for the settings of this moment: a rotated key is used from the next request on."""
    return _client_of(
        secret_key(), settings.STRIPE_API_BASE, settings.STRIPE_API_VERSION, settings.STRIPE_TIMEOUT_SECONDS, os.getpid()
    )  # fmt: skip


@lru_cache(maxsize=4)
def _client_of(key: str, base: str, version: str, timeout: float, _pid: int) -> stripe.StripeClient:
    """`_pid`: a forked process does not share its parent's connections."""
    return stripe.StripeClient(
        key,
        stripe_version=version,
        base_addresses=_addresses(base),
        max_network_retries=0,
        http_client=stripe.RequestsClient(timeout=timeout),
    )


def _addresses(base: str) -> Any:
    """Where to ask: Stripe keeps meter event streams at a host of their own, a stand-in has one address for all."""
    if base == settings.STRIPE_REAL_API:
        return {}
    return {"api": base, "meter_events": base, "files": base, "connect": base}


def share_address() -> str:
    """dj-stripe, which asks by itself for objects that ours refer to, uses the same host; returns the key to give it."""
    stripe.api_base = settings.STRIPE_API_BASE
    return secret_key()


def options(key: str) -> stripe.RequestOptions:
    return {"idempotency_key": key}


@contextmanager
def asking() -> Iterator[None]:
    """What happens inside ends well or in one of our errors, without the library's, which may quote what was sent."""
    try:
        yield
    except stripe.StripeError as error:
        raise _translated(error) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StripeUnavailable(
            f"Stripe's answer could not be read ({type(error).__name__}: {safe(error)}). Check STRIPE_API_BASE and "
            "STRIPE_API_VERSION; it is tried again."
        ) from None


def safe(text: object) -> str:
    """The text without anything that looks like a key or secret, in one line."""
    return " ".join(SECRET.sub("[removed]", str(text)).split())[:500]


def _translated(error: stripe.StripeError) -> StripeError:
    said = safe(error.user_message or "no reason given")
    request = f" (request {safe(error.request_id)})" if error.request_id else ""
    match error:
        case stripe.AuthenticationError() | stripe.PermissionError():
            name = "STRIPE_LIVE_SECRET_KEY" if settings.STRIPE_LIVE_MODE else "STRIPE_TEST_SECRET_KEY"
            return StripeNotConfigured(f"Stripe does not accept the key in {name} for this: {said}{request}")
        case stripe.CardError() | stripe.InvalidRequestError() | stripe.IdempotencyError():
            return _refusal(error, said, request)
        case stripe.RateLimitError():
            return StripeUnavailable(f"Stripe asks for fewer requests: {said}{request}")
        case stripe.APIConnectionError():
            return StripeUnavailable(
                f"Stripe cannot be reached, or gave no answer within {settings.STRIPE_TIMEOUT_SECONDS:g} s. It is tried "
                "again; if it lasts, check the network, STRIPE_API_BASE and status.stripe.com."
            )
    is_saved = {name.lower(): value for name, value in (error.headers or {}).items()}.get(
        "idempotent-replayed"
    ) == "true"
    kind = SavedFailure if is_saved else StripeUnavailable
    return kind(f"Stripe failed with HTTP {error.http_status or 'status unknown'}: {said}{request}")


def _refusal(error: stripe.StripeError, said: str, request: str) -> StripeRefused:
    code, param = str(error.code or ""), str(getattr(error, "param", None) or "")
    if isinstance(error, stripe.CardError):
        return CardRefused(said, code=code, param=param)
    if isinstance(error, stripe.IdempotencyError):
        said, code = f"Stripe knows this idempotency key with other parameters: {said}", "idempotency_error"
    kind = StripeRefused
    if code == "resource_missing":
        kind = NoSuchObject
    elif KNOWN_IDENTIFIER in said:
        kind = AlreadyDelivered
    return kind(f"{said}{request}", code=code, param=param)


def plain(answer: Any) -> dict[str, Any]:
    """The answer as a dict; a body that is no object is unreadable."""
    plain: dict[str, Any] = answer.to_dict(for_json=True)
    return plain


def every(page: Any) -> Iterator[dict[str, Any]]:
    """Every object of a list, page by page."""
    for one in page.auto_paging_iter():
        yield plain(one)
