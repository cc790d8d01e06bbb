"""The strips above every page: what the tenant's payment or plan needs attention for, the most pressing first."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from billing import accounts, grace
from billing.models import Account, PaymentState, PlanChange

from . import formatting
from .instants import moment

DONE_FOR = timedelta(minutes=5)  # how long a change that was made is still told of
FAILED_FOR = timedelta(days=1)
AT_ONCE = (PlanChange.Kind.UPGRADE, PlanChange.Kind.AUTOMATIC)
UNDER_WAY = (PlanChange.State.SETTLING, PlanChange.State.APPLYING)


@dataclass(frozen=True, slots=True)
class Button:
    """What to do about it: a link to `page`, or, with `is_form`, a form posted there."""

    label: str
    page: str
    is_form: bool = False
    name: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class Strip:
    """One strip. `style` is calm, warn or bad; the words say the same. `asks_stripe`: what is due is filled in later."""

    kind: str
    style: str
    lead: SafeString | str
    rest: SafeString | str = ""
    button: Button | None = None
    asks_stripe: bool = False
    polls_seconds: int | None = None  # it will change by itself soon


def strips(*, account: Account, now: datetime, sees_money: bool = True) -> tuple[Strip, ...]:
    """What this account needs to be told at this instant; without amounts for those who do not see them."""
    last = account.changes.select_related("to_version__plan", "from_version__plan").first()
    return (
        *_payment(account, now, sees_money), *_change(last, account, now, sees_money), *_ahead(account, sees_money),
    )  # fmt: skip


def kinds(found: tuple[Strip, ...]) -> str:
    return "-".join(strip.kind for strip in found)


def _payment(account: Account, now: datetime, sees_money: bool) -> Iterator[Strip]:
    pay = Button(_("Pay now"), "pay")
    since = account.past_due_since
    if account.state == PaymentState.RESTRICTED:
        lead = _("Calls are refused: an invoice is unpaid.")
        rest = format_html(
            _(
                "It is open since {since}. Reading, exporting and paying still work; calls are served again once it is paid."
            ),
            since=moment(since or now),
        )
        yield Strip("restricted", "bad", lead, rest, pay, asks_stripe=sees_money)
    elif account.state == PaymentState.PAST_DUE:
        ends_at = grace.ends_at(account)
        lead = format_html(_("A payment has failed: since {since} an invoice is open."), since=moment(since or now))
        rest = format_html(
            _("Service goes on until {end}; from then on calls are refused."), end=moment(ends_at or now)
        )
        yield Strip("past-due", "bad", lead, rest, pay, asks_stripe=sees_money)
    elif since is not None:
        lead = format_html(
            _("An invoice of a subscription that has ended is unpaid since {since}."), since=moment(since)
        )
        served = _("Your present plan is served all the same. Once it is paid you can subscribe again.")
        yield Strip("owes", "warn", lead, served, pay, asks_stripe=sees_money)


def _change(last: PlanChange | None, account: Account, now: datetime, sees_money: bool) -> Iterator[Strip]:
    if last is None:
        return
    plans = {"before": last.from_version.plan.name, "plan": last.to_version.plan.name}
    if last.state == PlanChange.State.ANNOUNCED:
        yield _announced(last, account, plans, sees_money)
    elif last.state in UNDER_WAY:
        yield _under_way(last, plans)
    elif last.ended_at is None or last.ended_at < now - FAILED_FOR:
        return
    elif last.state == PlanChange.State.FAILED:
        lead = _("The change from %(before)s to %(plan)s was refused; nothing has changed.") % plans
        yield Strip("failed", "warn", lead, last.failure, Button(_("Card and billing details"), "portal", is_form=True))
    elif _was_made_now(last, now):
        yield Strip("made", "calm", _("You are on %(plan)s now.") % plans, _("Its limits are already enforced."))


def _under_way(change: PlanChange, plans: dict[str, str]) -> Strip:
    if change.kind in AT_ONCE:
        lead = _("Your change from %(before)s to %(plan)s is being made.") % plans
        rest = _("The calls so far are being settled under the old terms. Nothing is refused meanwhile.")
    else:
        lead, rest = _("Your change is being arranged with Stripe."), _("It takes seconds.")
    return Strip("under-way", "calm", lead, rest, polls_seconds=2)


def _was_made_now(last: PlanChange, now: datetime) -> bool:
    is_made = last.kind in AT_ONCE and last.state == PlanChange.State.APPLIED
    return is_made and last.ended_at is not None and last.ended_at > now - DONE_FOR


def _announced(change: PlanChange, account: Account, plans: dict[str, str], sees_money: bool) -> Strip:
    lead = format_html(_("At {at} you move from {before} to {plan}, as you agreed."), at=moment(change.due_at), **plans)
    rest = _("Calls keep being served. Undo it until then, and nothing is charged for the upgrade.")
    if sees_money and change.previewed_minor is not None:
        amount = formatting.money(change.previewed_minor, account.currency)
        rest = _("%(amount)s are due then. ") % {"amount": amount} + rest
    undo = Button(_("Undo the upgrade"), "undo", is_form=True, name="change", value=str(change.pk))
    return Strip("announced", "warn", lead, rest, undo, polls_seconds=10)


def _ahead(account: Account, sees_money: bool) -> Iterator[Strip]:
    """What is arranged for later."""
    plan = account.plan_version.plan.name
    keep = Button(_("Keep %(plan)s") % {"plan": plan}, "reactivate", is_form=True)
    if account.cancels_at is not None:
        lead = format_html(_("{plan} ends at {at}."), plan=plan, at=moment(account.cancels_at))
        yield Strip(
            "cancels", "calm", lead, _("From then on you are on the free plan. Until then nothing changes."), keep
        )
    elif account.next_version is not None and account.period_end is not None:
        lead = format_html(
            _("At {at} you move from {before} to {plan}."), at=moment(account.period_end), before=plan,
            plan=account.next_version.plan.name,
        )  # fmt: skip
        yield Strip("scheduled", "calm", lead, _("Until then nothing changes."), keep)
    elif account.state == PaymentState.TRIALING and account.trial_ends_at is not None:
        lead = format_html(_("Your trial of {plan} ends at {at}."), plan=plan, at=moment(account.trial_ends_at))
        terms = accounts.pricing_terms(account.plan_version, account.currency)
        fee = formatting.money(terms.fee_minor, terms.currency)
        rest = _("Then %(fee)s are due for each period.") % {"fee": fee} if sees_money else ""
        yield Strip("trial", "calm", lead, rest)
