"""Where a tenant stands with its limit at this moment: what operators ask when a call was refused."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from .models import Allowance, Call, Outcome, Quota, UsageHour


@dataclass(frozen=True, slots=True)
class Standing:
    """A tenant's allowance and running period, from the rows that the engine itself reads."""

    allowance: Allowance | None
    quota: Quota | None

    @property
    def next_call(self) -> str:
        """Whether the next call is refused, and why."""
        if self.allowance is None:
            return "Refused (403, no-plan): billing has pushed no allowance."
        if self.allowance.restriction:
            return f"Refused (402, payment-required): restricted for {self.allowance.get_restriction_display()}."
        if self.quota is None:
            return "Decided by the first call, which opens the period."
        admits, quota = self.quota.admits, self.quota
        if admits is None or quota.used + quota.reserved < admits:
            return f"Admitted, up to {self.allowance.burst_per_second:,} calls a second; more are refused (429, rate-limited)."
        if quota.used < admits:
            return (
                f"The last {admits - quota.used:,} calls are on lease: the processes that hold them admit, "
                "others refuse (429, quota-exceeded, Retry-After: 1)."
            )
        return f"Refused (429, quota-exceeded): all {admits:,} calls are used until {quota.period_end:%d %B %Y %H:%M} (UTC)."


def standing(*, tenant_id: UUID, now: datetime) -> Standing:
    """The tenant's standing at this instant."""
    running = Quota.objects.filter(tenant_id=tenant_id, period_start__lte=now, period_end__gt=now)
    return Standing(Allowance.objects.filter(tenant_id=tenant_id).first(), running.first())


def last_refused(*, tenant_id: UUID, count: int) -> list[Call]:
    """The newest refused calls, of the last day that had any. The rollup says which: the log is not searched for it."""
    hours = UsageHour.objects.filter(tenant_id=tenant_id, refused__gt=0)
    newest = hours.order_by("-hour").values_list("hour", flat=True).first()
    if newest is None:
        return []
    refused = Call.objects.filter(tenant_id=tenant_id, outcome=Outcome.REFUSED)
    of_day = refused.filter(occurred_at__gte=newest - timedelta(days=1), occurred_at__lt=newest + timedelta(hours=1))
    return list(of_day.order_by("-occurred_at")[:count])
