"""Reconciliation, three ways: for each tenant, meter and period the ledger, our usage reports and Stripe say the same number.

Where they do not, each difference has a class and a mend (docs/reconciliation.md). What cannot be explained is an error for the
operators and stops reporting for that tenant. Fails closed for a tenant and open for an outage: while Stripe cannot be read nothing
is judged at all.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from tenants.models import Tenant

from . import drifts, sides, stops
from .drifts import Difference, Sides
from .errors import StripeError, StripeNotConfigured, StripeUnavailable
from .models import Account, BilledPeriod, Drift, UsageReport
from .sides import Place
from .stops import is_stopped, release

__all__ = ["Found", "Result", "is_stopped", "release", "run"]

logger = logging.getLogger(__name__)
Kind = Drift.Kind
YEAR = timedelta(days=400)
RECENT = timedelta(
    days=45
)  # what the daily task reads again: a period, and the days in which its invoice becomes final
MOST_FAILURES = 3  # one after the other: then Stripe is away, and the others are not asked


@dataclass(frozen=True, slots=True)
class Found:
    """A difference and where it is."""

    tenant: Tenant
    place: Place
    sides: Sides
    difference: Difference
    first_seen: datetime | None
    acknowledged_by: str = ""

    def as_json(self) -> dict[str, Any]:
        period = self.place.period
        return {
            "tenant": self.tenant.slug, "meter": self.place.meter_id,
            "period": {"start": period.start.isoformat(), "end": period.end.isoformat()},
            "units": self.difference.units, "side": self.difference.side, "detail": self.difference.detail,
            "mend": self.difference.mend, "ledger": self.sides.ledger.units, "reported": self.sides.carried,
            "written_off": self.sides.written_off, "stripe": self.sides.at_stripe, "invoiced": self.sides.invoiced,
            "first_seen": self.first_seen.isoformat() if self.first_seen else None,
        }  # fmt: skip


@dataclass(slots=True)
class Result:
    """What was read and what was found. `unread`: why nothing can be said of some tenants; that is no difference."""

    checked: int = 0
    found: list[Found] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def of(self, kind: Kind) -> list[Found]:
        """The differences of this class that nobody has accepted."""
        return [one for one in self.found if one.difference.kind == kind and not one.acknowledged_by]

    @property
    def acknowledged(self) -> list[Found]:
        return [one for one in self.found if one.acknowledged_by]

    def as_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {"checked": self.checked}
        for kind in (Kind.IN_FLIGHT, Kind.LATE, Kind.REJECTED, Kind.DUPLICATED, Kind.UNEXPLAINED):
            said[kind.value] = [one.as_json() for one in self.of(kind)]
        if self.acknowledged:
            said["acknowledged"] = [one.as_json() for one in self.acknowledged]
        if self.unread:
            said["unread"] = self.unread
        return said


def settling() -> timedelta:
    return timedelta(minutes=settings.BILLING["SETTLING_MINUTES"])


def run(*, now: datetime, tenant: Tenant | None = None, back: timedelta = YEAR) -> Result:
    """All sides were read for every period that ended within `back`, each has its row, and what is wrong is stopped and logged."""
    result = Result()
    failures = 0
    for account in _accounts(tenant):
        try:
            read = list(sides.read(account=account, now=now, settling=settling(), since=now - back))
        except StripeNotConfigured as error:
            result.unread.append(str(error))
            break
        except StripeUnavailable as error:
            failures += 1
            result.unread.append(f"{account.tenant.slug}: {error}")
            if failures >= MOST_FAILURES:
                break
        except StripeError as error:
            logger.error("Tenant %s cannot be reconciled: %s", account.tenant.slug, error)
            result.unread.append(f"{account.tenant.slug}: {error}")
        else:
            failures = 0
            result.checked += len(read)
            result.found += _written(account, read, now)
    return result


def _accounts(tenant: Tenant | None) -> QuerySet[Account]:
    """Accounts that Stripe bills, or has billed, for calls."""
    about = {"account": OuterRef("pk")}
    is_billed = (
        Q(subscription_id__isnull=False)
        | Exists(BilledPeriod.objects.filter(**about))
        | Exists(UsageReport.objects.filter(**about))
    )
    found = Account.objects.filter(is_billed, customer_id__isnull=False).order_by("created_at", "pk")
    related = found.select_related("tenant__allowance", "plan_version__plan")
    return related.filter(tenant=tenant) if tenant else related


def _written(account: Account, read: Iterable[tuple[Place, Sides]], now: datetime) -> Iterator[Found]:
    """Each reading has its row; what is new and wrong is an error in the log, and nothing more is sent where that may do harm."""
    for place, side in read:
        differences = drifts.compare(side, now=now, settling=settling())
        with transaction.atomic():
            drift = _kept(account, place, side, differences, now)
        for one in differences:
            accepted = drift.acknowledged_by if one.kind in {Kind.UNEXPLAINED, Kind.DUPLICATED} else ""
            yield Found(account.tenant, place, side, one, drift.first_seen, accepted)
            if one.kind in {Kind.UNEXPLAINED, Kind.DUPLICATED} and not accepted:
                _alert(account, place, one, now)


def _kept(account: Account, place: Place, side: Sides, differences: list[Difference], now: datetime) -> Drift:
    """The row of this place says what was read; an acceptance ends with what was accepted."""
    worst = differences[0] if differences else None
    kind = worst.kind if worst else Kind.NONE
    units = worst.units if worst else 0
    where: dict[str, Any] = {"account": account, "meter_id": place.meter_id, "period_start": place.period.start}
    known = Drift.objects.select_for_update().filter(**where).first()
    values: dict[str, Any] = {
        "period_end": place.period.end, "kind": kind, "units": units, "ledger": side.ledger.units,
        "reported": side.carried, "written_off": side.written_off, "stripe": side.at_stripe, "invoiced": side.invoiced,
        "detail": " ".join(one.detail for one in differences), "mend": worst.mend if worst else "",
        "first_seen": now if kind else None, "last_seen": now,
    }  # fmt: skip
    if known is not None and known.kind == kind:
        values["first_seen"] = known.first_seen
    if known is None or (known.kind, known.units) != (kind, units):
        values |= {"acknowledged_by": "", "acknowledged_at": None, "reason": ""}
    drift, _ = Drift.objects.update_or_create(defaults=values, **where)
    return drift


def _alert(account: Account, place: Place, difference: Difference, now: datetime) -> None:
    slug, start = account.tenant.slug, place.period.start
    logger.error(
        "Usage of tenant %s in the period from %s (UTC) does not agree, %s: %s Mend: %s",
        slug, f"{start:%Y-%m-%d %H:%M}", difference.kind.value, difference.detail, difference.mend,
    )  # fmt: skip
    if difference.stops:
        stops.stop(account=account, why=f"Period from {start:%Y-%m-%d %H:%M} (UTC): {difference.detail}", now=now)
