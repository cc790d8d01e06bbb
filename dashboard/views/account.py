"""A person's own account: name, address, password, second steps, and signing out everywhere."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from allauth.account import views as allauth_views
from allauth.account.adapter import get_adapter
from allauth.account.internal import flows
from allauth.account.models import EmailAddress
from allauth.mfa.base import views as mfa_views
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes import views as recovery_views
from allauth.mfa.totp import views as totp_views
from allauth.mfa.webauthn import views as passkey_views
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse_lazy
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from dashboard import account_forms, addresses, confirming
from dashboard.account_adapter import after_asking_again, limited
from dashboard.account_records import record
from tenants import people
from tenants.models import User

View = Callable[..., HttpResponseBase]
DEMO = {"is_demo": settings.SANDBOX}
NUMBERS = {"127.0.0.1", "[::1]"}


class PersonRequest(HttpRequest):
    """A request of somebody who is signed in."""

    user: User


def together(view: View) -> View:
    """The change and its audit entry are made together or not at all; and no page of an account stays in a cache."""
    return never_cache(transaction.atomic(view))


class NewPassword(allauth_views.PasswordResetFromKeyView):
    form_class = account_forms.NewPasswordForm
    success_url = reverse_lazy("login")


class ChangePassword(allauth_views.PasswordChangeView):
    form_class = account_forms.ChangePasswordForm


class ForgottenPassword(allauth_views.PasswordResetView):
    form_class = account_forms.ResetForm


class ConfirmItIsYou(allauth_views.ReauthenticateView):
    form_class = account_forms.ConfirmItIsYouForm


class AddPasskey(passkey_views.AddWebAuthnView):
    """Passkeys belong to a host name: a page that was opened by a number leads to the one with a name."""

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return {**super().get_context_data(**kwargs), "named_origin": _named_origin(self.request)}


def _named_origin(request: HttpRequest) -> str:
    """The same page on localhost, when it was asked for by a loopback number; else empty."""
    host, _colon, port = request.get_host().rpartition(":")
    return f"{request.scheme}://localhost:{port}{request.path}" if host in NUMBERS else ""


forgotten = ForgottenPassword.as_view(extra_context=DEMO)
forgotten_sent = allauth_views.PasswordResetDoneView.as_view(extra_context=DEMO)
new_password = together(NewPassword.as_view())
change_password = together(ChangePassword.as_view())
confirm_it_is_you = ConfirmItIsYou.as_view()
confirm_by_code = mfa_views.reauthenticate
confirm_by_passkey = passkey_views.reauthenticate_webauthn
add_totp = together(totp_views.activate_totp)
remove_totp = together(totp_views.deactivate_totp)
recovery_codes = never_cache(recovery_views.view_recovery_codes)
new_recovery_codes = together(recovery_views.generate_recovery_codes)
download_recovery_codes = recovery_views.download_recovery_codes
add_passkey = together(AddPasskey.as_view())
remove_passkey = together(passkey_views.remove_webauthn)
rename_passkey = together(passkey_views.edit_webauthn)


@dataclass(frozen=True, slots=True)
class Passkey:
    """A passkey as its owner knows it."""

    id: int
    name: str
    signs_in_alone: bool
    added_at: datetime
    used_at: datetime | None


@dataclass(frozen=True, slots=True)
class SecondSteps:
    """What signing in asks for beside the password."""

    totp: Authenticator | None
    passkeys: tuple[Passkey, ...]
    codes_left: int | None

    @property
    def are_on(self) -> bool:
        return self.totp is not None or bool(self.passkeys)


def second_steps(user: User) -> SecondSteps:
    """What this person has set up."""
    found = list(Authenticator.objects.filter(user=user).order_by("created_at", "pk"))
    by_type = {one.type: one for one in found}
    codes = by_type.get(Authenticator.Type.RECOVERY_CODES)
    return SecondSteps(
        totp=by_type.get(Authenticator.Type.TOTP),
        passkeys=tuple(_passkey(one) for one in found if one.type == Authenticator.Type.WEBAUTHN),
        codes_left=len(codes.wrap().get_unused_codes()) if codes else None,
    )


def _passkey(one: Authenticator) -> Passkey:
    wrapped = one.wrap()
    return Passkey(one.pk, wrapped.name, bool(wrapped.is_passwordless), one.created_at, one.last_used_at)


@login_required
@never_cache
def account(request: PersonRequest) -> HttpResponse:
    """Everything about the person's own account; posting changes the name."""
    form = account_forms.NameForm(
        request.POST if request.method == "POST" else None, initial={"name": request.user.name}
    )
    if form.is_valid():
        request.user.name = form.cleaned_data["name"]
        request.user.save(update_fields=["name"])
        messages.success(request, _("Your name has been changed."))
        return redirect("account")
    context = {"form": form, "second": second_steps(request.user), "unconfirmed": confirming.unconfirmed(request)}
    return render(request, "account/account.html", context)


