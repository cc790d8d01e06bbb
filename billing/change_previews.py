"""What a change of plan would do, before anybody decides: when it happens, what is due, what stands in its way."""

from dataclasses import dataclass
from datetime import datetime

from metering import usage
from tenants.models import Project

from . import accounts, checkout, stripe_api, upgrades
from .errors import BillingError
from .models import Account, PaymentState, Plan, PlanChange, PlanVersion, StripePrices
from .stripe_api import PreviewLine

Kind = PlanChange.Kind


class ChangeRefused(BillingError):
    """The change cannot be made; nothing has happened."""

    words = "The change cannot be made."

    def __init__(self, words: str = "") -> None:
        super().__init__(words or self.words)


class SamePlan(ChangeRefused):
    words = "You are on this plan already."


class NotASubscriber(ChangeRefused):
    words = "There is no subscription to change. Choose a plan and subscribe first."


class PaymentIsDue(ChangeRefused):
    words = "A payment is missing. Pay the open invoice first, then change the plan."


class PreviewIsStale(ChangeRefused):
    words = "The amount has changed since it was shown. Look at it again, then confirm."


class NothingToTakeBack(ChangeRefused):
    words = "Nothing is scheduled, so there is nothing to take back."


class TooLate(ChangeRefused):
    words = "This change can no longer be undone."


class ChangeIsScheduled(ChangeRefused):
    """Something else is scheduled for the period's end."""


class ChangeIsOpen(ChangeRefused):
    """Another change is on its way."""

    def __init__(self, change: PlanChange) -> None:
        super().__init__(f"A change to {change.to_version.plan} is on its way. Wait until it is done, or undo it.")
        self.change = change


class TooManyProjects(ChangeRefused):
    """More projects in use than the plan has room for; `names` are all of them."""

    def __init__(self, version: PlanVersion, names: tuple[str, ...]) -> None:
        room = version.max_projects or 0
        super().__init__(
            f"{version.plan} has room for {room} {'project' if room == 1 else 'projects'}, and you have {len(names)}: "
            f"{', '.join(names)}. Archive {len(names) - room} first."
        )
        self.names = names


@dataclass(frozen=True, slots=True)
class ChangePreview:
    """What the change does. `at` is when: of an upgrade the instant it was computed for, else the period's end.

    `due_minor` is due at once; `usage_minor` of it is for calls beyond the included ones so far, which stay in the old terms.
    """

    kind: PlanChange.Kind
    due_minor: int
    lines: tuple[PreviewLine, ...]
    next_fee_minor: int
    currency: str
    at: datetime
    conflicts: tuple[str, ...]
    explanation: str
    usage_minor: int = 0


def free_version() -> PlanVersion:
    """What follows a subscription that ends."""
    return accounts.public_version(plan_code=Plan.objects.order_by("rank").values_list("code", flat=True)[0])


def prices_of(version: PlanVersion) -> StripePrices:
    return StripePrices.objects.get(version=version)


def price_ids_of(version: PlanVersion) -> frozenset[str]:
    """The prices of a subscription that is on this version."""
    prices = prices_of(version)
    return frozenset(price_id for price_id in (prices.fee_price_id, prices.usage_price_id) if price_id)


def kind_of(account: Account, version: PlanVersion) -> PlanChange.Kind:
    """At once only what costs more: so there is never a second set of included calls without a higher fee paid."""
    if version == free_version():
        return Kind.CANCEL
    present = accounts.pricing_terms(account.plan_version, account.currency)
    wanted = accounts.pricing_terms(version, account.currency)
    return Kind.UPGRADE if wanted.fee_minor > present.fee_minor else Kind.DOWNGRADE


def check(*, account: Account, version: PlanVersion, kind: PlanChange.Kind) -> None:
    """Raises what stands in the way of the change: ChangeRefused's kinds, NotOffered, NotInCatalogue."""
    if not account.subscription_id or account.state == PaymentState.NONE:
        raise NotASubscriber
    if version == account.plan_version:
        raise SamePlan
    _check_scheduled(account, kind)
    if kind != Kind.CANCEL:
        if account.state in {PaymentState.PAST_DUE, PaymentState.RESTRICTED}:
            raise PaymentIsDue
        checkout.offered_prices(account=account, version=version, currency=account.currency)
    too_many = _too_many(account, version)
    if too_many is not None and kind != Kind.CANCEL:  # nobody is kept from leaving
        raise too_many


