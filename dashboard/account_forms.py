"""The forms of the way in and of a person's own account."""

from typing import Any, cast

from allauth.account import forms as allauth_forms
from django import forms
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from tenants.models import User

from .invited import Invited

PASSWORD_HINT = _("At least ten characters.")


def _plain(form: forms.BaseForm) -> None:
    """Labels say what a field is; nothing stands in it that goes away when one types."""
    form.label_suffix = ""
    for field in form.fields.values():
        field.widget.attrs.pop("placeholder", None)


def _email(**more: Any) -> forms.EmailField:
    attributes = {"autocomplete": "username", "spellcheck": "false", **more}
    return forms.EmailField(label=_("E-mail address"), max_length=254, widget=forms.EmailInput(attrs=attributes))


def _password(label: Any, autocomplete: str, hint: Any = "", **more: Any) -> forms.CharField:
    attributes = {"autocomplete": autocomplete, **more}
    widget = forms.PasswordInput(attrs=attributes)
    return forms.CharField(label=label, max_length=200, strip=False, help_text=hint, widget=widget)


class SignInForm(allauth_forms.LoginForm):
    """E-mail and password. One message for every failure: it tells nobody which addresses exist."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["login"] = _email(autofocus=True)
        self.fields["password"] = _password(_("Password"), "current-password")
        self.order_fields(["login", "password"])
        _plain(self)

    def add_prefix(self, field_name: str) -> str:
        """Programs that sign in have always sent `username`."""
        return super().add_prefix("username" if field_name == "login" else field_name)

    def clean_login(self) -> str:
        return str(self.cleaned_data["login"]).strip().lower()

    @property
    def is_limited(self) -> bool:
        return self.has_error("__all__", "too_many_login_attempts")


class SignUpForm(forms.Form):
    """What a free account needs; by an invitation only a password."""

    organisation = forms.CharField(
        label=_("Organisation"), max_length=120,
        widget=forms.TextInput(attrs={"autocomplete": "organization", "autofocus": True}),
    )  # fmt: skip
    email = _email()
    password = _password(_("Password"), "new-password", PASSWORD_HINT)

    def __init__(self, *args: Any, invited: Invited | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        self.invited = invited
        if invited is not None:
            del self.fields["organisation"]
            self.fields["email"].disabled = True  # whatever is sent, it is the address that was invited
            self.initial["email"] = invited.email
            self.fields["password"].widget.attrs["autofocus"] = True

    def clean_email(self) -> str:
        return str(self.cleaned_data["email"]).strip().lower()

    def clean(self) -> dict[str, Any]:
        """The password is judged beside the name and address, which it must not resemble."""
        found = self.cleaned_data
        person = User(email=found.get("email", ""), name=found.get("organisation", ""))
        _judge(self, "password", person)
        return found

    def say_that_it_may_be_known(self) -> None:
        """The same words whether or not the address is known: they help its owner and tell a stranger little."""
        self.add_error(
            None, _("No account could be opened with this address and password. If you have one already, sign in.")
        )


class ResetForm(allauth_forms.ResetPasswordForm):
    """Whose password shall be reset: nobody learns whether that is anybody."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["email"] = _email(autofocus=True)
        _plain(self)

    def clean_email(self) -> str:
        email = str(self.cleaned_data["email"]).strip().lower()
        self.users = list(User.objects.filter(email=email, is_active=True))
        return email


class NewPasswordForm(allauth_forms.ResetPasswordKeyForm):
    """A new password for who came by the mailed link. Typed once: password managers show it, and it can be reset again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        del self.fields["password2"]
        self.fields["password1"] = _password(_("New password"), "new-password", PASSWORD_HINT, autofocus=True)
        _plain(self)

    def clean(self) -> dict[str, Any]:
        _judge(self, "password1", self.user)
        return self.cleaned_data


class ChangePasswordForm(allauth_forms.ChangePasswordForm):
    """The present password and the new one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        del self.fields["password2"]
        self.fields["oldpassword"] = _password(_("Present password"), "current-password", autofocus=True)
        self.fields["password1"] = _password(_("New password"), "new-password", PASSWORD_HINT)
        _plain(self)

    def clean(self) -> dict[str, Any]:
        _judge(self, "password1", self.user)
        return self.cleaned_data


class ConfirmItIsYouForm(allauth_forms.ReauthenticateForm):
    """The password once more, before something that matters."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["password"] = _password(_("Password"), "current-password", autofocus=True)
        _plain(self)


class NameForm(forms.Form):
    """How the person is called."""

    name = forms.CharField(
        label=_("Name"), max_length=150, required=False, help_text=_("How colleagues see you. May stay empty."),
        widget=forms.TextInput(attrs={"autocomplete": "name"}),
    )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""


class NewAddressForm(forms.Form):
    """The address that an account shall be moved to, once its mailbox has answered."""

    email = _email(autofocus=True)

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        self.user = user
        self.fields["email"].label = _("New e-mail address")
        self.fields["email"].widget.attrs["autocomplete"] = "email"

    def clean_email(self) -> str:
        email = str(self.cleaned_data["email"]).strip().lower()
        if email == self.user.email:
            raise ValidationError(_("This is your address already."))
        return email


def _judge(form: forms.BaseForm, field: str, person: AbstractBaseUser | None) -> None:
    """A password that is too weak is refused beside its field."""
    if field not in form.cleaned_data:
        return
    try:
        validate_password(form.cleaned_data[field], cast("User | None", person))
    except ValidationError as error:
        form.add_error(field, error)
