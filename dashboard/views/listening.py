"""Webhook endpoints: listed, added, changed, tried out; what was delivered, and again."""

from collections.abc import Callable
from functools import wraps
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from dashboard import endpoints as pages
from dashboard.pages import needs, not_yours, render_page
from tenants import endpoints
from tenants.access import Right, TenantRequest, tenant_page
from tenants.models import Delivery, EventType, WebhookEndpoint

MOST_URL = 2100


def _posted(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """The view gets forms of owners and billing members; others are told why not, and whoever only looks is led to the page."""

    @wraps(view)
    def for_posts(request: TenantRequest, **about: UUID) -> HttpResponse:
        found = {name: _own(request, value) for name, value in about.items()}
        if request.method != "POST":
            return redirect("webhooks", tenant_slug=request.tenant.slug)
        if Right.CHANGE_MONEY not in request.rights:
            return not_yours(request, Right.CHANGE_MONEY)
        return view(request, *found.values())

    return for_posts


def _own(request: TenantRequest, endpoint_id: UUID) -> WebhookEndpoint:
    endpoint = WebhookEndpoint.objects.filter(tenant=request.tenant, pk=endpoint_id).first()
    if endpoint is None:
        raise Http404
    return endpoint


@require_safe
@tenant_page
@needs(Right.SEE_WHOLE)
def webhooks(request: TenantRequest) -> HttpResponse:
    return _list(request)


def _about(request: TenantRequest) -> dict[str, object]:
    return {"slug": request.tenant.slug, "may_change": Right.CHANGE_MONEY in request.rights}


def _list(request: TenantRequest, *, url: str = "", error: str = "", chosen: list[str] | None = None) -> HttpResponse:
    context = {
        **_about(request), "endpoints": pages.of(request.tenant), "url": url, "error": error,
        "choices": pages.choices(chosen if chosen is not None else [EventType.ALERT_FIRED, EventType.LIMIT_REACHED]),
    }  # fmt: skip
    response = render_page(request, "dashboard/webhooks.html", "content", context)
    if error:
        response.status_code = 422
    return response


@tenant_page
@_posted
def add_webhook(request: TenantRequest) -> HttpResponse:
    """The new endpoint's page, with its secret: this once."""
    url, chosen = request.POST.get("url", "").strip()[:MOST_URL], request.POST.getlist("event")
    try:
        endpoint, secret = endpoints.add(tenant=request.tenant, url=url, events=chosen, actor=request.user.email)
    except endpoints.UnusableEndpoint as error:
        return _list(request, url=url, error=str(error), chosen=chosen)
    return _show(request, endpoint, secret=secret)


@require_safe
@tenant_page
@needs(Right.SEE_WHOLE)
def webhook(request: TenantRequest, endpoint_id: UUID) -> HttpResponse:
    return _show(request, _own(request, endpoint_id))


def _show(request: TenantRequest, endpoint: WebhookEndpoint, *, secret: str = "", error: str = "") -> HttpResponse:
    context = {
        **_about(request), "endpoint": endpoint, "choices": pages.choices(endpoint.events), "secret": secret, "error": error,
        "log": pages.log(endpoint=endpoint, number=request.GET.get("page", "1")),
        "overlaps": endpoint.old_until is not None and endpoint.old_until > timezone.now(),
    }  # fmt: skip
    response = render_page(request, "dashboard/webhook.html", "content", context)
    if error:
        response.status_code = 422
    return response


@tenant_page
@_posted
def act_on_webhook(request: TenantRequest, endpoint: WebhookEndpoint) -> HttpResponse:
    """What the form's button says."""
    act = ACTS.get(request.POST.get("act", ""))
    if act is None:
        return redirect("webhook", tenant_slug=request.tenant.slug, endpoint_id=endpoint.pk)
    try:
        return act(request, endpoint)
    except endpoints.UnusableEndpoint as error:
        return _show(request, endpoint, error=str(error))


def _change(request: TenantRequest, endpoint: WebhookEndpoint) -> HttpResponse:
    endpoints.change(
        endpoint=endpoint, url=request.POST.get("url", "").strip()[:MOST_URL], events=request.POST.getlist("event"),
        is_on="is_on" in request.POST, actor=request.user.email,
    )  # fmt: skip
    return _said(request, endpoint, _("Saved."))


def _rotate(request: TenantRequest, endpoint: WebhookEndpoint) -> HttpResponse:
    secret = endpoints.rotate(endpoint=endpoint, actor=request.user.email, now=timezone.now())
    endpoint.refresh_from_db()
    return _show(request, endpoint, secret=secret)


def _test(request: TenantRequest, endpoint: WebhookEndpoint) -> HttpResponse:
    endpoints.test(endpoint=endpoint, actor=request.user.email, now=timezone.now())
    return _said(request, endpoint, _("A test event is on its way: reload the page to see what came of it."))


def _redeliver(request: TenantRequest, endpoint: WebhookEndpoint) -> HttpResponse:
    wanted = _uuid(request.POST.get("delivery", ""))
    found = Delivery.objects.filter(endpoint=endpoint).select_related("endpoint", "event", "tenant")
    delivery = found.filter(pk=wanted).first() if wanted else None
    if delivery is None:
        raise Http404
    endpoints.redeliver(delivery=delivery, actor=request.user.email, now=timezone.now())
    return _said(request, endpoint, _("It is on its way again, under the same id."))


def _remove(request: TenantRequest, endpoint: WebhookEndpoint) -> HttpResponse:
    endpoints.remove(endpoint=endpoint, actor=request.user.email)
    messages.success(request, _("The endpoint is removed."))
    return redirect("webhooks", tenant_slug=request.tenant.slug)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _said(request: TenantRequest, endpoint: WebhookEndpoint, text: str) -> HttpResponse:
    messages.success(request, text)
    return redirect("webhook", tenant_slug=request.tenant.slug, endpoint_id=endpoint.pk)


ACTS: dict[str, Callable[[TenantRequest, WebhookEndpoint], HttpResponse]] = {
    "change": _change, "rotate": _rotate, "test": _test, "redeliver": _redeliver, "remove": _remove,
}  # fmt: skip