@login_required
@limited("manage_email")
@after_asking_again
@never_cache
def change_address(request: PersonRequest) -> HttpResponse:
    """A link goes to the new address; the account moves there when it is opened."""
    form = account_forms.NewAddressForm(request.POST if request.method == "POST" else None, user=request.user)
    if not form.is_valid():
        return render(request, "account/change_address.html", {"form": form})
    email, adapter = form.cleaned_data["email"], get_adapter(request)
    if User.objects.filter(email=email).exists():  # its owner learns it, the person who asks does not
        adapter.send_account_already_exists_mail(email)
    else:
        adapter.send_mail(
            "account/email/email_confirmation", email, {"activate_url": addresses.link(request.user, email)}
        )
    said = _(
        "A link is on its way to %(email)s. Your account moves there when you open it; until then nothing changes."
    )
    messages.success(request, said % {"email": email})
    return redirect("account")


@login_required
@never_cache
def confirm_address(request: PersonRequest) -> HttpResponse:
    """For whom the days to confirm are over; posting sends the link again."""
    if request.method == "POST":
        return _send_again(request)
    found = confirming.unconfirmed(request)
    if found is None:
        return redirect("home")
    return render(request, "account/confirm_address.html", {"unconfirmed": found, **DEMO})


def _send_again(request: PersonRequest) -> HttpResponse:
    address = EmailAddress.objects.get(user=request.user, email=request.user.email)
    if address.verified:
        return redirect("home")
    if flows.email_verification.send_verification_email_to_address(request, address):
        messages.success(request, _("The link is on its way to %(email)s.") % {"email": address.email})
    else:
        messages.warning(request, _("A link was sent to you less than a minute ago. Please look for it first."))
    return redirect("confirm-address")


@never_cache
def confirmed(request: HttpRequest, key: str) -> HttpResponse:
    """Where a mailed link leads: one button, so that a mail scanner which opens links confirms nothing."""
    claim = addresses.claim(key)
    if claim is None:
        return render(request, "account/link_over.html", status=404)
    if request.method != "POST":
        return render(request, "account/confirmed.html", {"claim": claim})
    try:
        _take(claim)
    except people.EmailTaken:
        messages.error(request, _("Another account has this address. Nothing has changed."))
    else:
        messages.success(request, _("%(email)s is confirmed.") % {"email": claim.email})
    return redirect("home" if request.user == claim.user else "login")


def _take(claim: addresses.Claim) -> None:
    """The person's address is confirmed, or is the new one; the former one is told."""
    user, former = claim.user, claim.user.email
    with transaction.atomic():
        if not claim.is_new:
            people.confirm(user)
            record(user, "person.address_confirmed")
            return
        people.change_address(user=user, email=claim.email)
        record(user, "person.address_changed", before=former)
        get_adapter().send_mail("address_changed", former, {"email": claim.email})


@login_required
@require_POST
def sign_out_everywhere(request: PersonRequest) -> HttpResponse:
    """Every other browser is signed out."""
    with transaction.atomic():
        request.user.sessions_ended += 1
        request.user.save(update_fields=["sessions_ended"])
        record(request.user, "person.signed_out_everywhere")
    update_session_auth_hash(request, request.user)
    messages.success(request, _("All other browsers are signed out."))
    return redirect("account")
