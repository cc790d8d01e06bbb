"""Accounts: which terms a tenant is on, and what follows from them for metering and tenants."""

from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Max

from metering import alerts, allowances
from metering.models import MAX_CALLS, Policy, Restriction
from metering.periods import Period
from tenants import audit, events
from tenants.models import EventType, Tenant

from . import pricing
from .errors import BillingError
from .models import Account, Consent, PaymentState, Plan, PlanVersion

HAS_NO_PRICE = "This plan has no price for calls beyond the included ones."


class NotOffered(BillingError):
    """The version is not for this tenant, or not for sale."""


class PaysByStripe(BillingError):
    """The plan follows the subscription at Stripe, and is changed there."""


class NotRated(BillingError):
    """The plan has no price per call, so nothing can be rated or limited in money."""


class UnknownPlan(BillingError):
    """No plan has this code."""


@dataclass(frozen=True, slots=True)
class Agreed:
    """Terms that differ from the plan's public version. UNCHANGED keeps the public value; None means unlimited."""

    class _Unchanged:
        def __repr__(self) -> str:
            return "UNCHANGED"

    UNCHANGED = _Unchanged()
    included: int | _Unchanged | None = UNCHANGED
    policy: Policy | _Unchanged = UNCHANGED
    burst_per_second: int | _Unchanged = UNCHANGED
    fee_minor: int | _Unchanged = UNCHANGED
    unit_price_minor: Decimal | _Unchanged = UNCHANGED
    sla: str | _Unchanged = UNCHANGED
    support: str | _Unchanged = UNCHANGED
    hard_limit: int | _Unchanged | None = UNCHANGED
    steps: list[dict[str, Any]] | _Unchanged = UNCHANGED
    minimum_minor: int | _Unchanged = UNCHANGED
    max_projects: int | _Unchanged | None = UNCHANGED
    currency: str | _Unchanged = UNCHANGED

    def changes(self, version: PlanVersion) -> dict[str, object]:
        wanted = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value
            for name, value in wanted.items()
            if value is not Agreed.UNCHANGED and value != getattr(version, name)
        }


def public_version(*, plan_code: str) -> PlanVersion:
    """The newest public version of the plan; raises UnknownPlan, naming the plans there are."""
    version = (
        PlanVersion.objects.filter(plan__code=plan_code, tenant=None).select_related("plan").order_by("-number").first()
    )
    if version is None:
        codes = ", ".join(Plan.objects.values_list("code", flat=True))
        raise UnknownPlan(f"There is no plan '{plan_code}'. Plans: {codes}.")
    return version


def agreed_version(*, tenant: Tenant, version: PlanVersion, agreed: Agreed) -> PlanVersion:
    """The public version itself, or, where something else was agreed, a new version for this tenant alone."""
    changes = agreed.changes(version)
    if not changes:
        return version
    newest = PlanVersion.objects.filter(plan=version.plan, tenant=tenant).aggregate(newest=Max("number"))["newest"] or 0
    own = PlanVersion(
        plan=version.plan,
        tenant=tenant,
        number=newest + 1,
        currency=version.currency,
        fee_minor=version.fee_minor,
        included=version.included,
        hard_limit=version.hard_limit,
        policy=version.policy,
        unit_price_minor=version.unit_price_minor,
        steps=version.steps,
        minimum_minor=version.minimum_minor,
        burst_per_second=version.burst_per_second,
        max_projects=version.max_projects,
        support=version.support,
        sla=version.sla,
    )
    for name, value in changes.items():
        setattr(own, name, value)
    own.full_clean()
    own.save()
    return own


def open_account(
    *,
    tenant: Tenant,
    plan_code: str,
    actor: str,
    now: datetime,
    anchor: datetime | None = None,
    agreed: Agreed = Agreed(),
    hard_limit: int | None = None,
) -> Account:
    """The tenant is on the plan and metering enforces it. Periods count from `anchor`, by default the day's start (UTC)."""
    with transaction.atomic():
        version = agreed_version(tenant=tenant, version=public_version(plan_code=plan_code), agreed=agreed)
        account = Account(
            tenant=tenant,
            plan_version=version,
            currency=version.currency,
            hard_limit=hard_limit,
            anchor=(anchor or now.replace(hour=0, minute=0, second=0)).replace(microsecond=0),
        )
        account.full_clean()
        account.save(force_insert=True)
        audit.record(tenant=tenant, actor=actor, action="account.opened", subject=str(version), hard_limit=hard_limit)
        push(account=account, now=now)
    return account


