"""Links that prove a mailbox: for the address of a new account, and for one that an account shall be moved to.

A link names the person and the address, and ends with the first change of the person's address or password: what a
stranger began under an address that is not theirs ends when its owner resets the password.
"""

from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.core import signing
from django.urls import reverse
from django.utils.crypto import constant_time_compare, salted_hmac

from tenants.models import User

SALT = "meterhouse.address"
LASTS = timedelta(days=3)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a link says: this mailbox answers for this person."""

    user: User
    email: str

    @property
    def is_new(self) -> bool:
        return self.email != self.user.email


def link(user: User, email: str) -> str:
    """The address to mail to `email`."""
    key = signing.dumps([user.pk, email, _state(user)], salt=SALT)
    return f"{settings.PUBLIC_URL}{reverse('account_confirm_email', args=[key])}"


def claim(key: str) -> Claim | None:
    """What the link says while it holds; None otherwise."""
    try:
        pk, email, state = signing.loads(key, salt=SALT, max_age=LASTS)
    except signing.BadSignature:
        return None
    user = User.objects.filter(pk=pk, is_active=True).first()
    return Claim(user, email) if user and constant_time_compare(state, _state(user)) else None


def _state(user: User) -> str:
    return salted_hmac(SALT, f"{user.email} {user.password}", algorithm="sha256").hexdigest()[:16]
