"""Webhook signatures: what is not signed by Stripe, just now, is nothing."""

import hashlib
import hmac
import json
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import BadSignature, StripeNotConfigured
from billing.signatures import verified

SECRET, OTHER = "whsec_current", "whsec_next"
NOW = datetime.fromisoformat("2026-11-24T12:00:00+00:00")
PAYLOAD = json.dumps({"id": "evt_1", "object": "event"}).encode()


def signature(payload: bytes = PAYLOAD, *, at: datetime = NOW, secret: str = SECRET) -> str:
    stamp = int(at.timestamp())
    mark = hmac.new(secret.encode(), f"{stamp}.".encode() + payload, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={mark}"


def check(header: str, payload: bytes = PAYLOAD, *secrets: str) -> dict[str, object]:
    return verified(payload=payload, header=header, secrets=secrets or (SECRET,), now=NOW, tolerance_seconds=300)


def test_what_stripe_signed_is_read() -> None:
    assert check(signature()) == {"id": "evt_1", "object": "event"}


@pytest.mark.parametrize("seconds", [-300, -299, 0, 299, 300])
def test_within_the_tolerance_it_is_accepted(seconds: int) -> None:
    assert check(signature(at=NOW + timedelta(seconds=seconds)))


@pytest.mark.parametrize("seconds", [-86_400, -301, 301, 86_400])
def test_stale_and_future_ones_are_refused(seconds: int) -> None:
    with pytest.raises(BadSignature, match="300 s"):
        check(signature(at=NOW + timedelta(seconds=seconds)))


def test_during_a_rotation_either_secret_signs_and_either_signature_counts() -> None:
    assert check(signature(secret=OTHER), PAYLOAD, SECRET, OTHER)
    assert check(signature(secret=SECRET), PAYLOAD, SECRET, OTHER)
    both = f"{signature(secret=OTHER)},{signature().split(',')[1]}"
    assert check(both, PAYLOAD, SECRET)


def test_a_secret_that_was_taken_away_signs_nothing() -> None:
    with pytest.raises(BadSignature):
        check(signature(secret="whsec_former"), PAYLOAD, SECRET, OTHER)


def test_without_secrets_nothing_is_accepted() -> None:
    for none in ((), ("",)):
        with pytest.raises(StripeNotConfigured, match="STRIPE_WEBHOOK_SECRETS"):
            verified(payload=PAYLOAD, header=signature(secret=""), secrets=none, now=NOW, tolerance_seconds=300)


@pytest.mark.parametrize(
    "header",
    [
        "", "nonsense", "t=", "v1=", "t=1", "t=abc,v1=00", f"t={int(NOW.timestamp())}", "=,=,=", "t=1,t=2,v1=ab",
        signature().replace("v1=", "v0="), signature().replace("t=", "t=0"), signature().replace("t=", "t=-"),
        signature().replace("t=", "t=+"), signature()[:-1], signature() + "0", signature().upper(), "x" * 5_000,
        signature().replace("t=", "T="), signature().replace("t=1", "t=\u0661"),
    ],
)  # fmt: skip
def test_broken_headers_are_refused(header: str) -> None:
    with pytest.raises(BadSignature):
        check(header)


@pytest.mark.parametrize("payload", [b"", b"[]", b"1", b"null", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_signed_body_that_is_no_object_is_refused(payload: bytes) -> None:
    with pytest.raises(BadSignature, match="body is no JSON"):
        check(signature(payload), payload)


@given(payload=st.binary(max_size=200), header=st.text(max_size=200))
def test_no_other_header_fits(payload: bytes, header: str) -> None:
    with pytest.raises(BadSignature):
        check(header, payload)


@given(place=st.integers(0, len(PAYLOAD) - 1), value=st.integers(0, 255))
def test_one_changed_byte_breaks_it(place: int, value: int) -> None:
    changed = PAYLOAD[:place] + bytes([value]) + PAYLOAD[place + 1 :]
    if changed != PAYLOAD:
        with pytest.raises(BadSignature):
            check(signature(), changed)