def change_plan(*, account: Account, version: PlanVersion, actor: str, now: datetime, reason: str = "") -> None:
    """The tenant is on this version; what it used in the running period stays used. An operator says the reason.

    Raises NotOffered for a version that was agreed with another tenant, PaysByStripe for an account with a subscription.
    """
    if version.tenant_id not in {None, account.tenant_id}:
        raise NotOffered(f"{version} was agreed with another tenant.")
    with transaction.atomic():
        account = _locked(account)
        if account.state != PaymentState.NONE:
            raise PaysByStripe(
                f"{account.tenant} pays by subscription {account.subscription_id}: change the plan on its plan page, "
                "or cancel the subscription first."
            )
        before = str(account.plan_version)
        account.plan_version = version
        if not is_sold_in(version, account.currency):
            account.currency = version.currency
        account.save(update_fields=["plan_version", "currency"])
        audit.record(
            tenant=account.tenant,
            actor=actor,
            action="plan.changed",
            subject=str(version),
            before=before,
            **_reason(reason),
        )
        push(account=account, now=now)
        tell_changed(account=account, key=f"{version.pk}:{now.isoformat()}")


def tell_changed(*, account: Account, key: str) -> None:
    """That the plan is another one is on record for webhooks, once for each key."""
    version = account.plan_version
    data = {"plan": version.plan.code, "name": version.plan.name, "included_calls": version.included}
    events.emit(tenant=account.tenant, event=EventType.PLAN_CHANGED, key=key, data=data)


def set_policy(*, account: Account, policy: Policy | None, actor: str, now: datetime) -> None:
    """Calls beyond the included ones are treated so (None: as the plan says), and it is enforced within a second.

    Raises NotRated for `rate` on a plan without a price per call.
    """
    if policy == Policy.RATE and not is_rated(account.plan_version):
        raise NotRated(HAS_NO_PRICE)
    with transaction.atomic():
        account = _locked(account)
        before, account.policy = account.policy, policy or ""
        account.full_clean()
        account.save(update_fields=["policy"])
        audit.record(tenant=account.tenant, actor=actor, action="policy.set", subject=str(policy or ""), before=before)
        push(account=account, now=now)


def set_hard_limit(
    *,
    account: Account,
    hard_limit: int | None,
    actor: str,
    now: datetime,
    hard_limit_minor: int | Agreed._Unchanged | None = Agreed.UNCHANGED,
    reason: str = "",
) -> None:
    """The customer's own hard limits per period are these calls and this money (None: none), enforced within a second.

    Raises NotRated for money on a plan without a price per call.
    """
    with transaction.atomic():
        account = _locked(account)
        if isinstance(hard_limit_minor, Agreed._Unchanged):
            hard_limit_minor = account.hard_limit_minor
        elif hard_limit_minor is not None and not is_rated(account.plan_version):
            raise NotRated(HAS_NO_PRICE)
        before = {"before": account.hard_limit, "before_minor": account.hard_limit_minor}
        account.hard_limit, account.hard_limit_minor = hard_limit, hard_limit_minor
        account.full_clean()
        account.save(update_fields=["hard_limit", "hard_limit_minor"])
        audit.record(
            tenant=account.tenant,
            actor=actor,
            action="hard_limit.set",
            subject=str(hard_limit),
            minor=hard_limit_minor,
            **before,
            **_reason(reason),
        )
        push(account=account, now=now)


def _reason(reason: str) -> dict[str, str]:
    return {"reason": reason} if reason else {}


def locked(account_id: UUID) -> Account:
    """The account as it is now, with tenant, version and plan; its row is held until the transaction ends.

    In two steps: of a join, PostgreSQL would drop the row when the one waited for has changed its plan.
    """
    Account.objects.select_for_update().get(pk=account_id)
    return Account.objects.select_related("tenant", "plan_version__plan").get(pk=account_id)


def _locked(account: Account) -> Account:
    """As `locked`; the given object shows the same."""
    Account.objects.select_for_update().get(pk=account.pk)
    account.refresh_from_db()
    return account


