"""What happens beyond the included calls: the overage policy, the hard limit, the consent to an automatic upgrade."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from billing import accounts, alerting, checkout, consents
from billing.models import Account
from dashboard import formatting
from dashboard.alerts import page as alerts_of
from dashboard.forms import AlertForm, ConsentForm, HardLimitForm, NarrowLimitForm, PolicyForm
from dashboard.limits import Limits, effect
from dashboard.limits import limits as limits_of
from dashboard.pages import money_form, needs, render_page, with_account
from metering import alerts
from metering import limits as sublimits
from metering.models import LimitKind, Policy
from tenants import notices
from tenants.access import Right, TenantRequest, tenant_page
from tenants.models import MailChoice

ID_DIGITS = 19


@require_safe
@tenant_page
@needs(Right.SEE_WHOLE)
@with_account
def limits(request: TenantRequest, account: Account) -> HttpResponse:
    page = limits_of(account=account, now=timezone.now(), sees_money=Right.SEE_MONEY in request.rights)
    return _page(request, account, page, _form_as_set(account, page))


def _form_as_set(account: Account, page: Limits) -> HardLimitForm:
    calls = "" if account.hard_limit is None else str(account.hard_limit)
    money = formatting.major(account.hard_limit_minor, account.currency)
    return _hard_limit_form(account, page, initial={"calls": calls, "money": money})


def _hard_limit_form(account: Account, page: Limits, **options: object) -> HardLimitForm:
    return HardLimitForm(currency=account.currency, has_money=page.has_money_limit, **options)


def _page(
    request: TenantRequest, account: Account, page: Limits, form: HardLimitForm, alert_form: AlertForm | None = None
) -> HttpResponse:
    context: dict[str, object] = {
        "account": account, "page": page, "form": form, "effect": _effect(account, page, form),
        "alert_form": alert_form or _alert_form(account, page), "alerts": None,
    }  # fmt: skip
    if not request.htmx:
        context["alerts"] = alerts_of(account=account, now=page.statement.now, sees_money=page.sees_money)
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


def _alert_form(account: Account, page: Limits, **options: object) -> AlertForm:
    return AlertForm(currency=account.currency, has_money=page.has_money_limit, **options)


@tenant_page
@money_form("limits")
@with_account
def set_alert(request: TenantRequest, account: Account) -> HttpResponse:
    now = timezone.now()
    page = limits_of(account=account, now=now)
    form = _alert_form(account, page, data=request.POST)
    if not form.is_valid():
        return _page(request, account, page, _form_as_set(account, page), form)
    try:
        is_new = alerting.put(account=account, alert=form.alert, actor=request.user.email, now=now)
    except alerts.UnusableAlert as error:
        messages.error(request, str(error))
    else:
        messages.success(request, _("The alert is set.") if is_new else _("There is such an alert already."))
    return redirect("limits", tenant_slug=request.tenant.slug)


@tenant_page
@money_form("limits")
@with_account
def remove_alert(request: TenantRequest, account: Account) -> HttpResponse:
    wanted = request.POST.get("alert", "")
    now = timezone.now()
    if wanted.isdecimal() and len(wanted) < ID_DIGITS:
        is_gone = alerts.remove(tenant=account.tenant, alert_id=int(wanted), actor=request.user.email, now=now)
        if is_gone:
            messages.success(request, _("The alert is removed."))
    return redirect("limits", tenant_slug=request.tenant.slug)


@tenant_page
@money_form("limits")
@with_account
def narrow_limit(request: TenantRequest, account: Account) -> HttpResponse:
    """The daily cap, or the limit of a project or key; without calls there is none."""
    form = NarrowLimitForm(request.POST)
    if not form.is_valid():
        messages.error(request, _("Say how many calls, as a whole number. Nothing has changed."))
        return redirect("limits", tenant_slug=request.tenant.slug)
    kind, _sign, subject = form.cleaned_data["subject"].partition(":")
    calls = form.cleaned_data["calls"]
    about: dict[str, Any] = {
        "tenant": account.tenant,
        "kind": LimitKind(kind),
        "subject_id": int(subject),
        "actor": request.user.email,
    }
    try:
        if calls is None:
            sublimits.remove(**about)
            messages.success(request, _("The hard limit is removed."))
        else:
            sublimits.put(**about, calls=calls)
            messages.success(request, _("The hard limit is saved and enforced."))
    except sublimits.UnusableLimit as error:
        messages.error(request, str(error))
    return redirect("limits", tenant_slug=request.tenant.slug)


@tenant_page
@money_form("limits")
@with_account
def recipients(request: TenantRequest, account: Account) -> HttpResponse:
    wanted = [int(one) for one in request.POST.getlist("member") if one.isdecimal() and len(one) < ID_DIGITS]
    notices.choose(
        tenant=account.tenant, topic=MailChoice.Topic.ALERTS, membership_ids=wanted, actor=request.user.email
    )
    messages.success(request, _("Saved: the next mail goes there."))
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
