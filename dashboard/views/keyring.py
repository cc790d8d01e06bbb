"""API keys: listed, created, rotated and revoked. A whole key is in one answer only, the one to the form that made it."""

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from billing.models import Account
from dashboard import api_keys, refusals
from dashboard.key_forms import KeyForm, RotationForm
from dashboard.pages import needs, render_page, with_account
from tenants import keys as domain
from tenants import rotation
from tenants.access import Right, TenantRequest, scopes_to_give, tenant_page, visible_projects
from tenants.errors import TenantsError
from tenants.key_status import KeyStatus, status_of
from tenants.models import ApiKey

REFUSED = 422


@require_safe
@tenant_page
@with_account
def keys(request: TenantRequest, account: Account) -> HttpResponse:
    """`?project=` a slug, `?status=` active, expired, revoked or all; `?page=` leads on."""
    page = api_keys.keys(
        account=account, visible=visible_projects(request), project=request.GET.get("project", ""),
        status=request.GET.get("status", ""), number=request.GET.get("page", "1"), now=timezone.now(),
    )  # fmt: skip
    context = {"account": account, "page": page, "may_change": Right.CHANGE_KEYS in request.rights}
    return render_page(request, "dashboard/keys.html", "list", context)


@tenant_page
@needs(Right.CHANGE_KEYS)
@with_account
def new(request: TenantRequest, account: Account) -> HttpResponse:
    """`?project=` chooses one in the form. Posting it makes the key and shows it."""
    may_give = scopes_to_give(request.rights)
    given = {"data": request.POST} if request.method == "POST" else {"initial": {"project": request.GET.get("project")}}
    form = KeyForm(
        **given, projects=visible_projects(request).filter(archived_at=None), may_give=may_give, now=timezone.now()
    )
    if form.is_valid():
        try:
            key, text = domain.issue(
                project=form.chosen_project, name=" ".join(form.cleaned_data["name"].split()), actor=request.user.email,
                scopes=frozenset(form.cleaned_data["scopes"]), expires_at=form.expires_at, created_by=request.user,
                within=may_give,
            )  # fmt: skip
        except TenantsError as error:
            form.add_error(None, refusals.of_tenants(error))
        else:
            return _shown(request, account, key, text)
    response = render_page(request, "dashboard/new_key.html", "content", {"account": account, "form": form})
    response.status_code = REFUSED if form.errors else 200
    return response


def _shown(
    request: TenantRequest, account: Account, key: ApiKey, text: str, replaces: ApiKey | None = None
) -> HttpResponse:
    """The page with the whole key. It is stored nowhere, and no cache keeps this answer."""
    context = {
        "account": account, "row": api_keys.row(key, 0, timezone.now()), "secret": text, "replaces": replaces,
    }  # fmt: skip
    response = render_page(request, "dashboard/key_made.html", "content", context)
    response["Cache-Control"] = "no-store"
    return response


def _found(request: TenantRequest, public_id: str) -> ApiKey:
    """A key of a project that this member sees; raises Http404."""
    found = ApiKey.objects.filter(tenant=request.tenant, project__in=visible_projects(request), public_id=public_id)
    key = found.select_related("tenant", "project", "created_by", "replaced_by").first()
    if key is None:
        raise Http404
    return key


@tenant_page
@needs(Right.CHANGE_KEYS)
@with_account
def rotate(request: TenantRequest, account: Account, public_id: str) -> HttpResponse:
    """How long the old key goes on; posting makes the new one and shows it."""
    now = timezone.now()
    key = _found(request, public_id)
    form = RotationForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            made, text = rotation.rotate(
                key=key, overlap=form.duration, actor=request.user.email, now=now, created_by=request.user,
                within=scopes_to_give(request.rights),
            )  # fmt: skip
        except TenantsError as error:
            messages.error(request, refusals.of_tenants(error))
            return redirect("keys", tenant_slug=request.tenant.slug)
        key.refresh_from_db()
        return _shown(request, account, made, text, replaces=key)
    context = {"account": account, "row": api_keys.row(key, 0, now), "form": form}
    response = render_page(request, "dashboard/rotate_key.html", "content", context)
    response.status_code = REFUSED if form.errors else 200
    return response


@tenant_page
@needs(Right.CHANGE_KEYS)
@with_account
def revoke(request: TenantRequest, account: Account, public_id: str) -> HttpResponse:
    """What revoking means; posting does it."""
    now = timezone.now()
    key = _found(request, public_id)
    if request.method == "POST":
        domain.revoke(key=key, actor=request.user.email, now=now)
        messages.success(request, _("%(name)s is revoked: calls with it are refused.") % {"name": key.name})
        return redirect("keys", tenant_slug=request.tenant.slug)
    if status_of(key, now) is KeyStatus.REVOKED:
        return redirect("keys", tenant_slug=request.tenant.slug)
    context = {"account": account, "row": api_keys.row(key, 0, now)}
    return render_page(request, "dashboard/revoke_key.html", "content", context)
