"""The way in: sign in, sign up, and where home is."""

from typing import Any

from allauth.account import views as allauth_views
from allauth.account.adapter import get_adapter
from allauth.account.internal import flows
from allauth.account.models import Login
from allauth.account.utils import get_next_redirect_url
from allauth.mfa.base import views as second_step_views
from allauth.mfa.webauthn import views as passkey_views
from allauth.mfa.webauthn.internal.flows import perform_passwordless_login
from django.conf import settings
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST, require_safe
from django_htmx.http import HttpResponseClientRedirect

from billing import onboarding
from dashboard import first_key, invited
from dashboard.account_adapter import limited
from dashboard.account_forms import SignInForm, SignUpForm
from dashboard.pages import LAST_TENANT, tenant_link
from tenants import people
from tenants.access import TenantRequest, memberships_of
from tenants.models import User

TOO_MANY = 429


class SignIn(allauth_views.LoginView):
    form_class = SignInForm

    def form_invalid(self, form: SignInForm) -> HttpResponse:
        response: HttpResponse = super().form_invalid(form)
        if form.is_limited:
            response.status_code = TOO_MANY
        return response

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return {**super().get_context_data(**kwargs), "is_demo": settings.SANDBOX}


class PasskeySignIn(passkey_views.LoginWebAuthnView):
    """By a passkey alone; like the other way, it goes on where it was asked for."""

    def form_valid(self, form: Any) -> HttpResponse:
        authenticator = form.cleaned_data["credential"]
        login = Login(user=authenticator.user, redirect_url=get_next_redirect_url(self.request))
        return perform_passwordless_login(self.request, authenticator, login)


sign_in = SignIn.as_view()
passkey_sign_in = PasskeySignIn.as_view()
second_step = second_step_views.authenticate
sign_out = require_POST(allauth_views.logout)


def login(request: TenantRequest) -> HttpResponseBase:
    """Sign in. A poll whose session has ended is sent here by the browser, so that no form lands inside a page."""
    if request.htmx:
        return HttpResponseClientRedirect(request.get_full_path())
    return sign_in(request)


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """The tenant that was looked at last, else the first; a person without a tenant is told what to do."""
    if not isinstance(request.user, User):
        return redirect("login")
    own = memberships_of(request.user)
    last = own.filter(tenant__slug=request.session.get(LAST_TENANT, "")).first() or own.first()
    if last is None:
        return render(request, "dashboard/no_tenant.html", {"is_demo": settings.SANDBOX})
    return redirect(tenant_link(last).address)


@limited("signup")
@sensitive_post_parameters("password")
@never_cache
def sign_up(request: HttpRequest) -> HttpResponse:
    """A free account for a new organisation, or for whom an invitation brought; signed in at once. Sent twice, the second
    time signs in."""
    if request.user.is_authenticated:
        return redirect("home")
    invitation = invited.invited(request)
    form = SignUpForm(request.POST if request.method == "POST" else None, invited=invitation)
    if form.is_valid():
        try:
            return _joined(request, form, invitation) if invitation else _opened(request, form)
        except people.EmailTaken:
            known = _signed_in(request, form)
            if known is not None:
                return known
    return render(request, "account/sign_up.html", {"form": form, "invited": invitation})


def _opened(request: HttpRequest, form: SignUpForm) -> HttpResponse:
    """An organisation of their own, and its first key on the first page."""
    wanted = form.cleaned_data
    owned = onboarding.onboard(
        name=wanted["organisation"], email=wanted["email"], password=wanted["password"], plan_code="free",
        actor=wanted["email"], now=timezone.now(),
    )  # fmt: skip
    page = reverse("start", args=[owned.tenant.slug])
    answer = flows.signup.complete_signup(request, user=owned.user, redirect_url=page)
    return first_key.hand_over(answer, owned.api_key)


def _joined(request: HttpRequest, form: SignUpForm, invitation: invited.Invited) -> HttpResponse:
    """Somebody of an organisation that exists: on the page of the invitation, to accept it."""
    wanted = form.cleaned_data
    user = people.register(email=wanted["email"], password=wanted["password"], is_confirmed=True)
    answer: HttpResponse = flows.signup.complete_signup(request, user=user, redirect_url=invitation.page)
    return answer


def _signed_in(request: HttpRequest, form: SignUpForm) -> HttpResponse | None:
    """The address is known: who gives its password signs in, second step included; its owner is told of anybody else."""
    email, adapter = form.cleaned_data["email"], get_adapter(request)
    try:
        user = adapter.authenticate(request, email=email, password=form.cleaned_data["password"])
    except ValidationError as error:
        form.add_error(None, error)
        return None
    if user is None:
        form.say_that_it_may_be_known()
        if flows.email_verification.consume_email_verification_rate_limit(request, email):
            adapter.send_account_already_exists_mail(email)
        return None
    answer: HttpResponse = flows.login.perform_password_login(
        request, {"email": email}, Login(user=user, email=email, redirect_url=_invited_to(form))
    )
    return answer


def _invited_to(form: SignUpForm) -> str | None:
    return form.invited.page if form.invited else None
