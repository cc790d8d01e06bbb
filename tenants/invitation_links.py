"""The links of invitations. A token is derived from the invitation and the number of its link with the server's secret, when
its mail is sent: neither the invitation nor the mail that waits in the database holds it, only its digest."""

import base64
import hashlib
from uuid import UUID

from django.conf import settings
from django.utils.crypto import salted_hmac

SALT = "tenants.invitations"


def subject_of(invitation_id: UUID, number: int) -> str:
    """What names one link of an invitation."""
    return f"{invitation_id.hex}:{number}"


def token(subject: str) -> str:
    """256 bits that nobody guesses who does not know the server's secret."""
    mac = salted_hmac(SALT, subject, algorithm="sha256").digest()
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def digest(text: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(text.encode()).digest()


def address(subject: str) -> str:
    """The whole link."""
    return f"{settings.PUBLIC_URL}/invitations/{token(subject)}"
