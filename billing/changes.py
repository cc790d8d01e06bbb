"""Changes of plan on the customer's request, and each one's way to Stripe (docs/decisions/0007).

`preview` says what a change does, `request` and its siblings write it down, `advance` takes it one step further. A step may be
killed anywhere and made twice: what happened is read from Stripe, and every write has a key of its own.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Q

from metering import usage
from tenants import audit, notices

from . import accounts, consents, reporting, stripe_api, subscriptions, upgrades
from .change_previews import (
    ChangeIsOpen,
    ChangeIsScheduled,
    ChangePreview,
    ChangeRefused,
    NotASubscriber,
    NothingToTakeBack,
    PaymentIsDue,
    PreviewIsStale,
    SamePlan,
    TooLate,
    TooManyProjects,
    check,
    free_version,
    kind_of,
    preview,
    price_ids_of,
    prices_of,
)
from .errors import CardRefused, SavedFailure, StripeError, StripeRefused
from .models import Account, Consent, PlanChange, PlanVersion
from .stripe_api import Subscription

__all__ = [
    "ChangeIsOpen", "ChangeIsScheduled", "ChangePreview", "ChangeRefused", "NotASubscriber", "NothingToTakeBack",
    "PaymentIsDue", "PreviewIsStale", "SamePlan", "TooLate", "TooManyProjects", "advance", "advance_due", "cancel", "preview",
    "reactivate", "request", "undo",
]  # fmt: skip

logger = logging.getLogger(__name__)
Kind = PlanChange.Kind
State = PlanChange.State
PREVIEW_HOLDS = timedelta(minutes=15)
SETTLED_WITHIN = timedelta(hours=24)
MOST_KEYS = 20  # Stripe keeps a failure under its key for a day; each one that it repeats costs a key
KEY_TAKEN, IN_PROGRESS = "idempotency_error", "in-progress"
NOT_COUNTED = "The calls so far could not be counted at Stripe in time. Nothing was charged; please try again."
PERIOD_OVER = "The period ended before the change could be made. Nothing was charged; please try again."


# -- Requests ------------------------------------------------------------------------------------------------------------
def request(
    *, account: Account, version: PlanVersion, actor: str, now: datetime, previewed_minor: int | None = None,
    proration_at: datetime | None = None,
) -> PlanChange:  # fmt: skip
    """The change is on its way: an upgrade at once, everything else at the period's end. A second click gets the same change.

    `previewed_minor` and `proration_at` are what the customer saw. Raises ChangeRefused's kinds and StripeError.
    """
    known = _same(account, version)
    if known is not None:
        return known
    kind = kind_of(account, version)
    check(account=account, version=version, kind=kind)
    if kind == Kind.UPGRADE and proration_at is not None:
        _check_preview(account, version, previewed_minor, proration_at, now)
    cut_at = now.replace(microsecond=0) if kind == Kind.UPGRADE else None
    change = PlanChange(
        kind=kind, state=State.SETTLING if cut_at else State.APPLYING, to_version=version, cut_at=cut_at, due_at=now,
        previewed_minor=previewed_minor, proration_at=proration_at if cut_at else None,
    )  # fmt: skip
    return _opened(change, account=account, actor=actor, now=now)


def cancel(*, account: Account, actor: str, now: datetime) -> PlanChange:
    """The subscription ends with its period, and the free plan follows. Raises ChangeRefused's kinds and StripeError."""
    return request(account=account, version=free_version(), actor=actor, now=now)


def reactivate(*, account: Account, actor: str, now: datetime) -> PlanChange:
    """What was scheduled for the period's end does not happen. Raises ChangeRefused's kinds and StripeError."""
    if not account.subscription_id:
        raise NotASubscriber
    if account.cancels_at is None and account.next_version_id is None:
        raise NothingToTakeBack
    change = PlanChange(kind=Kind.REACTIVATE, state=State.APPLYING, to_version=account.plan_version, due_at=now)
    return _opened(change, account=account, actor=actor, now=now)


