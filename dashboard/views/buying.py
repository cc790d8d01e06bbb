"""Plans: compared, bought, changed, cancelled, paid. Stripe's pages take the payments; these lead there and back."""

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe
from django_htmx.http import HttpResponseClientRefresh

from billing import changes, checkout
from billing.models import Account
from dashboard import previews
from dashboard.arrivals import arrival
from dashboard.dues import dues
from dashboard.forms import ChangeForm, SubscribeForm, UndoForm
from dashboard.offers import offers
from dashboard.pages import money_form, needs, render_page, with_account
from dashboard.strips import kinds, strips
from tenants.access import Right, TenantRequest, tenant_page


def absolute(request: TenantRequest, page: str) -> str:
    """A page's whole address under the host that the browser used: its session belongs to that host."""
    return request.build_absolute_uri(reverse(page, args=[request.tenant.slug]))


@require_safe
@tenant_page
@needs(Right.SEE_MONEY)
@with_account
def plan(request: TenantRequest, account: Account) -> HttpResponse:
    """`?currency=` one that the plans are sold in; anything else is read as the account's."""
    page = offers(account=account, currency=request.GET.get("currency", ""), now=timezone.now())
    return render_page(request, "dashboard/plan.html", "content", {"account": account, "page": page})


@require_safe
@tenant_page
@with_account
def state(request: TenantRequest, account: Account) -> HttpResponse:
    """The strips, polled while something changes by itself; once it is done the whole page is asked for again."""
    if not request.htmx:
        return redirect("plan", tenant_slug=request.tenant.slug)
    found = strips(account=account, now=timezone.now())
    if request.GET.get("last") != kinds(found):
        return HttpResponseClientRefresh()
    return HttpResponse(status=204)


@tenant_page
@money_form("plan")
@with_account
def subscribe(request: TenantRequest, account: Account) -> HttpResponse:
    """To Stripe's Checkout."""
    form = SubscribeForm(request.POST)
    version = previews.offered(account, form.cleaned_data["version"]) if form.is_valid() else None
    if version is None:
        raise Http404
    address = checkout.begin(
        account=account,
        version=version,
        currency=form.cleaned_data["currency"] or account.currency,
        success_url=f"{absolute(request, 'returned')}?session_id={{CHECKOUT_SESSION_ID}}",
        cancel_url=absolute(request, "plan"),
        actor=request.user.email,
        now=timezone.now(),
    )
    return redirect(address)


@require_safe
@tenant_page
@needs(Right.SEE_MONEY)
@with_account
def returned(request: TenantRequest, account: Account) -> HttpResponse:
    """Back from Checkout. Polls read what the webhooks have brought; whoever loads the page asks Stripe itself."""
    is_poll = bool(request.htmx)
    page = arrival(account=account, asks_stripe=not is_poll, now=timezone.now())
    if is_poll:
        return HttpResponseClientRefresh() if page.is_confirmed else HttpResponse(status=204)
    context = {"account": page.account, "page": page}
    return render_page(request, "dashboard/returned.html", "content", context)


@tenant_page
def change(request: TenantRequest) -> HttpResponse:
    """`?to=` a version: what the change costs and when it happens. Posting it makes the change."""
    return _confirm(request) if request.method == "POST" else _preview(request)


@needs(Right.SEE_MONEY)
@with_account
def _preview(request: TenantRequest, account: Account) -> HttpResponse:
    version = previews.offered(account, request.GET.get("to", ""))
    if version is None:
        raise Http404
    page = previews.preview(account=account, version=version, now=timezone.now())
    return render_page(request, "dashboard/change.html", "content", {"account": account, "page": page})


@money_form("plan")
@with_account
def _confirm(request: TenantRequest, account: Account) -> HttpResponse:
    form = ChangeForm(request.POST)
    version = previews.offered(account, form.cleaned_data["version"]) if form.is_valid() else None
    if version is None:
        raise Http404
    try:
        changes.request(
            account=account,
            version=version,
            actor=request.user.email,
            now=timezone.now(),
            previewed_minor=form.cleaned_data["previewed_minor"],
            proration_at=form.cleaned_data["proration_at"],
        )
    except changes.PreviewIsStale:
        messages.warning(request, _("The amount has changed since it was shown. Look at it again, then confirm."))
        return redirect(f"{reverse('change', args=[request.tenant.slug])}?to={version.pk}")
    return redirect("plan", tenant_slug=request.tenant.slug)


@tenant_page
@money_form("plan")
@with_account
def reactivate(request: TenantRequest, account: Account) -> HttpResponse:
    """A cancellation or a change at the period's end is taken back."""
    changes.reactivate(account=account, actor=request.user.email, now=timezone.now())
    messages.success(request, _("Your plan stays as it is."))
    return redirect("plan", tenant_slug=request.tenant.slug)


@tenant_page
@money_form("plan")
@with_account
def undo(request: TenantRequest, account: Account) -> HttpResponse:
    """An announced upgrade does not happen."""
    form = UndoForm(request.POST)
    announced = account.changes.filter(pk=form.cleaned_data["change"]).first() if form.is_valid() else None
    if announced is None:
        raise Http404
    changes.undo(change=announced, actor=request.user.email, now=timezone.now())
    messages.success(request, _("Undone: you stay on your plan, and your consent to automatic upgrades has ended."))
    return redirect("plan", tenant_slug=request.tenant.slug)


@tenant_page
@money_form("plan")
@with_account
def portal(request: TenantRequest, account: Account) -> HttpResponse:
    """To Stripe's Customer Portal: card, tax id, address. `flow` leads straight to the card."""
    flow = "payment_method_update" if request.POST.get("flow") == "card" else ""
    return redirect(checkout.portal(account=account, return_url=absolute(request, "plan"), flow=flow))


@require_safe
@tenant_page
@needs(Right.SEE_MONEY)
@with_account
def pay(request: TenantRequest, account: Account) -> HttpResponse:
    """The open invoices as Stripe has them; their pay links lead to Stripe's pages."""
    page = dues(account=account)
    return render_page(request, "dashboard/pay.html", "due", {"account": account, "page": page})
