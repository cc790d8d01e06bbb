"""What happens beyond the included calls: the overage policy, the hard limit, the consent to an automatic upgrade."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from billing import accounts, checkout, consents
from billing.models import Account
from dashboard import formatting
from dashboard.forms import ConsentForm, HardLimitForm, PolicyForm
from dashboard.limits import Limits, effect
from dashboard.limits import limits as limits_of
from dashboard.pages import money_form, needs, render_page, with_account
from metering.models import Policy
from tenants.access import Right, TenantRequest, tenant_page


@require_safe
@tenant_page
@needs(Right.SEE_WHOLE)
@with_account
def limits(request: TenantRequest, account: Account) -> HttpResponse:
    page = limits_of(account=account, now=timezone.now(), sees_money=Right.SEE_MONEY in request.rights)
    calls = "" if account.hard_limit is None else str(account.hard_limit)
    money = formatting.major(account.hard_limit_minor, account.currency)
    form = _hard_limit_form(account, page, initial={"calls": calls, "money": money})
    return _page(request, account, page, form)


def _hard_limit_form(account: Account, page: Limits, **options: object) -> HardLimitForm:
    return HardLimitForm(currency=account.currency, has_money=page.has_money_limit, **options)


def _page(request: TenantRequest, account: Account, page: Limits, form: HardLimitForm) -> HttpResponse:
    context = {"account": account, "page": page, "form": form, "effect": _effect(account, page, form)}
    return render_page(request, "dashboard/limits.html", "effect", context)


def _effect(account: Account, page: Limits, form: HardLimitForm) -> object:
    """Of what was typed where that is readable, else of what is set."""
    if not form.is_bound:
        return page.effect
    if not form.is_valid():
        return ""
    return effect(
        account=account,
        statement=page.statement,
        hard_limit=form.cleaned_data["calls"],
        hard_limit_minor=form.minor,
    )


@tenant_page
@money_form("limits")
@with_account
def hard_limit(request: TenantRequest, account: Account) -> HttpResponse:
    """Saves the limits; with `only=look` it shows what they would do, and saves nothing."""
    now = timezone.now()
    page = limits_of(account=account, now=now)
    form = _hard_limit_form(account, page, data=request.POST)
    if not form.is_valid() or request.POST.get("only") == "look":
        return _page(request, account, page, form)
    accounts.set_hard_limit(
        account=account,
        hard_limit=form.cleaned_data["calls"],
        hard_limit_minor=form.minor,
        actor=request.user.email,
        now=now,
    )
    messages.success(request, _("The hard limit is saved and enforced."))
    return redirect("limits", tenant_slug=request.tenant.slug)


@tenant_page
@money_form("limits")
@with_account
def policy(request: TenantRequest, account: Account) -> HttpResponse:
    form = PolicyForm(request.POST)
    if form.is_valid():
        wanted = Policy(form.cleaned_data["policy"])
        accounts.set_policy(account=account, policy=wanted, actor=request.user.email, now=timezone.now())
        messages.success(request, _("Saved: it is enforced for the next call."))
    return redirect("limits", tenant_slug=request.tenant.slug)


@tenant_page
@money_form("limits")
@with_account
def consent(request: TenantRequest, account: Account) -> HttpResponse:
    """The customer agrees to the automatic upgrade that the page offered, in the words it offered it in."""
    now = timezone.now()
    form = ConsentForm(request.POST)
    if not form.is_valid():
        messages.warning(request, _("Tick the box to say that you agree. Nothing has been arranged."))
        return redirect("limits", tenant_slug=request.tenant.slug)
    offer = consents.offer(account=account, now=now)
    shown = (form.cleaned_data["version"], form.cleaned_data["fee_minor"])
    if offer is None or (offer.to_version.pk, offer.fee_minor) != shown:
        messages.warning(request, _("What is offered has changed since it was shown. Read it again, then agree."))
        return redirect("limits", tenant_slug=request.tenant.slug)
    consents.give(
        account=account,
        offered=offer,
        fallback=Policy(form.cleaned_data["fallback"]),
        actor=request.user.email,
        now=now,
    )
    messages.success(request, _("Arranged: you are told before an upgrade happens, and can undo it."))
    return redirect("limits", tenant_slug=request.tenant.slug)


@tenant_page
@money_form("limits")
@with_account
def withdraw(request: TenantRequest, account: Account) -> HttpResponse:
    consents.withdraw(account=account, actor=request.user.email, now=timezone.now())
    messages.success(request, _("Withdrawn: your plan changes only when you change it."))
    return redirect("limits", tenant_slug=request.tenant.slug)


@tenant_page
@money_form("limits")
@with_account
def card(request: TenantRequest, account: Account) -> HttpResponse:
    """To Stripe's page for leaving a card, which an automatic upgrade from a free plan needs."""
    address = request.build_absolute_uri(reverse("limits", args=[request.tenant.slug]))
    page = checkout.card(
        account=account, success_url=address, cancel_url=address, actor=request.user.email, now=timezone.now()
    )
    return redirect(page)