def undo(*, change: PlanChange, actor: str, now: datetime) -> PlanChange:
    """The announced upgrade does not happen; its consent has ended and the customer's fallback holds. Raises TooLate."""
    with transaction.atomic():
        accounts.locked(change.account_id)
        announced = PlanChange.objects.filter(pk=change.pk, state=State.ANNOUNCED)
        if not announced.update(state=State.UNDONE, ended_at=now):
            raise TooLate
        if change.consent is not None:
            consents.end(consent=change.consent, how=Consent.End.UNDONE, actor=actor, now=now)
        _record(change, actor, "plan.change_undone")
    return _fresh(change.pk)


def _same(account: Account, version: PlanVersion) -> PlanChange | None:
    """The change to this version that is open or was scheduled already."""
    mine = PlanChange.objects.filter(account=account, to_version=version)
    opened = mine.filter(state__in=PlanChange.OPEN_STATES).exclude(kind__in=[Kind.AUTOMATIC, Kind.REACTIVATE]).first()
    if opened is not None:
        return opened
    is_scheduled = account.next_version_id == version.pk
    is_cancelled = account.cancels_at is not None and version == free_version()
    return mine.filter(state=State.APPLIED).first() if is_scheduled or is_cancelled else None


def _check_preview(
    account: Account, version: PlanVersion, previewed_minor: int | None, proration_at: datetime, now: datetime
) -> None:
    """Raises PreviewIsStale when it is old, or Stripe would now take more for the same instant."""
    if not now - PREVIEW_HOLDS <= proration_at <= now + timedelta(minutes=1):
        raise PreviewIsStale
    present = preview(account=account, version=version, now=proration_at)
    if previewed_minor is not None and present.due_minor - present.usage_minor > previewed_minor:
        raise PreviewIsStale


def _opened(change: PlanChange, *, account: Account, actor: str, now: datetime) -> PlanChange:
    """The change is written down, and its first step is made at once; what does not work now is tried again by `advance_due`."""
    change.account, change.from_version = account, account.plan_version
    change.requested_by, change.requested_at = actor, now
    with transaction.atomic():
        present = accounts.locked(account.pk)
        if present.plan_version_id != change.from_version_id:
            raise PreviewIsStale
        try:
            with transaction.atomic():
                change.save(force_insert=True)
        except IntegrityError:
            return _other(change)
        if change.kind != Kind.REACTIVATE:
            consents.end_of_account(account=present, how=Consent.End.OVERTAKEN, actor=actor, now=now)
        _record(change, actor, f"plan.{change.kind}_requested")
    try:
        return advance(change_id=change.pk, now=now)
    except StripeError as error:
        logger.warning("Change %s waits for Stripe: %s", change.pk, error)
        return _fresh(change.pk)


def _other(change: PlanChange) -> PlanChange:
    """The open change, if it is the same one by another click; raises ChangeIsOpen."""
    opened = PlanChange.objects.get(account=change.account, state__in=PlanChange.OPEN_STATES)
    if (opened.kind, opened.to_version_id) == (change.kind, change.to_version_id):
        return opened
    raise ChangeIsOpen(opened)


# -- Steps ---------------------------------------------------------------------------------------------------------------
def advance_due(*, now: datetime) -> int:
    """Every open change whose time has come was taken a step further; how many."""
    due = PlanChange.objects.filter(state__in=PlanChange.OPEN_STATES, due_at__lte=now).order_by("due_at")
    ids = list(due.values_list("pk", flat=True))
    for change_id in ids:
        try:
            advance(change_id=change_id, now=now)
        except StripeError as error:
            logger.warning("Change %s waits for Stripe: %s", change_id, error)
        except Exception:  # one customer's change holds up no other
            logger.exception("Change %s", change_id)
    return len(ids)


def advance(*, change_id: UUID, now: datetime) -> PlanChange:
    """The change is one step further, or waits for its time or for Stripe. Raises StripeError; call again then."""
    change = _fresh(change_id)
    if not change.is_open or now < change.due_at:
        return change
    if change.account.plan_version_id not in {change.from_version_id, change.to_version_id}:
        return _fail(change, "Your plan has changed otherwise meanwhile.", now=now, how=Consent.End.OVERTAKEN)
    STEPS[State(change.state)](change, now)
    return _fresh(change_id)


