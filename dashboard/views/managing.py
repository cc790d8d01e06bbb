"""The team, its invitations, and the tenant's settings: seen by members, changed by owners."""

from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from dashboard.pages import account_of, needs, not_yours, render_page
from dashboard.team import projects_of, words
from dashboard.team import team as team_of
from dashboard.team_forms import ALL, SOME, AccessForm, InviteForm, SettingsForm
from tenants import invitations, members, notices, profile
from tenants.access import Right, TenantRequest, tenant_page
from tenants.errors import TenantsError
from tenants.models import Invitation, Membership

INVALID = 422
View = Callable[..., HttpResponse]


def _may_change(request: TenantRequest) -> bool:
    return Right.CHANGE_TEAM in request.rights


def owners_form(view: View) -> View:
    """The view gets forms that owners posted; whatever is refused is told on the team page. Below `tenant_page`."""

    @wraps(view)
    def for_posts(request: TenantRequest, **parts: Any) -> HttpResponse:
        if request.method != "POST":
            return redirect("team", tenant_slug=request.tenant.slug)
        if Right.CHANGE_TEAM not in request.rights:
            return not_yours(request, Right.CHANGE_TEAM)
        return told_why(view)(request, **parts)

    return for_posts


def told_why(view: View) -> View:
    """What the view is refused is told on the team page, and nothing has changed."""

    @wraps(view)
    def with_words(request: TenantRequest, **parts: Any) -> HttpResponse:
        try:
            return view(request, **parts)
        except TenantsError as error:
            messages.error(request, words(error))
            return redirect("team", tenant_slug=request.tenant.slug)

    return with_words


@require_safe
@tenant_page
def team(request: TenantRequest) -> HttpResponse:
    """`?page=` of the members."""
    return _team(request, InviteForm(projects=projects_of(request.tenant)))


def _team(request: TenantRequest, form: InviteForm) -> HttpResponse:
    reader = Membership.objects.get(tenant=request.tenant, user=request.user)
    page = team_of(
        tenant=request.tenant,
        reader=reader,
        sees_all=Right.SEE_WHOLE in request.rights,
        number=request.GET.get("page", ""),
        now=timezone.now(),
    )
    context = {"account": account_of(request), "page": page, "form": form, "may_change": _may_change(request)}
    return render_page(request, "dashboard/team.html", "content", context)


@tenant_page
@owners_form
def invite(request: TenantRequest) -> HttpResponse:
    form = InviteForm(request.POST, projects=projects_of(request.tenant))
    if not form.is_valid():
        answer = _team(request, form)
        answer.status_code = INVALID
        return answer
    invitation = invitations.invite(
        tenant=request.tenant,
        email=form.cleaned_data["email"],
        role=form.chosen_role,
        project_ids=form.project_ids,
        actor=request.user.email,
        now=timezone.now(),
    )
    messages.success(request, _("%(email)s is invited: the mail is on its way.") % {"email": invitation.email})
    return redirect("team", tenant_slug=request.tenant.slug)


def _invitation(request: TenantRequest, invitation_id: UUID) -> Invitation:
    found = request.tenant.invitations.filter(pk=invitation_id).first()
    if found is None:
        raise Http404
    return found


@tenant_page
@owners_form
def resend(request: TenantRequest, invitation_id: UUID) -> HttpResponse:
    """A new link is mailed; the old one stops working."""
    invitation = _invitation(request, invitation_id)
    invitations.resend(invitation=invitation, actor=request.user.email, now=timezone.now())
    messages.success(request, _("A new link is on its way to %(email)s.") % {"email": invitation.email})
    return redirect("team", tenant_slug=request.tenant.slug)


@tenant_page
@owners_form
def revoke_invitation(request: TenantRequest, invitation_id: UUID) -> HttpResponse:
    invitation = _invitation(request, invitation_id)
    if invitations.revoke(invitation=invitation, actor=request.user.email, now=timezone.now()):
        messages.success(request, _("The invitation of %(email)s is withdrawn.") % {"email": invitation.email})
    return redirect("team", tenant_slug=request.tenant.slug)


@tenant_page
@needs(Right.CHANGE_TEAM)
@told_why
def member(request: TenantRequest, member_id: int) -> HttpResponse:
    """A member's role and projects; posting changes them."""
    chosen = Membership.objects.select_related("user").filter(tenant=request.tenant, pk=member_id).first()
    if chosen is None:
        raise Http404
    projects = projects_of(request.tenant)
    if request.method != "POST":
        seen = [str(pk) for pk in chosen.seen.values_list("project_id", flat=True)]
        initial = {"role": chosen.role, "access": SOME if chosen.is_restricted else ALL, "projects": seen}
        return _member_page(request, chosen, AccessForm(initial=initial, projects=projects))
    form = AccessForm(request.POST, projects=projects)
    if not form.is_valid():
        answer = _member_page(request, chosen, form)
        answer.status_code = INVALID
        return answer
    members.change(
        tenant=request.tenant,
        membership_id=chosen.pk,
        role=form.chosen_role,
        project_ids=form.project_ids,
        actor=request.user.email,
    )
    messages.success(request, _("Saved: it holds from the next page on."))
    return redirect("team", tenant_slug=request.tenant.slug)


def _member_page(request: TenantRequest, chosen: Membership, form: AccessForm) -> HttpResponse:
    context = {"account": account_of(request), "member": chosen, "form": form}
    return render_page(request, "dashboard/member.html", "content", context)


@tenant_page
@owners_form
def remove_member(request: TenantRequest, member_id: int) -> HttpResponse:
    email = members.remove(tenant=request.tenant, membership_id=member_id, actor=request.user.email)
    if email == request.user.email:
        return redirect("home")
    messages.success(request, _("%(email)s is no longer a member.") % {"email": email})
    return redirect("team", tenant_slug=request.tenant.slug)


@tenant_page
@told_why
def leave(request: TenantRequest) -> HttpResponse:
    """Whoever posts this is no longer a member."""
    if request.method != "POST":
        return redirect("team", tenant_slug=request.tenant.slug)
    own = Membership.objects.get(tenant=request.tenant, user=request.user)
    members.remove(tenant=request.tenant, membership_id=own.pk, actor=request.user.email)
    return redirect("home")


@tenant_page
@needs(Right.SEE_WHOLE)
def tenant_settings(request: TenantRequest) -> HttpResponse:
    """Name and billing address; owners change them."""
    tenant = request.tenant
    if request.method != "POST":
        return _settings(request, SettingsForm(initial={"name": tenant.name, "email": tenant.email}))
    if Right.CHANGE_TEAM not in request.rights:
        return not_yours(request, Right.CHANGE_TEAM)
    form = SettingsForm(request.POST)
    if not form.is_valid():
        answer = _settings(request, form)
        answer.status_code = INVALID
        return answer
    wanted = form.cleaned_data
    profile.change(
        tenant=tenant, name=wanted["name"], email=wanted["email"], actor=request.user.email, now=timezone.now()
    )
    messages.success(request, _("Saved."))
    return redirect("settings", tenant_slug=tenant.slug)


def _settings(request: TenantRequest, form: SettingsForm) -> HttpResponse:
    context = {
        "account": account_of(request),
        "form": form,
        "told": notices.recipients(request.tenant),
        "may_change": _may_change(request),
    }
    return render_page(request, "dashboard/settings.html", "content", context)
