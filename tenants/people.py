"""People: how an account comes to be, and whether its e-mail address is known to be theirs.

An address counts as confirmed when its mailbox answered (a link in a mail, an invitation), or when an operator made the
account. Only who signs up by themselves starts unconfirmed. The truth is the row of allauth's `EmailAddress` that equals
`User.email`; `keep_address` sees to it that there is exactly one.
"""

from collections.abc import Collection
from typing import Any

from allauth.account.models import EmailAddress
from django.db import IntegrityError, transaction

from .errors import TenantsError
from .models import User


class EmailTaken(TenantsError):
    """Somebody signs in with this e-mail address already."""


def register(*, email: str, password: str, is_confirmed: bool, name: str = "") -> User:
    """A person who chose this password can sign in. Raises EmailTaken, or strangers could come in as its owner."""
    try:
        with transaction.atomic():
            user = User.objects.create_user(email, password, name=name)
            if not is_confirmed:
                EmailAddress.objects.filter(user=user).update(verified=False)
    except IntegrityError:
        raise EmailTaken("This e-mail address is in use.") from None
    return user


def is_confirmed(user: User) -> bool:
    """Whether this person's address is known to be theirs."""
    return EmailAddress.objects.filter(user=user, email=user.email, verified=True).exists()


def confirm(user: User) -> None:
    """The address is known to be theirs: its mailbox answered."""
    EmailAddress.objects.filter(user=user, email=user.email).update(verified=True)


def change_address(*, user: User, email: str) -> None:
    """This person signs in with another, confirmed address. Raises EmailTaken."""
    try:
        with transaction.atomic():
            user.email = email
            user.save(update_fields=["email"])
            confirm(user)
    except IntegrityError:
        raise EmailTaken("This e-mail address is in use.") from None


def keep_address(instance: User, raw: bool, update_fields: Collection[str] | None, **_: Any) -> None:
    """After a user was saved: the row of their address exists, and no other row of theirs."""
    if raw or (update_fields is not None and "email" not in update_fields):
        return
    rows = EmailAddress.objects.filter(user=instance)
    if not rows.filter(email=instance.email).exists():
        rows.delete()
        EmailAddress.objects.create(user=instance, email=instance.email, verified=True, primary=True)