def is_rated(version: PlanVersion) -> bool:
    """Whether calls beyond the included ones have a price."""
    if version.included is None or version.policy == Policy.BLOCK:
        return False
    return version.policy == Policy.RATE or bool(version.unit_price_minor or version.steps)


def is_sold(version: PlanVersion) -> bool:
    """Whether the version is bought through Stripe: it costs something, and its terms are those of one tenant or of all."""
    if version.plan.is_custom and version.tenant_id is None:
        return False
    return bool(version.fee_minor) or is_rated(version)


def active_consent(account: Account) -> Consent | None:
    """The customer's consent to move on from the version that the account is on."""
    found = Consent.objects.filter(account_id=account.pk, ended_at=None, from_version=account.plan_version_id)
    return found.select_related("to_version__plan").first()


def effective_policy(account: Account) -> Policy:
    """What happens to calls beyond the included ones. With consent to an automatic upgrade they are served."""
    if active_consent(account) is not None:
        return Policy.RATE
    chosen = Policy(account.policy or account.plan_version.policy)
    if chosen == Policy.RATE and not is_rated(account.plan_version) and account.plan_version.policy != Policy.RATE:
        return Policy(account.plan_version.policy)
    return chosen


def hard_limit_of(account: Account) -> int | None:
    """The most calls of a period: agreed, the customer's own in calls or money, or the bridge of a consent."""
    version = account.plan_version
    limits = [account.hard_limit, version.hard_limit]
    if account.hard_limit_minor is not None:
        limits.append(pricing.most_calls(pricing_terms(version, account.currency), account.hard_limit_minor))
    consent = active_consent(account)
    if consent is not None and version.included is not None and not is_rated(version):
        limits.append(version.included + consent.bridge_calls)
    return min((min(limit, MAX_CALLS) for limit in limits if limit is not None), default=None)


def push(*, account: Account, now: datetime, period: Period | None = None) -> None:
    """Metering enforces, and tenants allows, exactly what the account's version, policy, limits and payments say.

    `period` is the running one where Stripe has said it; by default the account's, until it is over. It may begin a moment
    from now, by Stripe's clock.
    """
    version = account.plan_version
    if period is None and account.period_start and account.period_end:
        known = Period(account.period_start, account.period_end)
        period = known if now < known.end else None  # one that is over predicts nothing; the anchor does
    with transaction.atomic():
        allowances.push(
            tenant_id=account.tenant_id,
            terms=allowances.Terms(
                label=version.plan.name,
                included=version.included,
                hard_limit=hard_limit_of(account),
                policy=effective_policy(account),
                burst_per_second=version.burst_per_second,
                anchor=account.anchor,
                restriction=Restriction.PAYMENT.value if account.state == PaymentState.RESTRICTED else "",
                period=period,
            ),
            now=now,
        )
        alerts.price(tenant_id=account.tenant_id, calls_for=calls_for(account), now=now)
        Tenant.objects.filter(pk=account.tenant_id).update(max_projects=version.max_projects)


def calls_for(account: Account) -> alerts.CallsFor:
    """What an amount of usage is in calls at the account's prices; None in another currency, and where no calls cost it."""
    terms = pricing_terms(account.plan_version, account.currency)

    def calls(amount_minor: int, currency: str) -> int | None:
        return pricing.fewest_calls(terms, amount_minor) if currency == account.currency else None

    return calls


def is_sold_in(version: PlanVersion, currency: str) -> bool:
    return currency == version.currency or currency in version.currency_options


def pricing_terms(version: PlanVersion, currency: str | None = None) -> pricing.Terms:
    """The priced part of a version, in its own currency or another that it is sold in; raises NotOffered."""
    currency = currency or version.currency
    if not is_sold_in(version, currency):
        raise NotOffered(f"{version} is not sold in {currency.upper()}.")
    own = {
        "fee_minor": version.fee_minor, "unit_price_minor": version.unit_price_minor, "steps": version.steps,
        "minimum_minor": version.minimum_minor,
    }  # fmt: skip
    priced = own if currency == version.currency else {**own, "steps": [], **version.currency_options[currency]}
    return pricing.Terms(
        currency=currency,
        fee_minor=priced["fee_minor"],
        included=version.included,
        unit_price_minor=Decimal(str(priced["unit_price_minor"])),
        prices_overage=is_rated(version),
        steps=pricing.steps_from(priced["steps"] or []),
        minimum_minor=priced["minimum_minor"] or 0,
    )
