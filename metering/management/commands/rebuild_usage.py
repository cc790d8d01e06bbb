"""`manage.py rebuild_usage`: usage hours compared with the ledger, and written anew with --apply."""

import argparse
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from metering import invariants, periods, rebuild
from tenants.models import Tenant

COUNTS = rebuild.COUNTS


class Command(BaseCommand):
    help = (
        "Compare the usage hours with the call log and the adjustments, for the hours that the call log keeps wholly, and print "
        "each difference. With --apply hours, months and quotas become what the ledger says. Exit code 1: differences remain."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--tenant", help="Only this tenant: its address (slug). Default: all.")
        parser.add_argument(
            "--since", type=datetime.fromisoformat, help="Only hours from this instant on, like 2026-11-01T13 (UTC)."
        )
        parser.add_argument("--apply", action="store_true", help="Write what the ledger says. Default: only print.")
        parser.add_argument("--json", action="store_true", help="One JSON object on one line.")

    def handle(self, **options: Any) -> None:
        tenants = Tenant.objects.order_by("slug")
        if options["tenant"]:
            tenants = tenants.filter(slug=options["tenant"])
            if not tenants:
                raise CommandError(f"There is no tenant '{options['tenant']}'.")
        kept = invariants.kept_since()
        if kept is None:
            raise CommandError("The call log keeps no whole day yet: nothing to compare with.")
        start = max(kept, _whole_hour(options["since"]) if options["since"] else kept)
        end = periods.hour_of(timezone.now()) + timedelta(hours=1)
        rows, totals = [], []
        for tenant in tenants:
            try:
                found = rebuild.rebuild(tenant_id=tenant.id, start=start, end=end, apply=options["apply"])
            except (rebuild.LogTooShort, rebuild.InNoPeriod) as error:
                raise CommandError(f"{tenant.slug} is left as it is: {error}") from error
            rows += [_row(tenant.slug, difference) for difference in found.hours]
            totals += [f"{tenant.slug} {total}" for total in found.totals]
        if options["json"]:
            answer = {"since": start.isoformat(), "applied": options["apply"], "differences": rows, "totals": totals}
            self.stdout.write(json.dumps(answer))
        else:
            self._print(rows, totals, start, applied=options["apply"])
        if (rows or totals) and not options["apply"]:
            raise SystemExit(1)

    def _print(self, rows: list[dict[str, Any]], totals: list[str], start: datetime, *, applied: bool) -> None:
        for row in rows:
            changes = ", ".join(f"{name} {row['stored'][name]:,} -> {row['ledger'][name]:,}" for name in row["differ"])
            self.stdout.write(
                f"{row['tenant']} {row['hour']} {row['capability']} (project {row['project']}, key {row['key']}): {changes}"
            )
        for total in totals:
            self.stdout.write(total)
        verb = "Written" if applied else "Different"
        outcome = f"{verb}: {len(rows)} usage hour(s), {len(totals)} total(s)."
        if not rows and not totals:
            outcome = "Every usage hour is what the ledger says, and every total what its hours say."
        self.stdout.write(f"{outcome} Compared since {start:%d %B %Y %H:%M} (UTC).")


def _whole_hour(instant: datetime) -> datetime:
    return periods.hour_of(instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC))


def _row(slug: str, difference: rebuild.Difference) -> dict[str, Any]:
    hour, _, project, key, capability = difference.key
    stored = {
        **{name: getattr(difference.stored, name) for name in COUNTS},
        "latencies": sum(difference.stored.latencies.values()),
    }
    ledger = {
        **{name: getattr(difference.ledger, name) for name in COUNTS},
        "latencies": sum(difference.ledger.latencies.values()),
    }
    return {
        "tenant": slug, "hour": f"{hour:%Y-%m-%dT%H}", "project": project, "key": key, "capability": capability, "stored": stored,
        "ledger": ledger, "differ": [name for name in stored if stored[name] != ledger[name]] or ["latencies"],
    }  # fmt: skip
