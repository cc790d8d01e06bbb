"""Meter events that Stripe took and rejected afterwards: never silent. What follows from them is the reports' affair."""

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from . import stripe_api
from .models import UsageReport

logger = logging.getLogger(__name__)
ERROR_REPORT = "v1.billing.meter.error_report_triggered"
NO_METER = "v1.billing.meter.no_meter_found"
TYPES = (ERROR_REPORT, NO_METER)
# A meter event's identifier, or an idempotency key made of it: the report's id is in both.
REPORT_ID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
State = UsageReport.State


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
    sent = UsageReport.objects.filter(pk=report_id).exclude(state__in=(State.CONFIRMED, State.REJECTED))
    if sent.update(state=State.REJECTED, error=why[:500]):
        report = UsageReport.objects.get(pk=report_id)
        logger.error("Usage report %s of tenant %s was rejected by Stripe: %s", report_id, report.account_id, why)
        return True
    return UsageReport.objects.filter(pk=report_id).exists()
