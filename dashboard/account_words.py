"""What people are told about their account: on the page after a step, and by mail when something about it has changed."""

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from . import instants

SAID = {  # by allauth's name of the message; what is not here is not said, for the page shows it
    "account/messages/password_changed.txt": gettext_lazy("Your password has been changed."),
    "account/messages/password_set.txt": gettext_lazy("Your password has been set."),
    "mfa/messages/totp_activated.txt": gettext_lazy("Codes from your app are asked for from now on."),
    "mfa/messages/totp_deactivated.txt": gettext_lazy("Codes from an app are no longer asked for."),
    "mfa/messages/webauthn_added.txt": gettext_lazy("The passkey was added."),
    "mfa/messages/webauthn_removed.txt": gettext_lazy("The passkey was removed."),
}
CHANGED: dict[str, tuple[Promise, Promise]] = {
    "account/email/password_changed": (
        gettext_lazy("Your password was changed"),
        gettext_lazy("The password of your Meterhouse account was changed. Other browsers have been signed out."),
    ),
    "account/email/password_set": (
        gettext_lazy("A password was set"),
        gettext_lazy("A password was set for your Meterhouse account."),
    ),
    "account/email/password_reset": (
        gettext_lazy("Your password was reset"),
        gettext_lazy(
            "The password of your Meterhouse account was reset by a mailed link. All browsers have been signed out."
        ),
    ),
    "mfa/email/totp_activated": (
        gettext_lazy("Codes from an app were switched on"),
        gettext_lazy("From now on, signing in to your Meterhouse account also asks for a code from your app."),
    ),
    "mfa/email/totp_deactivated": (
        gettext_lazy("Codes from an app were switched off"),
        gettext_lazy("Signing in to your Meterhouse account no longer asks for a code from an app."),
    ),
    "mfa/email/webauthn_added": (
        gettext_lazy("A passkey was added"),
        gettext_lazy("A passkey was added to your Meterhouse account."),
    ),
    "mfa/email/webauthn_removed": (
        gettext_lazy("A passkey was removed"),
        gettext_lazy("A passkey was removed from your Meterhouse account."),
    ),
    "mfa/email/recovery_codes_generated": (
        gettext_lazy("New recovery codes were made"),
        gettext_lazy("New recovery codes were made for your Meterhouse account. The former ones no longer work."),
    ),
    "recovery_code_used": (
        gettext_lazy("A recovery code was used"),
        gettext_lazy("A recovery code was used to sign in to your Meterhouse account. It does not work again."),
    ),
}


@dataclass(frozen=True, slots=True)
class Letter:
    """A mail to a person."""

    subject: str
    text: str


def letter(name: str, context: dict[str, Any]) -> Letter:
    """The mail that goes by allauth's name of it."""
    if name in CHANGED:
        return _changed(name, context)
    return {
        "account/email/email_confirmation": _confirm,
        "account/email/email_confirmation_signup": _welcome,
        "account/email/password_reset_key": _reset,
        "account/email/unknown_account": _unknown,
        "account/email/account_already_exists": _known,
        "address_changed": _moved,
    }[name](context)


def _signed(*parts: str) -> str:
    return "\n\n".join((*parts, f"-- \nMeterhouse\n{settings.PUBLIC_URL}\n"))


def _changed(name: str, context: dict[str, Any]) -> Letter:
    subject, sentence = CHANGED[name]
    when = _("When: %(when)s (UTC). From: %(ip)s, %(agent)s.") % {
        "when": instants.text(context["timestamp"], " Y, H:i"), "ip": context["ip"], "agent": context["user_agent"],
    }  # fmt: skip
    return Letter(str(subject), _signed(str(sentence), when, _not_you()))


def _not_you() -> str:
    page = settings.PUBLIC_URL + reverse("account_reset_password")
    return _("If this was not you, set a new password at once: %(page)s") % {"page": page}


def _confirm(context: dict[str, Any]) -> Letter:
    text = _("Open this link to confirm that this address is yours. It holds for three days.")
    ignore = _("If you did not ask for this, do nothing: without the link nothing changes.")
    return Letter(_("Confirm your e-mail address"), _signed(text, context["activate_url"], ignore))


def _welcome(context: dict[str, Any]) -> Letter:
    hello = _("Welcome to Meterhouse. Your account works already.")
    text = _("Open this link to confirm that this address is yours. It holds for three days.")
    ignore = _(
        "If somebody else has opened the account with your address, reset its password: it is yours then. %(page)s"
    )
    page = settings.PUBLIC_URL + reverse("account_reset_password")
    return Letter(
        _("Confirm your e-mail address"), _signed(hello, text, context["activate_url"], ignore % {"page": page})
    )


def _reset(context: dict[str, Any]) -> Letter:
    text = _("Open this link to choose a new password. It works once.")
    ignore = _("If you did not ask for this, do nothing: your password stays as it is.")
    return Letter(_("Choose a new password"), _signed(text, context["password_reset_url"], ignore))


def _unknown(context: dict[str, Any]) -> Letter:
    text = _(
        "Somebody asked for a new password for this address. There is no account with it; perhaps you used another."
    )
    page = settings.PUBLIC_URL + reverse("sign-up")
    other = _("You can open a free account here: %(page)s") % {"page": page}
    return Letter(_("No account with this address"), _signed(text, other))


def _known(context: dict[str, Any]) -> Letter:
    text = _(
        "Somebody wanted to use this address for a Meterhouse account. There is one with it already, and it is unchanged."
    )
    page = settings.PUBLIC_URL + reverse("account_reset_password")
    if_you = _("If this was you and you have forgotten the password, choose a new one: %(page)s") % {"page": page}
    return Letter(_("You have an account already"), _signed(text, if_you))


def _moved(context: dict[str, Any]) -> Letter:
    text = (
        _("Your Meterhouse account has another e-mail address now: %(email)s. This one no longer signs in.") % context
    )
    help_ = _("If this was not you, answer this mail at once.")
    return Letter(_("Your e-mail address was changed"), _signed(text, help_))
