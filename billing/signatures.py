"""Stripe's webhook signatures, checked on the raw bytes before anything is read from them.

Stripe's own library accepts timestamps from the future and one secret; here the tolerance holds both ways, and during a
rotation any of the secrets may have signed.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from .errors import BadSignature, StripeNotConfigured

MAX_HEADER = 2_000  # characters; Stripe's has about 150
TIMESTAMP = re.compile(r"[0-9]{1,12}")
SIGNATURE = re.compile(r"[0-9a-f]{64}")


def verified(
    *, payload: bytes, header: str, secrets: Sequence[str], now: datetime, tolerance_seconds: int
) -> dict[str, Any]:
    """The JSON object of a webhook that one of our secrets signed just now; raises BadSignature, saying why not."""
    usable = [secret for secret in secrets if secret]
    if not usable:
        raise StripeNotConfigured("No webhook secret is set, so no webhook is accepted. Set STRIPE_WEBHOOK_SECRETS.")
    timestamp, signatures = _parts(header)
    if abs(now.timestamp() - timestamp) > tolerance_seconds:
        raise BadSignature(f"The signature's time is more than {tolerance_seconds} s away from ours.")
    signed = str(timestamp).encode() + b"." + payload
    expected = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in usable]
    if not any(hmac.compare_digest(mine, theirs) for mine in expected for theirs in signatures):
        raise BadSignature("No signature fits: sent by another, altered on the way, or signed with a secret we lack.")
    return _object(payload)


def _parts(header: str) -> tuple[int, list[str]]:
    """The timestamp and the v1 signatures of a header such as `t=1700000000,v1=ab...,v1=cd...`."""
    if len(header) > MAX_HEADER:
        raise BadSignature("The signature header is too long.")
    pairs = [part.strip().split("=", 1) for part in header.split(",")]
    timestamps = [pair[1] for pair in pairs if len(pair) == 2 and pair[0] == "t"]  # noqa: PLR2004 -- name and value
    signatures = [pair[1] for pair in pairs if pair[0] == "v1" and SIGNATURE.fullmatch(pair[-1])]
    if len(timestamps) != 1 or not TIMESTAMP.fullmatch(timestamps[0]) or str(int(timestamps[0])) != timestamps[0]:
        raise BadSignature("The signature header has no timestamp.")
    if not signatures:
        raise BadSignature("The signature header has no v1 signature.")
    return int(timestamps[0]), signatures


def _object(payload: bytes) -> dict[str, Any]:
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError):
        raise BadSignature("The signature is right, and the body is no JSON.") from None
    if not isinstance(body, dict):
        raise BadSignature("The signature is right, and the body is no JSON object.")
    return body
