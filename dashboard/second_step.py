"""The second step of signing in: codes from an app, each taken once."""

from typing import Any

from allauth.core.internal.cryptokit import normalize_user_code
from allauth.mfa import app_settings
from allauth.mfa.adapter import get_adapter
from allauth.mfa.base import forms as base
from allauth.mfa.models import Authenticator
from allauth.mfa.totp import forms as totp
from django import forms
from django.core.cache import cache
from django.utils.translation import gettext_lazy as _

from tenants.models import User


def spend(user: User, code: str) -> None:
    """The code is worth nothing from here on. Raises ValidationError when it was before.

    A code is taken for as long as clocks may differ, but allauth remembers it for thirty seconds only: whoever looked over
    the shoulder could use it after that.
    """
    lasts = app_settings.TOTP_PERIOD * (2 * app_settings.TOTP_TOLERANCE + 1)
    if not cache.add(f"totp:{user.pk}:{normalize_user_code(code)}", 1, timeout=lasts):
        raise get_adapter().validation_error("incorrect_code")


def _code_field(label: Any) -> forms.CharField:
    attributes = {"autocomplete": "one-time-code", "inputmode": "numeric", "spellcheck": "false", "autofocus": True}
    return forms.CharField(label=label, max_length=20, widget=forms.TextInput(attrs=attributes))


class _SpendsCode:
    """A code of the app is spent by being right; a recovery code is struck off by allauth."""

    fields: dict[str, forms.Field]
    user: User
    authenticator: Authenticator
    label_suffix: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        self.fields["code"] = _code_field(_("Code from your app, or a recovery code"))

    def clean_code(self) -> str:
        code: str = super().clean_code()  # type: ignore[misc]  # of the form it is mixed into
        if self.authenticator.type == Authenticator.Type.TOTP:
            spend(self.user, code)
        return code


class AuthenticateForm(_SpendsCode, base.AuthenticateForm):
    """After the password."""


class ReauthenticateForm(_SpendsCode, base.ReauthenticateForm):
    """Before something that matters."""


class ActivateTOTPForm(totp.ActivateTOTPForm):
    """The code that proves that the app knows the secret; it opens nothing afterwards."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        self.fields["code"] = _code_field(_("Code that the app shows"))

    def clean_code(self) -> str:
        code = super().clean_code()
        spend(self.user, code)
        return code
