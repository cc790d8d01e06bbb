"""The way in: sign in, sign up, and where home is."""

from django.conf import settings
from django.contrib import auth
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_safe
from django_htmx.http import HttpResponseClientRedirect

from billing import onboarding
from dashboard import first_key
from dashboard.forms import SignInForm, SignUpForm
from dashboard.pages import LAST_TENANT
from tenants.access import TenantRequest, tenants_of
from tenants.models import User

sign_in = LoginView.as_view(
    template_name="dashboard/login.html",
    authentication_form=SignInForm,
    redirect_authenticated_user=True,
    extra_context={"is_demo": settings.SANDBOX},
)


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
    slugs = [tenant.slug for tenant in tenants_of(request.user)]
    if not slugs:
        return render(request, "dashboard/no_tenant.html", {"is_demo": settings.SANDBOX})
    last = request.session.get(LAST_TENANT)
    return redirect("overview", tenant_slug=last if last in slugs else slugs[0])


@sensitive_post_parameters("password")
@never_cache
def sign_up(request: HttpRequest) -> HttpResponse:
    """A free account for a new organisation, signed in at once. Sent twice, the second time signs in."""
    if request.user.is_authenticated:
        return redirect("home")
    form = SignUpForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        wanted = form.cleaned_data
        try:
            owned = onboarding.onboard(
                name=wanted["organisation"],
                email=wanted["email"],
                password=wanted["password"],
                plan_code="free",
                actor=wanted["email"],
                now=timezone.now(),
            )
        except onboarding.EmailTaken:
            known = auth.authenticate(request, username=wanted["email"], password=wanted["password"])
            if known is not None:
                auth.login(request, known)
                return redirect("home")
            form.say_that_it_may_be_known()
        else:
            auth.login(request, owned.user)
            return first_key.hand_over(redirect("overview", tenant_slug=owned.tenant.slug), owned.api_key)
    return render(request, "dashboard/sign_up.html", {"form": form})
