"""Automatic upgrades: when one is announced, and what it may cost. Never without consent on file, never dearer than staying."""

import logging
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import Exists, F, OuterRef

from metering import invariants, periods, usage
from metering.models import Quota
from metering.periods import Period
from tenants import audit, notices

from . import accounts, pricing, stripe_api
from .errors import StripeError, StripeUnavailable
from .letters import money
from .models import Account, Consent, PaymentState, PlanChange, PlanVersion, StripePrices

logger = logging.getLogger(__name__)
ACTOR = "automatic upgrade"


def extra_minor(*, account: Account, version: PlanVersion, at: datetime) -> int:
    """What the version costs more than the present one for the rest of the period, as Stripe prorates it."""
    period = periods.containing(account.anchor, at)
    wanted, present = (
        pricing.prorated(
            fee_minor=accounts.pricing_terms(of, account.currency).fee_minor, period=period, at=at
        )
        for of in (version, account.plan_version)
    )  # fmt: skip
    return wanted - present


def overage_minor(*, account: Account, used: int) -> int:
    """What the period's calls beyond the included ones cost so far."""
    terms = accounts.pricing_terms(account.plan_version, account.currency)
    return pricing.invoice(terms=terms, quantity=used, cap_minor=account.hard_limit_minor).usage_minor


def used_in(account: Account, period: Period) -> int:
    """Units of the period: what the throttle enforces."""
    row = Quota.objects.filter(tenant_id=account.tenant_id, period_start=period.start).values_list("used", flat=True)
    return row.first() or 0


# The first hour by whose end more is used than is included, and what was used before it.
HOUR = """
WITH hours AS (
    SELECT hour, sum(units) AS units, sum(sum(units)) OVER (ORDER BY hour) AS until FROM metering_usage_hour
    WHERE tenant_id = %(tenant)s AND period_start = %(period)s GROUP BY hour
)
SELECT hour, until - units FROM hours WHERE until > %(included)s ORDER BY hour LIMIT 1
"""
CALL = """
SELECT occurred_at FROM (
    SELECT occurred_at, sum(units) OVER (ORDER BY occurred_at) AS until FROM (
        SELECT occurred_at, units FROM metering_call
        WHERE tenant_id = %(tenant)s AND occurred_at >= %(start)s AND occurred_at < %(end)s
        UNION ALL
        SELECT occurred_at, units FROM metering_adjustment
        WHERE tenant_id = %(tenant)s AND occurred_at >= %(start)s AND occurred_at < %(end)s
    ) AS ledger
) AS summed WHERE %(before)s + until > %(included)s ORDER BY occurred_at LIMIT 1
"""


def ran_out_at(*, account: Account, period: Period) -> datetime | None:
    """When the first call beyond the included ones was made, corrections counted in; None while there is none.

    Of an hour that the call log no longer keeps it is the beginning.
    """
    included = account.plan_version.included
    if included is None:
        return None
    about: dict[str, Any] = {"tenant": account.tenant_id, "period": period.start, "included": included}
    with connection.cursor() as cursor:
        cursor.execute(HOUR, about)
        row: Any = cursor.fetchone()
        if row is None:
            return None
        hour: datetime = row[0]
        kept = invariants.kept_since()
        if kept is None or hour < kept:
            return max(hour, period.start)
        start, end = max(hour, period.start), min(hour + timedelta(hours=1), period.end)
        cursor.execute(CALL, {**about, "start": start, "end": end, "before": row[1]})
        found: Any = cursor.fetchone()
    instant: datetime = found[0] if found else max(hour, period.start)
    return instant


def announce_due(*, now: datetime) -> int:
    """Every customer whose consent has its condition met is told of the upgrade and when it happens; how many were."""
    announced = 0
    for consent in _candidates(now):
        try:
            announced += _announce(consent, now)
        except StripeUnavailable as error:
            logger.warning("Automatic upgrades wait for Stripe: %s", error)
            break
        except StripeError as error:
            logger.error("Automatic upgrade of tenant %s: %s", consent.account_id, error)
    return announced


