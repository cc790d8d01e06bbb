"""Consent to automatic upgrades: what the customer is offered, agrees to and may withdraw. Without one nothing moves by itself."""

from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import transaction

from metering.models import Policy
from tenants import audit

from . import accounts, checkout, pricing
from .errors import BillingError
from .letters import money
from .models import Account, Consent, PaymentState, PlanChange, PlanVersion


class ConsentRefused(BillingError):
    """The consent cannot be given; the message says why."""


class NothingToAgreeTo(ConsentRefused):
    """There is no next plan that the account could move to by itself."""


class OfferIsStale(ConsentRefused):
    """What was agreed to is not offered any more."""


class TooLate(ConsentRefused):
    """The upgrade that the consent allowed is being made."""


class CardNeeded(ConsentRefused):
    """There is no card on file to pay the upgrade with."""


class FallbackImpossible(ConsentRefused):
    """A plan without a price per call cannot rate calls."""


@dataclass(frozen=True, slots=True)
class ConsentOffer:
    """What the customer agrees to, in words and figures. `needs_card`: one must be left at Stripe first."""

    to_version: PlanVersion
    fee_minor: int
    currency: str
    bridge_calls: int
    text: str
    needs_card: bool


def offer(*, account: Account, now: datetime) -> ConsentOffer | None:
    """The automatic upgrade that this account may agree to; None without a dearer plan for everybody. Raises StripeError."""
    del now  # the offer is of the versions that are sold at the moment
    to_version = _next_version(account)
    if to_version is None:
        return None
    terms = accounts.pricing_terms(to_version, account.currency)
    is_rated = accounts.is_rated(account.plan_version)
    bridge_calls = 0 if is_rated else account.plan_version.included or 0
    return ConsentOffer(
        to_version=to_version, fee_minor=terms.fee_minor, currency=account.currency, bridge_calls=bridge_calls,
        text=_text(account, to_version, terms, bridge_calls), needs_card=_needs_card(account),
    )  # fmt: skip


def _next_version(account: Account) -> PlanVersion | None:
    """The newest public version of the next plan for sale, if its fee is higher and Stripe knows it."""
    present = account.plan_version
    if present.included is None or account.next_version_id is not None or account.cancels_at is not None:
        return None
    is_free = account.state == PaymentState.NONE and not account.subscription_id
    if account.state != PaymentState.ACTIVE and not (is_free and not accounts.is_rated(present)):
        return None
    candidates = PlanVersion.objects.filter(
        plan__rank__gt=present.plan.rank, plan__is_custom=False, tenant=None, stripe_prices__isnull=False
    ).select_related("plan")
    version = candidates.order_by("plan__rank", "-number").first()
    if version is None or not accounts.is_sold_in(version, account.currency):
        return None
    fee_minor, wanted = (accounts.pricing_terms(of, account.currency).fee_minor for of in (present, version))
    has_more = version.included is None or version.included > present.included
    return version if wanted > fee_minor and has_more else None


def _needs_card(account: Account) -> bool:
    """A subscription is paid by a card that is known; without one Stripe is asked."""
    return not account.subscription_id and not checkout.has_card(account=account)


def _text(account: Account, version: PlanVersion, terms: pricing.Terms, bridge_calls: int) -> str:
    present, to = account.plan_version, version.plan.name
    fee, minutes = money(terms.fee_minor, terms.currency), settings.BILLING["UPGRADE_UNDO_MINUTES"]
    included = "unlimited" if version.included is None else f"{version.included:,}"
    first = f"When the {present.included:,} calls that {present.plan.name} includes are used up, you move to {to} by itself."
    if accounts.is_rated(present):
        meanwhile = (
            f"First each call beyond them is served and counted at the price of {present.plan.name}. As soon as these calls "
            f"would cost as much as the difference to {to} for the rest of the period, the move is announced. You then pay "
            "that difference instead of these calls, so moving is never dearer than staying."
        )
    else:
        meanwhile = (
            f"Then the move is announced. Meanwhile up to {bridge_calls:,} further calls are served; they are free if the "
            "move fails."
        )
    price = (
        f"{to} costs {fee} for a period and includes {included} calls. You stay on it in the periods that follow, and can "
        "change back at the end of any period."
    )
    way_out = (
        f"You get a mail and {minutes} minutes to undo it. If you undo it, or the payment is refused, this consent ends and "
        "what you chose for further calls holds."
    )
    return f"{first}\n{meanwhile}\n{price}\n{way_out}"