def _check_scheduled(account: Account, kind: PlanChange.Kind) -> None:
    if account.cancels_at is not None:
        raise ChangeIsScheduled(
            f"Your subscription ends on {account.cancels_at:%d %B %Y} (UTC). Take that back first, then change the plan."
        )
    if account.next_version is not None and kind != Kind.CANCEL:
        raise ChangeIsScheduled(
            f"A change to {account.next_version.plan} is scheduled for the period's end. Take it back first."
        )


def _too_many(account: Account, version: PlanVersion) -> TooManyProjects | None:
    if version.max_projects is None:
        return None
    in_use = Project.objects.filter(tenant_id=account.tenant_id, archived_at=None)
    names = tuple(in_use.order_by("name").values_list("name", flat=True))
    return TooManyProjects(version, names) if len(names) > version.max_projects else None


def preview(*, account: Account, version: PlanVersion, now: datetime) -> ChangePreview:
    """What the change would do at this instant; what the customer must resolve first is among `conflicts`.

    Raises ChangeRefused's kinds for what cannot be resolved on the way, and StripeError.
    """
    kind = kind_of(account, version)
    conflicts: tuple[str, ...] = ()
    try:
        check(account=account, version=version, kind=kind)
    except (TooManyProjects, ChangeIsScheduled) as error:
        conflicts = (str(error),)
    if kind == Kind.UPGRADE:
        return _at_once(account, version, conflicts, now)
    return _at_period_end(account, version, kind, conflicts, now)


def _at_once(account: Account, version: PlanVersion, conflicts: tuple[str, ...], now: datetime) -> ChangePreview:
    at = now.replace(microsecond=0)
    subscription = stripe_api.subscription(account.subscription_id or "")
    found = stripe_api.preview_replacement(
        subscription=subscription, prices=prices_of(version), currency=account.currency, at=at
    )
    period = usage.current_period(allowance=account.tenant.allowance, now=now)
    usage_minor = upgrades.overage_minor(account=account, used=upgrades.used_in(account, period))
    reported = sum(line.amount_minor for line in found.lines if not line.is_proration)
    lines, due_minor = found.lines, found.due_minor
    if (
        usage_minor > reported
    ):  # calls that Stripe has not heard of yet: they are counted there before the change is made
        words = f"Calls beyond the included ones of {account.plan_version.plan} so far"
        lines = (*lines, PreviewLine(words, usage_minor - reported, is_proration=False))
        due_minor += usage_minor - reported
    return ChangePreview(
        kind=Kind.UPGRADE, due_minor=due_minor, lines=lines, currency=found.currency, at=at, conflicts=conflicts,
        next_fee_minor=_fee(account, version), usage_minor=max(usage_minor, reported),
        explanation=_explained(account, version, min(item.period_end for item in subscription.items)),
    )  # fmt: skip


def _fee(account: Account, version: PlanVersion) -> int:
    currency = account.currency if accounts.is_sold_in(version, account.currency) else None
    return accounts.pricing_terms(version, currency).fee_minor


def _explained(account: Account, version: PlanVersion, ends_at: datetime) -> str:
    before, after = account.plan_version.plan.name, version.plan.name
    included = "unlimited calls" if version.included is None else f"{version.included:,} included calls"
    text = (
        f"The change is made at once. Calls so far are settled under {before}. A new period with {included} of {after} begins now "
        f"and runs to {ends_at:%d %B %Y, %H:%M} (UTC); the fees are prorated to the second."
    )
    if account.state == PaymentState.TRIALING:
        text += " Your trial goes on: the fee is due when it ends."
    return text


def _at_period_end(
    account: Account, version: PlanVersion, kind: PlanChange.Kind, conflicts: tuple[str, ...], now: datetime
) -> ChangePreview:
    ends_at = account.period_end or usage.current_period(allowance=account.tenant.allowance, now=now).end
    before, after = account.plan_version.plan.name, version.plan.name
    happens = f"On {ends_at:%d %B %Y, %H:%M} (UTC), at the period's end,"
    if kind == Kind.CANCEL:
        text = f"{happens} your subscription ends and you are on {after}. Until then {before} stays as it is; nothing is paid back."
        too_many = _too_many(account, version)
        if too_many is not None:
            room, count = version.max_projects, len(too_many.names)
            text += f" Your {count} projects stay, but none can be added: {after} has room for {room}."
    else:
        text = (
            f"{happens} {after} begins. Until then {before} stays as it is, with what it includes; nothing is due now."
        )
    return ChangePreview(
        kind=kind, due_minor=0, lines=(), next_fee_minor=_fee(account, version), currency=account.currency, at=ends_at,
        conflicts=conflicts, explanation=text,
    )  # fmt: skip
