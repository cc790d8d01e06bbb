"""Projects: listed, created, renamed, archived and restored. A member who is restricted to some of them changes none."""

from django.contrib import messages
from django.db.models import QuerySet
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.translation import gettext as _

from billing.models import Account
from dashboard import projects as listed
from dashboard import refusals
from dashboard.key_forms import ProjectForm
from dashboard.pages import needs, render_page, with_account
from metering import usage
from tenants import directory
from tenants import projects as domain
from tenants.access import Right, TenantRequest, tenant_page, visible_projects
from tenants.errors import TenantsError
from tenants.models import Project

REFUSED = 422


@tenant_page
@with_account
def projects(request: TenantRequest, account: Account) -> HttpResponse:
    """`?archived=1` lists those that are archived, `?page=` leads on. Posting a name creates a project."""
    if request.method == "POST":
        return _create(request, account)
    return _list(request, account, ProjectForm())


def _list(request: TenantRequest, account: Account, form: ProjectForm) -> HttpResponse:
    page = listed.projects(
        account=account, visible=visible_projects(request), shows_archived=request.GET.get("archived") == "1",
        number=request.GET.get("page", "1"), now=timezone.now(),
    )  # fmt: skip
    response = render_page(
        request, "dashboard/projects.html", "content", {"account": account, "page": page, "form": form}
    )
    response.status_code = REFUSED if form.errors else 200
    return response


@needs(Right.CHANGE_KEYS)
@needs(Right.SEE_WHOLE)
def _create(request: TenantRequest, account: Account) -> HttpResponse:
    form = ProjectForm(request.POST)
    if form.is_valid():
        try:
            made = directory.add_project(
                tenant=request.tenant, name=form.cleaned_data["name"], actor=request.user.email
            )
        except TenantsError as error:
            form.add_error("name", refusals.of_tenants(error))
        else:
            messages.success(
                request, _("%(name)s is there. It needs a key before it can be called.") % {"name": made.name}
            )
            return redirect("projects", tenant_slug=request.tenant.slug)
    return _list(request, account, form)


def _found(request: TenantRequest, slug: str) -> Project:
    """A project that this member sees, as `with_keys` reads it; raises Http404."""
    projects: QuerySet[Project] = listed.with_keys(visible_projects(request).filter(slug=slug), timezone.now())
    found = projects.select_related("tenant").first()
    if found is None:
        raise Http404
    return found


def _one(request: TenantRequest, account: Account, project: Project, template: str, form: ProjectForm) -> HttpResponse:
    period = usage.current_period(allowance=account.tenant.allowance, now=timezone.now())
    (row,) = listed.rows(account=account, found=[project], period=period)
    context = {"account": account, "project": project, "row": row, "period": period, "form": form}
    response = render_page(request, template, "content", context)
    response.status_code = REFUSED if form.errors else 200
    return response


@tenant_page
@with_account
def project(request: TenantRequest, account: Account, project_slug: str) -> HttpResponse:
    """One project; posting a name renames it."""
    found = _found(request, project_slug)
    if request.method == "POST":
        return _rename(request, account, found)
    return _one(request, account, found, "dashboard/project.html", ProjectForm(initial={"name": found.name}))


@needs(Right.CHANGE_KEYS)
@needs(Right.SEE_WHOLE)
def _rename(request: TenantRequest, account: Account, found: Project) -> HttpResponse:
    form = ProjectForm(request.POST)
    if form.is_valid():
        try:
            domain.rename(project=found, name=form.cleaned_data["name"], actor=request.user.email)
        except TenantsError as error:
            form.add_error("name", refusals.of_tenants(error))
        else:
            messages.success(request, _("Saved."))
            return redirect("project", tenant_slug=request.tenant.slug, project_slug=found.slug)
    return _one(request, account, found, "dashboard/project.html", form)


@tenant_page
@needs(Right.CHANGE_KEYS)
@needs(Right.SEE_WHOLE)
@with_account
def archive(request: TenantRequest, account: Account, project_slug: str) -> HttpResponse:
    """What archiving means; posting does it."""
    found = _found(request, project_slug)
    if request.method != "POST":
        if found.is_archived:
            return redirect("project", tenant_slug=request.tenant.slug, project_slug=found.slug)
        return _one(request, account, found, "dashboard/archive_project.html", ProjectForm())
    domain.archive(project=found, actor=request.user.email, now=timezone.now())
    messages.success(request, _("%(name)s is archived, and its keys are revoked.") % {"name": found.name})
    return redirect("projects", tenant_slug=request.tenant.slug)


@tenant_page
@needs(Right.CHANGE_KEYS)
@needs(Right.SEE_WHOLE)
@with_account
def restore(request: TenantRequest, account: Account, project_slug: str) -> HttpResponse:
    """Posting takes the project back into use; it has no keys that work until new ones are made."""
    found = _found(request, project_slug)
    if request.method == "POST":
        try:
            domain.restore(project=found, actor=request.user.email)
        except TenantsError as error:
            messages.error(request, refusals.of_tenants(error))
        else:
            messages.success(request, _("%(name)s is in use again. Make a new key for it.") % {"name": found.name})
    return redirect("project", tenant_slug=request.tenant.slug, project_slug=found.slug)
