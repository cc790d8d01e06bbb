"""Which periods are billed, under which terms, through which item of which subscription. Learned once from Stripe, then kept."""

import logging
from datetime import datetime

from django.db import connection
from django.db.models import Exists, OuterRef, QuerySet

from metering import usage
from metering.periods import Period

from . import accounts, pricing, stripe_api
from .errors import BillingError
from .models import Account, BilledPeriod, PlanChange, PlanVersion, StripePrices
from .stripe_api import Subscription

logger = logging.getLogger(__name__)
RELATED = ("account__tenant__allowance", "account__plan_version__plan", "version__plan")


class PeriodNotKnown(BillingError):
    """Stripe and the account do not name the same period yet: they will, a moment later."""


def of(*, account: Account, instant: datetime) -> BilledPeriod | None:
    """The billed period that holds the instant; None where no call of it may cost anything.

    Raises PeriodNotKnown and StripeError.
    """
    if not account.subscription_id or not is_priced(account.plan_version, account.currency):
        return None
    period = usage.current_period(allowance=account.tenant.allowance, now=instant)
    known = BilledPeriod.objects.filter(
        account=account, subscription_id=account.subscription_id, start=period.start
    ).first()
    return known or _learned(account, period)


def is_priced(version: PlanVersion, currency: str) -> bool:
    """Whether a period under this version may have a line besides the fee."""
    return accounts.is_rated(version) or bool(accounts.pricing_terms(version, currency).minimum_minor)


def _learned(account: Account, period: Period) -> BilledPeriod | None:
    """The period, written down as Stripe's subscription has it now."""
    if account.period_start != period.start:
        raise PeriodNotKnown(f"The period of tenant {account.pk} from {period.start} is not Stripe's.")
    subscription = stripe_api.subscription(account.subscription_id or "")
    prices = StripePrices.objects.filter(fee_price_id__in=subscription.price_ids).select_related("version").first()
    if prices is None or not _runs(subscription, period):
        raise PeriodNotKnown(f"Subscription {subscription.id} is in another period, or on prices of nobody.")
    items = [one for one in subscription.items if one.price_id == prices.usage_price_id]
    floor = period.start.replace(microsecond=0)
    counts_from = max([floor, *(max(one.created_at, one.period_start) for one in items)])
    made, _ = BilledPeriod.objects.get_or_create(
        account=account, subscription_id=subscription.id, start=period.start,
        defaults={
            "version": prices.version, "currency": subscription.currency, "end": period.end,
            "item_id": items[0].id if items else "", "meter_id": prices.meter_id if items else "",
            "counts_from": counts_from, "is_free": subscription.status == "trialing",
        },
    )  # fmt: skip
    return made


def _runs(subscription: Subscription, period: Period) -> bool:
    """Whether Stripe's items are in this period; a first one may have begun before them (docs/decisions/0007)."""
    return all(item.period_start < period.end and item.period_end > period.start for item in subscription.items)


def unknown() -> QuerySet[Account]:
    """Accounts whose running period at Stripe is priced and not written down yet."""
    versions = PlanVersion.objects.filter(accounts__subscription_id__isnull=False).distinct()
    priced = [one.pk for one in versions.select_related("plan") if _may_be_priced(one)]
    mine = BilledPeriod.objects.filter(
        account=OuterRef("pk"), subscription_id=OuterRef("subscription_id"), start=OuterRef("period_start")
    )
    found = Account.objects.filter(
        ~Exists(mine), subscription_id__isnull=False, period_start__isnull=False, plan_version__in=priced
    )
    return found.select_related("tenant__allowance", "plan_version__plan")


def _may_be_priced(version: PlanVersion) -> bool:
    return any(is_priced(version, currency) for currency in (version.currency, *version.currency_options))


ENDS = """
UPDATE billing_billedperiod AS b SET "end" = q.period_end FROM metering_quota AS q
WHERE q.tenant_id = b.account_id AND q.period_start = b.start AND b.state = 'open' AND b."end" <> q.period_end
"""


def follow_ends() -> None:
    """Each open period ends where the metered one does: a change of plan may have cut it."""
    with connection.cursor() as cursor:
        cursor.execute(ENDS)


def open_periods() -> QuerySet[BilledPeriod]:
    """Periods whose usage still goes to their invoice, and that nobody has stopped."""
    return BilledPeriod.objects.filter(state=BilledPeriod.State.OPEN, stopped_because="").select_related(*RELATED)


def is_cut(period: BilledPeriod) -> bool:
    """Whether a change of plan ended the period: its invoice was made final in that moment."""
    return _cuts(period).filter(cut_at=period.end).exists()


def is_whole(period: BilledPeriod) -> bool:
    """Whether no change of plan cut the period at either end."""
    return not _cuts(period).exists()


def _cuts(period: BilledPeriod) -> QuerySet[PlanChange]:
    return PlanChange.objects.filter(
        account=period.account_id, state=PlanChange.State.APPLIED, cut_at__gte=period.start, cut_at__lte=period.end
    )


def terms_of(period: BilledPeriod) -> pricing.Terms:
    """What a call of the period costs. An agreed minimum is for whole periods; a trial costs nothing."""
    terms = accounts.pricing_terms(period.version, period.currency)
    return pricing.Terms(
        currency=terms.currency, fee_minor=terms.fee_minor, included=terms.included,
        unit_price_minor=terms.unit_price_minor, prices_overage=terms.prices_overage and not period.is_free,
        steps=terms.steps,
        minimum_minor=terms.minimum_minor if terms.minimum_minor and not period.is_free and is_whole(period) else 0,
    )  # fmt: skip


def units(period: BilledPeriod) -> int:
    """Units of the period in the ledger now, corrections among them."""
    return usage.units_between(
        tenant_id=period.account_id, period_start=period.start, start=period.start, end=period.end
    )


def stop(*, period: BilledPeriod, why: str) -> None:
    """Nothing more is sent or charged for the period until a person has looked."""
    BilledPeriod.objects.filter(pk=period.pk, stopped_because="").update(stopped_because=why[:300])
    logger.error("Billing of %s is stopped: %s", period, why)


def resume(*, period: BilledPeriod) -> None:
    """What was stopped goes on."""
    BilledPeriod.objects.filter(pk=period.pk).exclude(stopped_because="").update(
        stopped_because="", scanned_to=None, looked_at=None
    )