def _begin(change: PlanChange, now: datetime) -> None:
    """The undo window of an announced upgrade is over."""
    PlanChange.objects.filter(pk=change.pk, state=State.ANNOUNCED).update(state=State.SETTLING)


def _settle(change: PlanChange, now: datetime) -> None:
    """The calls before the cut are at Stripe, and it is decided at what price the change is made."""
    cut_at = change.cut_at
    if cut_at is None or _is_over(change, now):
        _fail(change, PERIOD_OVER, now=now)
    elif now - change.due_at > SETTLED_WITHIN and change.kind == Kind.UPGRADE:
        logger.error("Change %s: usage of tenant %s could not be settled.", change.pk, change.account_id)
        _fail(change, NOT_COUNTED, now=now)
    elif reporting.settle(account=change.account, until=cut_at, now=now):
        _decide(change, now)


def _decide(change: PlanChange, now: datetime) -> None:
    """The change is made at this price; an automatic one only if it is still not dearer than it may be."""
    at = change.proration_at or now.replace(microsecond=0)
    price = change.previewed_minor
    settled = Q(pk=change.pk, state=State.SETTLING)
    if change.consent is not None:
        period = usage.current_period(allowance=change.account.tenant.allowance, now=now)
        price = upgrades.priced(consent=change.consent, used=upgrades.used_in(change.account, period), at=at)
        if price is None:
            return  # a correction has made staying cheaper; the difference shrinks with every second
        settled &= Q(consent__ended_at=None)
    PlanChange.objects.filter(settled).update(state=State.APPLYING, proration_at=at, previewed_minor=price)


def _apply(change: PlanChange, now: datetime) -> None:
    """Stripe has made the change or refused it."""
    act = {
        Kind.UPGRADE: _replace, Kind.DOWNGRADE: _schedule, Kind.CANCEL: _end_subscription, Kind.REACTIVATE: _go_on,
        Kind.AUTOMATIC: _replace if change.account.subscription_id else _subscribe,
    }[Kind(change.kind)]  # fmt: skip
    for number in range(MOST_KEYS):
        try:
            act(change, f"change-{change.pk}-{number}", now)
            break
        except SavedFailure:
            continue  # what happened is looked up, then asked for under the next key
        except StripeRefused as error:
            if error.code != KEY_TAKEN:
                _refused(change, error, now)
                return
            if IN_PROGRESS in error.message:
                return  # another worker is asking at this moment
    subscriptions.sync(account_id=change.account_id, now=now)


STEPS: dict[State, Callable[[PlanChange, datetime], None]] = {
    State.ANNOUNCED: _begin, State.SETTLING: _settle, State.APPLYING: _apply,
}  # fmt: skip


def _replace(change: PlanChange, key: str, now: datetime) -> None:
    prices, subscription = prices_of(change.to_version), _subscription(change)
    if subscription.price_ids == price_ids_of(change.to_version):
        return
    if _is_over(change, now):
        raise StripeRefused(PERIOD_OVER)
    if subscription.schedule_id:  # of a change that was made: it holds the subscription for one more period
        stripe_api.release_schedule(schedule_id=subscription.schedule_id, key=f"{key}-release")
    stripe_api.replace_prices(
        subscription=subscription,
        prices=prices,
        currency=change.account.currency,
        at=change.proration_at or now,
        key=key,
    )


def _subscribe(change: PlanChange, key: str, now: datetime) -> None:
    account = change.account
    customer_id = account.customer_id or ""
    if any(one.is_live for one in stripe_api.subscriptions_of(customer_id)):
        return  # ours, made before a worker was killed, or one that the customer bought meanwhile
    if _is_over(change, now):
        raise StripeRefused(PERIOD_OVER)
    stripe_api.subscribe(
        customer_id=customer_id, tenant_id=account.pk, prices=prices_of(change.to_version), currency=account.currency,
        anchor=None, key=key,
    )  # fmt: skip


def _schedule(change: PlanChange, key: str, now: datetime) -> None:
    subscription = _subscription(change)
    if subscription.schedule_id:
        begun = min(item.period_start for item in subscription.items)
        if stripe_api.scheduled_prices(subscription.schedule_id, after=begun) == price_ids_of(change.to_version):
            return
    stripe_api.schedule_prices(
        subscription=subscription, prices=prices_of(change.to_version), currency=change.account.currency, key=key
    )


