"""Accounts: which terms a tenant is on, and what follows from them for metering and tenants."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db import transaction
from django.db.models import Max

from metering import allowances
from metering.models import Policy
from tenants import audit
from tenants.models import Tenant

from . import pricing
from .models import Account, Plan, PlanVersion


class BillingError(Exception):
    """Base of this app's errors."""


class NotOffered(BillingError):
    """The version was agreed with another tenant."""


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

    def changes(self, version: PlanVersion) -> dict[str, object]:
        names = ("included", "policy", "burst_per_second", "fee_minor", "unit_price_minor", "sla", "support")
        wanted = {name: getattr(self, name) for name in names}
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
            hard_limit=hard_limit,
            anchor=(anchor or now.replace(hour=0, minute=0, second=0)).replace(microsecond=0),
        )
        account.full_clean()
        account.save(force_insert=True)
        audit.record(tenant=tenant, actor=actor, action="account.opened", subject=str(version), hard_limit=hard_limit)
        sync(account=account, now=now)
    return account


def change_plan(*, account: Account, version: PlanVersion, actor: str, now: datetime, reason: str = "") -> None:
    """The tenant is on this version; what it used in the running period stays used. An operator says the reason.

    Raises NotOffered for a version that was agreed with another tenant.
    """
    if version.tenant_id not in {None, account.tenant_id}:
        raise NotOffered(f"{version} was agreed with another tenant.")
    with transaction.atomic():
        before = str(account.plan_version)
        account.plan_version = version
        account.save(update_fields=["plan_version"])
        audit.record(
            tenant=account.tenant,
            actor=actor,
            action="plan.changed",
            subject=str(version),
            before=before,
            **_reason(reason),
        )
        sync(account=account, now=now)


def set_hard_limit(*, account: Account, hard_limit: int | None, actor: str, now: datetime, reason: str = "") -> None:
    """The customer's own hard limit in calls per period is this (None: none) and is enforced within a second."""
    with transaction.atomic():
        before, account.hard_limit = account.hard_limit, hard_limit
        account.full_clean()
        account.save(update_fields=["hard_limit"])
        audit.record(
            tenant=account.tenant,
            actor=actor,
            action="hard_limit.set",
            subject=str(hard_limit),
            before=before,
            **_reason(reason),
        )
        sync(account=account, now=now)


def _reason(reason: str) -> dict[str, str]:
    return {"reason": reason} if reason else {}


def sync(*, account: Account, now: datetime) -> None:
    """Metering enforces, and tenants allows, exactly what the account's version and hard limit say."""
    version = account.plan_version
    limits = [limit for limit in (account.hard_limit, version.hard_limit) if limit is not None]
    with transaction.atomic():
        allowances.push(
            tenant_id=account.tenant_id,
            terms=allowances.Terms(
                label=version.plan.name,
                included=version.included,
                hard_limit=min(limits, default=None),
                policy=Policy(version.policy),
                burst_per_second=version.burst_per_second,
                anchor=account.anchor,
            ),
            now=now,
        )
        Tenant.objects.filter(pk=account.tenant_id).update(max_projects=version.max_projects)


def pricing_terms(version: PlanVersion) -> pricing.Terms:
    """The priced part of a version."""
    return pricing.Terms(
        currency=version.currency,
        fee_minor=version.fee_minor,
        included=version.included,
        unit_price_minor=version.unit_price_minor,
        prices_overage=version.policy == Policy.RATE,
    )
