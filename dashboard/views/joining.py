"""From one tenant to another: an invitation accepted, another tenant chosen or opened."""

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from billing import onboarding
from dashboard import first_key, invited
from dashboard.pages import tenant_link
from dashboard.team_forms import NewTenantForm
from tenants import directory, invitations
from tenants.access import memberships_of
from tenants.models import Role, User

PAGE_SIZE = 50
GONE, INVALID = 410, 422


@never_cache
def invitation(request: HttpRequest, token: str) -> HttpResponse:
    """What the link of an invitation opens. Posting accepts it; looking at it changes nothing."""
    try:
        if request.method == "POST" and isinstance(request.user, User):
            return _accept(request, request.user, token)
        found = invitations.find(token=token, now=timezone.now())
    except invitations.InvitationOver:
        invited.forget(request)
        return render(request, "dashboard/invitation.html", status=GONE)
    if not request.user.is_authenticated:
        invited.remember(request, email=found.email, organisation=found.tenant.name, page=request.path)
    context = {
        "invitation": found,
        "role": Role(found.role).label,
        "is_known": User.objects.filter(email=found.email).exists(),
    }
    return render(request, "dashboard/invitation.html", context)


def _accept(request: HttpRequest, user: User, token: str) -> HttpResponse:
    try:
        membership = invitations.accept(token=token, user=user, now=timezone.now())
    except invitations.OtherAddress:
        return redirect(request.path)  # the page says whom it is for
    invited.forget(request)
    messages.success(request, _("You are a member of %(tenant)s now.") % {"tenant": membership.tenant.name})
    return redirect(tenant_link(membership).address)


@require_safe
@login_required
@never_cache
def tenants(request: HttpRequest) -> HttpResponse:
    """`?q=` a part of the name, `page`: the tenants of the person who is signed in."""
    return _tenants(request, NewTenantForm())


def _tenants(request: HttpRequest, form: NewTenantForm, *, refusal: str = "") -> HttpResponse:
    assert isinstance(request.user, User)
    query = request.GET.get("q", "").strip()[:120]
    paging = Paginator(memberships_of(request.user, named=query), PAGE_SIZE).get_page(request.GET.get("page"))
    context = {
        "tenants": [tenant_link(membership) for membership in paging.object_list],
        "paging": paging,
        "query": query,
        "form": form,
        "refusal": refusal,
    }
    return render(request, "dashboard/tenants.html", context, status=INVALID if form.errors or refusal else 200)


@require_POST
@login_required
def new_tenant(request: HttpRequest) -> HttpResponse:
    """A free tenant whose owner is the person who is signed in."""
    assert isinstance(request.user, User)
    form = NewTenantForm(request.POST)
    if not form.is_valid():
        return _tenants(request, form)
    now, email = timezone.now(), request.user.email
    if directory.opened_lately(by=email, now=now) >= settings.TENANTS_PER_DAY:
        return _tenants(request, form, refusal=_("You have opened many tenants today. Open the next one tomorrow."))
    owned = onboarding.onboard(name=form.cleaned_data["name"], email=email, plan_code="free", actor=email, now=now)
    return first_key.hand_over(redirect("overview", tenant_slug=owned.tenant.slug), owned.api_key)