def _candidates(now: datetime) -> list[Consent]:
    """Consents of accounts that have used more than what is included: one statement, however many there are."""
    beyond = Quota.objects.filter(
        tenant_id=OuterRef("account_id"), period_start__lte=now, period_end__gt=now,
        used__gt=OuterRef("from_version__included"),
    )  # fmt: skip
    found = Consent.objects.filter(
        Exists(beyond), ended_at=None, change=None, from_version=F("account__plan_version"),
        account__next_version=None, account__cancels_at=None,
        account__state__in=(PaymentState.NONE, PaymentState.ACTIVE),
    )  # fmt: skip
    related = ("account__tenant__allowance", "account__plan_version__plan", "to_version__plan", "from_version__plan")
    return list(found.select_related(*related).order_by("given_at"))


def _announce(consent: Consent, now: datetime) -> bool:
    """Whether the upgrade was announced. Stripe is asked outside of a transaction, and only when ours says yes."""
    account = consent.account
    period = usage.current_period(allowance=account.tenant.allowance, now=now)
    due_at = now + timedelta(minutes=settings.BILLING["UPGRADE_UNDO_MINUTES"])
    cut_at = ran_out_at(account=account, period=period)
    if cut_at is None or due_at >= period.end:
        return False
    used = used_in(account, period)
    if accounts.is_rated(consent.from_version) and not _pays_off(account, consent.to_version, used, now):
        return False
    price = priced(consent=consent, used=used, at=now)
    if price is None:
        return False
    with transaction.atomic():
        Account.objects.select_for_update().get(pk=account.pk)
        if not Consent.objects.filter(pk=consent.pk, ended_at=None, change=None).exists():
            return False
        try:
            with transaction.atomic():
                change = PlanChange.objects.create(
                    account=account, kind=PlanChange.Kind.AUTOMATIC, state=PlanChange.State.ANNOUNCED,
                    from_version=consent.from_version, to_version=consent.to_version, consent=consent,
                    requested_by=ACTOR, requested_at=now, due_at=due_at, cut_at=cut_at, previewed_minor=price,
                )  # fmt: skip
        except IntegrityError:  # another change is open
            return False
        _tell(change, price)
    return True


def _pays_off(account: Account, version: PlanVersion, used: int, now: datetime) -> bool:
    """Whether the overage has come to what the version costs more for the rest of the period."""
    extra = extra_minor(account=account, version=version, at=now)
    return bool(account.subscription_id) and extra <= overage_minor(account=account, used=used)


def priced(*, consent: Consent, used: int, at: datetime) -> int | None:
    """What the upgrade costs at once, by Stripe's preview; None when that is more than what it may cost.

    From a plan with a rate it may cost what the overage has come to, from others the fee that was consented to. Raises
    StripeError.
    """
    account, version = consent.account, consent.to_version
    fee_minor = accounts.pricing_terms(version, account.currency).fee_minor
    if account.currency != consent.currency or fee_minor > consent.fee_minor:
        return None
    if not account.subscription_id:
        return fee_minor
    preview = stripe_api.preview_replacement(
        subscription=stripe_api.subscription(account.subscription_id),
        prices=StripePrices.objects.get(version=version), currency=account.currency, at=at,
    )  # fmt: skip
    price = sum(line.amount_minor for line in preview.lines if line.is_proration)
    is_rated = accounts.is_rated(consent.from_version)
    most = overage_minor(account=account, used=used) if is_rated else consent.fee_minor
    return price if price <= most else None


def _tell(change: PlanChange, price_minor: int) -> None:
    account, to = change.account, change.to_version.plan.name
    price, when = money(price_minor, account.currency), f"{change.due_at:%d %B %Y, %H:%M} (UTC)"
    audit.record(
        tenant=account.tenant, actor=ACTOR, action="upgrade.announced", subject=str(change.to_version),
        due_at=change.due_at.isoformat(), price_minor=price_minor,
    )  # fmt: skip
    text = (
        f"The calls that {change.from_version.plan.name} includes are used up, and you agreed to move to {to} then.\n\n"
        f"This happens at {when} and costs {price} at once, for the rest of the period. The calls beyond the included ones are "
        f"then part of {to} and not charged one by one.\n\nYour calls are served all the time. Until {when} you can undo it on "
        "the plan page; then your plan stays as it is."
    )
    notices.tell(
        tenant=account.tenant, kind="upgrade.announced", key=str(change.pk), text=text, title=f"You move to {to} at {when}",
    )  # fmt: skip
