"""Meter events that Stripe rejected, at once or afterwards: never silent.

A rejected report waits until its cause is mended; then its units are free and a further revision carries them. One that cannot be
mended is set aside: operators and the customer are told, and a person decides (`reopen`).
"""

import logging
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any
from uuid import UUID

from django.db import transaction

from tenants import audit, notices

from . import catalogue, stripe_api, turns
from .models import BilledPeriod, UsageReport

logger = logging.getLogger(__name__)
ERROR_REPORT = "v1.billing.meter.error_report_triggered"
NO_METER = "v1.billing.meter.no_meter_found"
TYPES = (ERROR_REPORT, NO_METER)
# A meter event's identifier, or an idempotency key made of it: the report's id is in both.
REPORT_ID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
REFUSED = "refused"
IN_FUTURE = "timestamp_in_future"
OF_CUSTOMER = ("meter_event_customer_not_found",)
OF_METER = ("archived_meter", "no_meter", "resource_missing")
MENDABLE = (IN_FUTURE, *OF_CUSTOMER, *OF_METER)  # what is wrong with a value or is too old stays so
MENDED_WITHIN = timedelta(hours=24)
MOST_REJECTIONS = 5  # of one window: then it is not what it says
ACTOR = "usage reports"
State = UsageReport.State
FOR_GOOD = (State.CONFIRMED, State.REJECTED, State.SET_ASIDE, State.TOO_LATE)


def record(*, event_id: str) -> None:
    """The reports that Stripe's message names are rejected, each with the reason, and operators are told of all of them."""
    event = stripe_api.thin_event(event_id)
    data = event.body.get("data") or {}
    summary = str(data.get("developer_message_summary") or "no summary")
    total, named = 0, 0
    for code, count, samples in _reasons(data):
        total += count
        named += sum(_reject(report_id, f"{code}: {message}") for report_id, message in samples)
    logger.error(
        "Stripe rejected %s meter event(s) of meter %s (event %s), %s of them known by name: %s",
        total, event.object_id or "unknown", event_id, named, summary,
    )  # fmt: skip


def _reasons(data: Mapping[str, Any]) -> Iterator[tuple[str, int, list[tuple[UUID, str]]]]:
    """Code, how many events, and those that are named, by report id with the message. Stripe names only examples."""
    for kind in (data.get("reason") or {}).get("error_types") or []:
        samples = []
        for sample in kind.get("sample_errors") or []:
            found = REPORT_ID.search(str((sample.get("request") or {}).get("identifier") or ""))
            if found:
                samples.append((UUID(found[0]), str(sample.get("error_message") or "no message")))
        yield str(kind.get("code") or "unknown"), int(kind.get("error_count") or 0), samples


def _reject(report_id: UUID, why: str) -> bool:
    """Whether we know the report. One whose quantity Stripe's summaries have confirmed stays so: it was counted."""
    report = UsageReport.objects.filter(pk=report_id).first()
    if report is not None:
        code, _, message = why.partition(": ")
        reject(report=report, code=code, message=message)
    return report is not None


def reject(*, report: UsageReport, code: str, message: str) -> None:
    """The report does not count at Stripe, and operators know why; `review` says what follows."""
    why = f"{code or REFUSED}: {message}"
    sent = UsageReport.objects.filter(pk=report.pk).exclude(state__in=FOR_GOOD)
    if sent.update(state=State.REJECTED, error=why[:500], mended_at=None):
        logger.error("Usage report %s of tenant %s was rejected by Stripe: %s", report.pk, report.account_id, why)


# -- What follows --------------------------------------------------------------------------------------------------------
class Verdict(Enum):
    """What a rejection leads to at this moment."""

    MENDED = "mended"
    WAITS = "waits"
    HOPELESS = "hopeless"


def review_all(*, now: datetime) -> int:
    """Each period with rejected reports was reviewed; how many were."""
    waiting = BilledPeriod.objects.filter(reports__in=_waiting(), state=BilledPeriod.State.OPEN).distinct()
    found = {period.pk: period for period in waiting}
    return turns.each(found, lambda one: review(period=found[one], now=now), what="Rejected reports of period")


def review(*, period: BilledPeriod, now: datetime) -> None:
    """Rejected reports whose cause is gone are free to be carried anew; hopeless ones are set aside. Raises StripeError."""
    for report in _waiting().filter(period=period).select_related("account__tenant"):
        verdict = _verdict(report, now)
        if verdict is Verdict.MENDED:
            reopen(report=report, now=now)
        elif verdict is Verdict.HOPELESS:
            set_aside(report)


def _waiting() -> Any:
    return UsageReport.objects.filter(state=State.REJECTED, mended_at=None)


def _verdict(report: UsageReport, now: datetime) -> Verdict:
    code = report.error.partition(":")[0]
    if code not in MENDABLE or _rejected_so_far(report) >= MOST_REJECTIONS:
        return Verdict.HOPELESS
    if _is_mended(report, code, now):
        return Verdict.MENDED
    return Verdict.HOPELESS if now - (report.attempted_at or now) > MENDED_WITHIN else Verdict.WAITS


def _is_mended(report: UsageReport, code: str, now: datetime) -> bool:
    if code == IN_FUTURE:
        return report.stamped_at <= now
    if code in OF_CUSTOMER:
        return stripe_api.has_customer(report.account.customer_id or "")
    meter = stripe_api.find_meter(catalogue.event_name())
    return meter is not None and meter.id == report.meter_id


def _rejected_so_far(report: UsageReport) -> int:
    return UsageReport.objects.filter(
        period=report.period_id, window_start=report.window_start, window_end=report.window_end, state=State.REJECTED
    ).count()


def reopen(*, report: UsageReport, now: datetime) -> bool:
    """The units of a rejected report, or of one that was set aside, are carried by a further revision; False if it is neither."""
    rejected = UsageReport.objects.filter(pk=report.pk, state__in=(State.REJECTED, State.SET_ASIDE), mended_at=None)
    if not rejected.update(state=State.REJECTED, mended_at=now):
        return False
    BilledPeriod.objects.filter(reports=report.pk).update(scanned_to=None)
    return True


def set_aside(report: UsageReport) -> None:
    """The report is out of the way and a person decides: in the admin, in the log, and in a mail to the customer."""
    units, hour = f"{report.quantity:,} calls", f"{report.window_start:%d %B %Y, %H:%M} (UTC)"
    with transaction.atomic():
        rejected = UsageReport.objects.filter(pk=report.pk, state=State.REJECTED, mended_at=None)
        if not rejected.update(state=State.SET_ASIDE):
            return
        tenant = report.account.tenant
        audit.record(
            tenant=tenant, actor=ACTOR, action="usage.set_aside", subject=str(report.pk), units=report.quantity,
            why=report.error,
        )  # fmt: skip
        notices.tell(
            tenant=tenant, kind="usage.set_aside", key=str(report.pk), title=f"{units} are not on your invoice yet",
            text=f"{units} from {hour} on could not be handed over for your invoice. We have been told and look into it. "
            "You need do nothing: they are invoiced later with their date, or not at all.",
        )  # fmt: skip
    logger.error(
        "Usage report %s of tenant %s is set aside, %s from %s: %s",
        report.pk,
        report.account_id,
        units,
        hour,
        report.error,
    )
