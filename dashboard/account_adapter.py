"""What we decide where allauth asks: words, mails, addresses, and that a stranger learns nothing."""

import logging
from collections.abc import Callable
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.decorators import reauthentication_required
from allauth.decorators import rate_limit
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import generate_totp_secret
from django.conf import settings
from django.contrib import messages
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from tenants import sealing
from tenants.models import User

from . import addresses
from .account_words import SAID, letter

View = Callable[..., HttpResponseBase]
logger = logging.getLogger(__name__)
MISMATCH = _("E-mail address and password do not match. The password is case-sensitive.")
LIMITED = _("Too many attempts. Wait five minutes, then try again; your account is unharmed.")


def limited(action: str) -> Callable[[View], View]:
    """The view takes no more posts than ACCOUNT_RATE_LIMITS says for this action; beyond, it answers 429."""
    decorate: Callable[[View], View] = rate_limit(action=action)
    return decorate


def after_asking_again(view: View) -> View:
    """The view opens for whom has given the password or a second step within the last minutes."""
    decorated: View = reauthentication_required(view, app="allauth.account")
    return decorated


class AccountAdapter(DefaultAccountAdapter):
    error_messages = {
        **DefaultAccountAdapter.error_messages,
        "email_password_mismatch": MISMATCH,
        "too_many_login_attempts": LIMITED,
        "rate_limited": LIMITED,
        "enter_current_password": _("This is not your present password."),
        "incorrect_password": _("This is not your password."),
    }

    def authenticate(self, request: HttpRequest, **credentials: Any) -> User | None:
        """Somebody who may not sign in is told what a stranger is told."""
        user = super().authenticate(request, **credentials)
        return user if isinstance(user, User) and user.is_active else None

    def respond_user_inactive(self, request: HttpRequest, user: Any) -> HttpResponse:
        messages.error(request, str(MISMATCH))
        return redirect("login")

    def get_client_ip(self, request: HttpRequest) -> str:
        """A request that did not come through the proxies counts by where it came from."""
        try:
            return super().get_client_ip(request)
        except ImproperlyConfigured:
            return str(request.META.get("REMOTE_ADDR") or "unknown")

    def add_message(
        self, request: HttpRequest, level: int, message_template: str | None = None, *args: Any, **options: Any
    ) -> None:
        said = options.get("message") or SAID.get(message_template or "")
        if said:
            messages.add_message(request, level, str(said))

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """The mail leaves after the commit. A mail server that is away costs nobody a page; it is in the log."""
        found = letter(template_prefix, context)
        mail = EmailMessage(found.subject, found.text, to=[email], headers={"Auto-Submitted": "auto-generated"})
        transaction.on_commit(lambda: _send(mail, template_prefix))

    def get_email_confirmation_url(self, request: HttpRequest, emailconfirmation: Any) -> str:
        address = emailconfirmation.email_address
        return addresses.link(address.user, address.email)

    def get_reset_password_from_key_url(self, key: str) -> str:
        """By PUBLIC_URL: a forged Host header must not decide where a mailed link leads."""
        uid, _dash, token = key.partition("-")
        return f"{settings.PUBLIC_URL}{reverse('account_reset_password_from_key', args=[uid, token])}"

    def get_password_change_redirect_url(self, request: HttpRequest) -> str:
        return reverse("account")


class MFAAdapter(DefaultMFAAdapter):
    error_messages = {
        **DefaultMFAAdapter.error_messages,
        "incorrect_code": _("This code is not right, or was used before. Wait for the next one and try again."),
        "unverified_email": _("Confirm your e-mail address first; then you can add a second step."),
    }

    def encrypt(self, text: str) -> str:
        return sealing.seal(text)

    def decrypt(self, encrypted_text: str) -> str:
        """What can no longer be read matches nothing, rather than something that can be guessed."""
        try:
            return sealing.unseal(encrypted_text)
        except sealing.Unreadable as error:
            logger.error("A second step cannot be checked: %s", error)
            return generate_totp_secret()

    def generate_authenticator_name(self, user: Any, type: Any) -> str:  # noqa: A002 -- allauth's name
        number = Authenticator.objects.filter(user=user, type=type).count() + 1
        return gettext("Passkey %(number)s") % {"number": number}

    def get_public_key_credential_rp_entity(self) -> dict[str, str]:
        return {**super().get_public_key_credential_rp_entity(), "name": "Meterhouse"}


def _send(mail: EmailMessage, name: str) -> None:
    try:
        mail.send()
    except OSError as error:  # smtplib's errors are among them
        logger.error("A mail to a person (%s) could not be sent: %s", name, type(error).__name__)