def give(*, account: Account, offered: ConsentOffer, fallback: Policy, actor: str, now: datetime) -> Consent:
    """The consent is on file and calls beyond the included ones are served. One that is on file already is returned.

    Raises NothingToAgreeTo, OfferIsStale, CardNeeded, FallbackImpossible and StripeError.
    """
    present = offer(account=account, now=now)
    if present is None:
        raise NothingToAgreeTo("There is no next plan that your account could move to by itself.")
    if (present.to_version, present.fee_minor, present.currency) != (
        offered.to_version, offered.fee_minor, offered.currency
    ):  # fmt: skip
        raise OfferIsStale("The offer has changed since it was shown. Look at it again, then agree.")
    if present.needs_card:
        raise CardNeeded("Leave a card first: the upgrade is paid with it.")
    if fallback == Policy.RATE and not accounts.is_rated(account.plan_version):
        raise FallbackImpossible(accounts.HAS_NO_PRICE)
    if fallback not in {Policy.BLOCK, Policy.RATE}:
        raise FallbackImpossible("Calls are either refused or priced one by one.")
    with transaction.atomic():
        account = accounts.locked(account.pk)
        known = Consent.objects.filter(account=account, ended_at=None).first()
        if known is not None and known.from_version_id == account.plan_version_id:
            return known
        if known is not None:
            _close(known, Consent.End.OVERTAKEN, now)
        consent = Consent.objects.create(
            account=account, from_version=account.plan_version, to_version=present.to_version, currency=present.currency,
            fee_minor=present.fee_minor, bridge_calls=present.bridge_calls, fallback=fallback, text=present.text, given_by=actor,
            given_at=now,
        )  # fmt: skip
        audit.record(
            tenant=account.tenant, actor=actor, action="consent.given", subject=str(consent.to_version),
            fee_minor=consent.fee_minor, currency=consent.currency, fallback=fallback,
        )  # fmt: skip
        accounts.push(account=account, now=now)
    return consent


def withdraw(*, account: Account, actor: str, now: datetime) -> bool:
    """No upgrade happens by itself any more, an announced one neither; calls beyond are treated as the customer chose.

    False: there was no consent. Raises TooLate once the upgrade is being made.
    """
    with transaction.atomic():
        account = accounts.locked(account.pk)
        consent = Consent.objects.filter(account=account, ended_at=None).first()
        if consent is None:
            return False
        opened = PlanChange.objects.filter(consent=consent, state__in=PlanChange.OPEN_STATES)
        undone = opened.filter(state=PlanChange.State.ANNOUNCED).update(state=PlanChange.State.UNDONE, ended_at=now)
        if not undone and opened.exists():
            raise TooLate("The upgrade is being made at this moment.")
        end(consent=consent, how=Consent.End.WITHDRAWN, actor=actor, now=now)
    return True


def end(*, consent: Consent, how: Consent.End, actor: str, now: datetime) -> None:
    """The consent has ended; unless it was used, the customer's fallback holds. Part of the caller's transaction."""
    if not _close(consent, how, now):
        return
    account = Account.objects.select_related("tenant", "plan_version__plan").get(pk=consent.account_id)
    audit.record(
        tenant=account.tenant,
        actor=actor,
        action=f"consent.{how}",
        subject=str(consent.to_version),
        fallback=consent.fallback,
    )
    if how in {Consent.End.USED, Consent.End.OVERTAKEN}:
        accounts.push(account=account, now=now)
    else:
        accounts.set_policy(account=account, policy=Policy(consent.fallback), actor=actor, now=now)


def _close(consent: Consent, how: Consent.End, now: datetime) -> bool:
    return bool(Consent.objects.filter(pk=consent.pk, ended_at=None).update(ended_at=now, end=how))


def end_of_account(*, account: Account, how: Consent.End, actor: str, now: datetime) -> None:
    """The account's consent, if there is one, has ended. Part of the caller's transaction."""
    consent = Consent.objects.filter(account=account, ended_at=None).first()
    if consent is not None:
        end(consent=consent, how=how, actor=actor, now=now)
