"""Alerts in money: what an amount is in calls, when a projection reaches one, and the mails about all of them.

An amount is what the period's usage costs: the calls beyond the included ones, before tax, as the hard limit in money counts it.
The plan's fee is no part of it. Its calls are the exact inverse of the price (`pricing.fewest_calls`), so the call that makes the
usage cost the amount is the one that fires the alert.
"""

import logging
from datetime import datetime
from uuid import UUID

from django.db import transaction

from metering import alerts
from metering.models import Alert, AlertKind, Crossing, CrossingKind
from tenants import notices
from tenants.models import Tenant

from . import accounts, estimates, turns
from .errors import BillingError
from .letters import money
from .models import Account

logger = logging.getLogger(__name__)
TOLD_AT_A_TIME = 200


class UnusableAmount(BillingError):
    """The plan has no price that could reach an amount."""


def put(*, account: Account, alert: Alert, actor: str, now: datetime) -> bool:
    """The account's tenant has this alert, amounts in calls as priced now; False when it had it. Raises UnusableAmount,
    UnusableAlert.
    """
    if alert.kind != AlertKind.SHARE:
        if not accounts.pricing_terms(account.plan_version, account.currency).has_rate:
            raise UnusableAmount(accounts.HAS_NO_PRICE)
        alert.currency = account.currency
    with transaction.atomic():
        is_new = alerts.put(tenant=account.tenant, alert=alert, actor=actor, now=now)
        alerts.price(tenant_id=account.tenant_id, calls_for=accounts.calls_for(account), now=now)
    return is_new


# -- Projections: from a task --------------------------------------------------------------------------------------------------
def watch_projections(*, now: datetime) -> int:
    """Every alert on a projection that is reached has fired; how many accounts were looked at."""
    ids = Alert.objects.filter(kind=AlertKind.PROJECTED, tenant__account__isnull=False).values_list(
        "tenant_id", flat=True
    )
    return turns.each(ids.distinct(), lambda one: fire_projected(account_id=one, now=now), what="Projected alerts")


def fire_projected(*, account_id: UUID, now: datetime) -> int:
    """Alerts on the likely cost of the running period's usage; how many fired now."""
    account = Account.objects.select_related("tenant__allowance", "plan_version__plan").get(pk=account_id)
    statement = estimates.statement(account=account, now=now)
    if statement.projected is None:
        return 0
    _, likely, _ = statement.projected
    reached = Alert.objects.filter(
        tenant_id=account_id, kind=AlertKind.PROJECTED, currency=account.currency, amount_minor__lte=likely.usage_minor
    )
    return sum(alerts.fire_projected(alert=alert, period_start=statement.period.start) for alert in reached)


# -- The mails -------------------------------------------------------------------------------------------------------------------
def tell(*, now: datetime) -> int:
    """Everything that fired has its mail, once; how many were written."""
    with transaction.atomic():
        found = list(alerts.untold(limit=TOLD_AT_A_TIME))
        tenants = Tenant.objects.in_bulk({crossing.tenant_id for crossing in found})
        for crossing in found:
            tenant = tenants.get(crossing.tenant_id)
            if tenant is not None:
                _tell(tenant, crossing)
        Crossing.objects.filter(pk__in=[crossing.pk for crossing in found]).update(told_at=now)
    return len(found)


def _tell(tenant: Tenant, crossing: Crossing) -> None:
    is_limit = crossing.kind == CrossingKind.LIMIT
    title = _title(crossing)
    period = f"{crossing.period_start:%d %B %Y, %H:%M} to {crossing.period_end:%d %B %Y, %H:%M} (UTC)"
    lines = [
        f"{title}.",
        f"Counted at {crossing.crossed_at:%d %B %Y, %H:%M:%S} (UTC): {_counted(crossing)}. The period is {period}.",
        "Calls beyond it are refused with 429 until the period ends, and never billed."
        if is_limit
        else "This is an alert: it tells, and stops nothing. It is told once in a period.",
        "Alerts, limits and who gets these mails are set on the page Alerts and limits.",
    ]
    kind = "limit.reached" if is_limit else "alert.fired"
    notices.tell(tenant=tenant, kind=kind, key=str(crossing.pk), title=title, text="\n\n".join(lines))


def _title(crossing: Crossing) -> str:
    if crossing.kind == CrossingKind.LIMIT:
        return f"The limit of {crossing.units:,} calls is reached"
    if crossing.kind == CrossingKind.SHARE:
        return f"{crossing.percent} % of the included calls are used"
    amount = money(crossing.amount_minor or 0, crossing.currency)
    if crossing.kind == CrossingKind.PROJECTED:
        return f"This period's usage is heading for {amount}"
    return f"This period's usage has reached {amount}"


def _counted(crossing: Crossing) -> str:
    if crossing.included is None:
        return f"{crossing.used:,} calls"
    return f"{crossing.used:,} calls, {crossing.included:,} are included"
