"""The forms of the pages."""

from typing import Any

from django.contrib.auth.forms import AuthenticationForm
from django.utils.translation import gettext_lazy as _


class SignInForm(AuthenticationForm):
    """E-mail and password. One message for every failure: it tells nobody which addresses exist."""

    error_messages = {
        "invalid_login": _("E-mail address and password do not match. The password is case-sensitive."),
        "inactive": _("E-mail address and password do not match. The password is case-sensitive."),
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        email, password = self.fields["username"], self.fields["password"]
        email.label = _("E-mail address")
        email.widget.input_type = "email"
        email.widget.attrs.update({"autocomplete": "username", "autofocus": True, "spellcheck": "false"})
        password.widget.attrs["autocomplete"] = "current-password"
        self.label_suffix = ""
