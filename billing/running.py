"""The running period as it is billed: by which terms, and up to when Stripe has what was counted."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Min, OuterRef, Subquery

from metering.periods import Period

from . import accounts, billed_periods, pricing
from .models import Account, BilledPeriod, UsageReport
from .windows import cell_of

STILL_ON_ITS_WAY = [
    state for state in UsageReport.State.values
    if state not in {UsageReport.State.CONFIRMED, UsageReport.State.TOO_LATE}
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Running:
    """`sent_to` is the end of the last hour up to which Stripe has confirmed every call; None where nothing is sent to a meter."""

    terms: pricing.Terms
    sent_to: datetime | None


def running(*, account: Account, period: Period) -> Running:
    """How the account's running period is billed: as it was written down, else under the present terms."""
    present = Running(accounts.pricing_terms(account.plan_version, account.currency), None)
    if account.subscription_id is None:
        return present
    unsent = UsageReport.objects.filter(period=OuterRef("pk"), mended_at=None, state__in=STILL_ON_ITS_WAY)
    oldest = unsent.order_by().values("period").annotate(oldest=Min("window_start")).values("oldest")
    found = BilledPeriod.objects.filter(
        account=account.pk, start=period.start, subscription_id=account.subscription_id, version=account.plan_version_id
    )
    billed = found.annotate(missing_from=Subquery(oldest)).select_related("version__plan").first()
    if billed is None:
        return present
    return Running(billed_periods.terms_of(billed), _sent_to(billed, billed.missing_from))


def _sent_to(billed: BilledPeriod, missing_from: datetime | None) -> datetime | None:
    """Every hour before the last scan's has its report; the oldest that is not confirmed is where it ends."""
    if not billed.meter_id:
        return None
    if billed.scanned_to is None:
        return billed.start
    ends = [cell_of(billed.scanned_to), *([missing_from] if missing_from else [])]
    return max(billed.start, min(ends))
