"""What happens to the safety of a person's account is on record in each of their tenants, in the same transaction."""

from typing import Any

from allauth.account import signals as account_signals
from allauth.account.adapter import get_adapter
from allauth.core import context
from allauth.mfa import signals as mfa_signals
from allauth.mfa.models import Authenticator
from django.db.models.signals import post_delete, post_save
from django.http import HttpRequest

from tenants import audit, people
from tenants.access import tenants_of
from tenants.models import Tenant, User

NOUNS = {
    Authenticator.Type.TOTP: "app_codes",
    Authenticator.Type.WEBAUTHN: "passkey",
    Authenticator.Type.RECOVERY_CODES: "recovery_codes",
}


def record(user: User, action: str, **detail: object) -> None:
    """The act is in the audit log of each tenant of this person; of somebody without one, in the operators' only."""
    request: HttpRequest | None = context.request
    by = getattr(request, "user", None)
    actor = by.email if isinstance(by, User) else user.email
    tenants: list[Tenant | None] = [*tenants_of(user)]
    for tenant in tenants or [None]:
        audit.record(tenant=tenant, actor=actor, action=action, subject=user.email, **detail)


def _password_changed(user: User, **_: Any) -> None:
    record(user, "person.password_changed")


def _password_reset(user: User, **_: Any) -> None:
    people.confirm(user)  # the link came to this mailbox
    record(user, "person.password_reset")


def _added(instance: Authenticator, created: bool, **_: Any) -> None:
    if created:
        record(instance.user, f"person.{NOUNS[Authenticator.Type(instance.type)]}_added")


def _removed(instance: Authenticator, origin: Any, **_: Any) -> None:
    """Not when the person is removed; and recovery codes go with what they recover from, or are replaced."""
    model = getattr(origin, "model", type(origin))
    if model is Authenticator and instance.type != Authenticator.Type.RECOVERY_CODES:
        record(instance.user, f"person.{NOUNS[Authenticator.Type(instance.type)]}_removed")


def _used(user: User, authenticator: Authenticator, **_: Any) -> None:
    if authenticator.type == Authenticator.Type.RECOVERY_CODES:
        record(user, "person.recovery_code_used", left=len(authenticator.wrap().get_unused_codes()))
        get_adapter().send_notification_mail("recovery_code_used", user)


def connect() -> None:
    """From here on it is recorded."""
    account_signals.password_changed.connect(_password_changed, dispatch_uid="record")
    account_signals.password_set.connect(_password_changed, dispatch_uid="record")
    account_signals.password_reset.connect(_password_reset, dispatch_uid="record")
    mfa_signals.authenticator_used.connect(_used, dispatch_uid="record")
    post_save.connect(_added, sender=Authenticator, dispatch_uid="record_added")
    post_delete.connect(_removed, sender=Authenticator, dispatch_uid="record_removed")
