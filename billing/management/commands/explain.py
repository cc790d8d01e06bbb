"""`manage.py explain`: why a period of a tenant costs what it costs, from the invoice's lines down to days, keys and calls."""

import argparse
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import explain, explain_text
from billing.invoice_documents import plain
from billing.models import Account
from metering import usage

DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)


class Command(BaseCommand):
    help = (
        "Explain every line of a period's invoice: quantities by day, capability and key, steps, unit prices, rounding."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--tenant", required=True, help="The tenant's address (slug).")
        parser.add_argument(
            "--period", type=_day, metavar="YYYY-MM-DD", help="The period that begins on or holds this day (UTC)."
        )
        parser.add_argument("--day", type=_day, metavar="YYYY-MM-DD", help="List the calls of this day of it, too.")
        parser.add_argument("--limit", type=int, default=50, help="How many calls of the day; default: 50.")
        parser.add_argument("--json", action="store_true", help="One JSON object on one line.")

    def handle(self, **options: Any) -> None:
        account = (
            Account.objects.select_related("tenant__allowance", "plan_version__plan")
            .filter(tenant__slug=options["tenant"])
            .first()
        )
        if account is None:
            raise CommandError(f"There is no tenant '{options['tenant']}' with a plan.")
        now = timezone.now()
        instant = options["period"] + DAY - MICROSECOND if options["period"] else now
        period = usage.current_period(allowance=account.tenant.allowance, now=instant)
        found = explain.explain(account=account, period=period, now=now)
        entries = []
        if options["day"]:
            try:
                entries = explain.calls(
                    tenant_id=account.tenant_id, period=period, day=options["day"], limit=options["limit"]
                )
            except explain.CallsForgotten as error:
                raise CommandError(str(error)) from error
        if options["json"]:
            said = _as_json(account, found) | {"calls": [_entry(entry, found.names) for entry in entries]}
            self.stdout.write(json.dumps(said))
            return
        self.stdout.write(
            "\n".join(
                [*explain_text.text(account, found), *explain_text.entries_text(entries, found.names, options["day"])]
            )
        )


def _day(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)


# -- as JSON -------------------------------------------------------------------------------------------------------------


def _as_json(account: Account, found: explain.PeriodExplained) -> dict[str, Any]:
    """Amounts that are not whole are text: they are exact."""
    explanation = found.explanation
    return {
        "tenant": account.tenant.slug, "plan_version": str(found.version), "because": found.because,
        "period": {"start": found.period.start.isoformat(), "end": found.period.end.isoformat()},
        "is_over": found.is_over, "currency": explanation.currency, "units": explanation.units,
        "not_priced_units": explanation.not_priced, "total_minor": explanation.total_minor,
        "lines": [_line(line, found.names) for line in explanation.lines],
        "corrections": [
            {"id": str(made.id), "kind": made.kind, "occurred_at": made.occurred_at.isoformat(), "units": made.units,
             "actor": made.actor, "reason": made.reason}
            for made in found.corrections
        ],
    }  # fmt: skip


def _line(line: explain.Line, names: explain.Names) -> dict[str, Any]:
    return {
        "kind": line.kind, "quantity": line.quantity, "first": line.first, "last": line.last,
        "unit_price_minor": plain(line.unit_price_minor), "exact_minor": plain(line.exact_minor),
        "rounding_minor": plain(line.rounding_minor), "amount_minor": line.amount_minor,
        "parts": [
            {"day": f"{part.day:%Y-%m-%d}", "capability": part.capability, "project": names.project(part.project_id),
             "key": names.key(part.key_id), "units": part.units, "exact_minor": plain(part.exact_minor)}
            for part in line.parts
        ],
    }  # fmt: skip


def _entry(entry: explain.Entry, names: explain.Names) -> dict[str, Any]:
    return {
        "id": str(entry.id), "at": entry.at.isoformat(), "what": entry.what, "capability": entry.capability,
        "project": names.project(entry.project_id), "key": names.key(entry.key_id), "units": entry.units,
    }  # fmt: skip
