"""Secrets that must be read again, unlike passwords: sealed under SECRET_KEY, so that a copy of the database opens nothing."""

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings

PURPOSE = b"meterhouse.second-step"


class Unreadable(Exception):
    """It was sealed under a key that this deployment no longer knows."""


def seal(text: str) -> str:
    return _box().encrypt(text.encode()).decode()


def unseal(sealed: str) -> str:
    """What was sealed, also under one of SECRET_KEY_FALLBACKS. Raises Unreadable."""
    try:
        return _box().decrypt(sealed).decode()
    except InvalidToken:
        raise Unreadable("SECRET_KEY was changed without keeping the former one in SECRET_KEY_FALLBACKS.") from None


def _box() -> MultiFernet:
    keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    digests = (hashlib.blake2b(PURPOSE, key=hashlib.sha256(key.encode()).digest(), digest_size=32) for key in keys)
    return MultiFernet([Fernet(base64.urlsafe_b64encode(digest.digest())) for digest in digests])
