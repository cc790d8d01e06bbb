"""The first run: from sign-up to the first metered call with one copied command."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django_htmx.http import HTMX_STOP_POLLING

from billing.models import Account
from dashboard import first_key, refusals
from dashboard.pages import needs, render_page, with_account
from dashboard.start import start as start_of
from tenants import keys
from tenants.access import Right, TenantRequest, scopes_to_give, tenant_page, visible_projects
from tenants.errors import TenantsError


@tenant_page
@with_account
def start(request: TenantRequest, account: Account) -> HttpResponse:
    """Shows the key that was handed over, this once; polls wait for the call. Posting makes a new key."""
    if request.method == "POST":
        return _make(request, account)
    secret = "" if request.htmx else first_key.handed_over(request)
    projects = tuple(visible_projects(request).filter(archived_at=None))
    known = request.tenant.api_keys.filter(project__in=projects, revoked_at=None).order_by("-created_at").first()
    page = start_of(
        tenant_id=request.tenant.pk, projects=projects, visible=request.projects, secret=secret,
        prefix=known.prefix if known else "mh_live",
    )  # fmt: skip
    response = render_page(request, "dashboard/start.html", "live", {"account": account, "page": page})
    if request.htmx and page.arrived:
        response.status_code = HTMX_STOP_POLLING
    return first_key.forget(response) if secret else response


@needs(Right.CHANGE_KEYS)
def _make(request: TenantRequest, account: Account) -> HttpResponse:
    answer = redirect("start", tenant_slug=request.tenant.slug)
    project = visible_projects(request).filter(archived_at=None).first()
    if project is None:
        messages.error(request, _("There is no project in use. Create or restore one first."))
        return answer
    may_give = scopes_to_give(request.rights)
    try:
        _key, text = keys.issue(
            project=project, name="First calls", actor=request.user.email, scopes=keys.DEFAULT_SCOPES & may_give,
            created_by=request.user, within=may_give,
        )  # fmt: skip
    except TenantsError as error:
        messages.error(request, refusals.of_tenants(error))
        return answer
    return first_key.hand_over(answer, text)