def _end_subscription(change: PlanChange, key: str, now: datetime) -> None:
    subscription = _unscheduled(change, key)
    if subscription.cancels_at is None:
        stripe_api.set_cancels_at_period_end(subscription_id=subscription.id, cancels=True, key=key)


def _go_on(change: PlanChange, key: str, now: datetime) -> None:
    subscription = _unscheduled(change, key)
    if subscription.cancels_at is not None:
        stripe_api.set_cancels_at_period_end(subscription_id=subscription.id, cancels=False, key=key)


def _unscheduled(change: PlanChange, key: str) -> Subscription:
    subscription = _subscription(change)
    if subscription.schedule_id:
        stripe_api.release_schedule(schedule_id=subscription.schedule_id, key=f"{key}-release")
    return subscription


def _subscription(change: PlanChange) -> Subscription:
    return stripe_api.subscription(change.account.subscription_id or "")


def _is_over(change: PlanChange, now: datetime) -> bool:
    """Whether the period that the change cuts has ended."""
    if change.cut_at is None:
        return False
    return usage.current_period(allowance=change.account.tenant.allowance, now=now).start > change.cut_at


# -- Ends ----------------------------------------------------------------------------------------------------------------
def _refused(change: PlanChange, error: StripeRefused, now: datetime) -> None:
    """Nothing happened, unless it had happened before: then Stripe refuses to do it again."""
    subscriptions.sync(account_id=change.account_id, now=now)
    present = _fresh(change.pk)
    if present.is_open:
        logger.log(logging.INFO if isinstance(error, CardRefused) else logging.ERROR, "Change %s: %s", change.pk, error)
        is_plain = isinstance(error, CardRefused) or error.message == PERIOD_OVER
        _fail(present, error.message if is_plain else "Stripe refused the change; we look into it.", now=now)


def _fail(change: PlanChange, why: str, *, now: datetime, how: Consent.End = Consent.End.FAILED) -> PlanChange:
    """The change has ended without an effect; of an automatic one the consent has, too, and the fallback holds."""
    with transaction.atomic():
        account = accounts.locked(change.account_id)
        opened = PlanChange.objects.filter(pk=change.pk, state__in=PlanChange.OPEN_STATES)
        if opened.update(state=State.FAILED, failure=why[:300], ended_at=now):
            if change.consent is not None:
                consents.end(consent=change.consent, how=how, actor=upgrades.ACTOR, now=now)
            _record(change, upgrades.ACTOR if change.consent else "plan change", "plan.change_failed", why=why)
            _tell_failure(account, change, why)
    return _fresh(change.pk)


def _tell_failure(account: Account, change: PlanChange, why: str) -> None:
    to, present = change.to_version.plan.name, account.plan_version.plan.name
    lines = [
        f"The change to {to} was not made: {why}",
        f"You stay on {present}, and nothing was charged for the change.",
    ]
    if change.consent is not None:
        lines.append(
            f"Your consent to automatic upgrades has ended. Calls beyond the included ones are "
            f"{'priced one by one' if change.consent.fallback == 'rate' else 'refused'} from now on, as you chose."
        )
    lines.append("On the plan page you can use another card and try again.")
    notices.tell(
        tenant=account.tenant, kind="plan.change_failed", key=str(change.pk), title=f"The change to {to} was not made",
        text="\n\n".join(lines),
    )  # fmt: skip


def _record(change: PlanChange, actor: str, action: str, **detail: object) -> None:
    audit.record(
        tenant=change.account.tenant, actor=actor, action=action, subject=str(change.to_version),
        before=str(change.from_version), change=str(change.pk), **detail,
    )  # fmt: skip


def _fresh(change_id: UUID) -> PlanChange:
    related = (
        "account__tenant__allowance", "account__plan_version__plan", "from_version__plan", "to_version__plan",
        "consent__from_version", "consent__to_version", "consent__account__tenant", "consent__account__plan_version__plan",
    )  # fmt: skip
    return PlanChange.objects.select_related(*related).get(pk=change_id)
