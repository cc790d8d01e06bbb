"""`manage.py adjust`: correct the ledger by a void, an amend or a backfill, or see first what that would do."""

import argparse
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import adjustments as prices
from metering import adjustments
from metering.models import SetAside
from tenants.models import ApiKey, Tenant


class Command(BaseCommand):
    help = "Correct a tenant's ledger. The correction is a row of its own with actor, reason and source; no recorded call changes."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--tenant", required=True, help="The tenant's address (slug).")
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--void", type=UUID, metavar="CALL_ID", help="This call is not billed after all.")
        what.add_argument("--amend", type=UUID, metavar="CALL_ID", help="This call costs --units units.")
        what.add_argument(
            "--backfill", metavar="CAPABILITY", help="Add --calls calls that were served and not recorded."
        )
        what.add_argument("--set-aside", type=UUID, metavar="BATCH_ID", help="Backfill what the ledger could not take.")
        parser.add_argument(
            "--units", type=int, help="Units of the amended call, or of the backfill (default: one a call)."
        )
        parser.add_argument("--calls", type=int, help="Calls of the backfill.")
        parser.add_argument("--key", help="Backfill: the API key's prefix or public id.")
        parser.add_argument("--at", type=datetime.fromisoformat, help="Backfill: when, like 2026-11-01T13:05 (UTC).")
        parser.add_argument("--reason", required=True, help="Goes into the ledger and the audit log.")
        parser.add_argument("--actor", required=True, help="Who corrects: an e-mail address.")
        parser.add_argument("--source", default="", help="Where it comes from: a ticket, a file.")
        parser.add_argument("--id", type=UUID, help="The correction's id: the same id again changes nothing.")
        parser.add_argument(
            "--dry-run", action="store_true", help="Say what would happen, in units and money; write nothing."
        )
        parser.add_argument("--json", action="store_true", help="One JSON object on one line.")

    def handle(self, **options: Any) -> None:
        tenant = Tenant.objects.filter(slug=options["tenant"]).first()
        if tenant is None:
            raise CommandError(f"There is no tenant '{options['tenant']}'.")
        try:
            if options["set_aside"]:
                self._take_set_aside(tenant, options)
            else:
                self._correct(_planned(tenant, options), options)
        except adjustments.CannotAdjust as error:
            raise CommandError(str(error)) from error

    def _correct(self, change: adjustments.Change, options: dict[str, Any]) -> None:
        priced = prices.priced(change, now=timezone.now())
        made = None
        if not options["dry_run"]:
            made = adjustments.apply(
                change, actor=options["actor"], reason=options["reason"], source=options["source"],
                adjustment_id=options["id"],
            )  # fmt: skip
        self._say(priced, None if made is None else made.id, as_json=options["json"])

    def _say(self, priced: prices.Priced, made: UUID | None, *, as_json: bool) -> None:
        effect, currency = priced.effect, priced.after.currency
        if as_json:
            answer = {
                "id": str(made) if made else None, "applied": made is not None, "kind": effect.change.kind.value,
                "calls": effect.change.calls, "units": effect.change.units,
                "period": {"start": effect.period.start.isoformat(), "end": effect.period.end.isoformat()},
                "is_closed": effect.is_closed,
                "units_before": effect.before, "units_after": effect.after, "currency": currency,
                "total_before_minor": priced.before.total_minor, "total_after_minor": priced.after.total_minor,
            }  # fmt: skip
            self.stdout.write(json.dumps(answer))
            return
        closed = ", which is closed" if effect.is_closed else ""
        self.stdout.write(
            f"{effect.change.kind.label}\n"
            f"Period: {effect.period.start:%d %B %Y %H:%M} to {effect.period.end:%d %B %Y %H:%M} (UTC){closed}\n"
            f"Units:  {effect.before:,} -> {effect.after:,} ({effect.change.units:+,})\n"
            f"Price:  {priced.before.total_minor:,} -> {priced.after.total_minor:,} "
            f"({priced.difference_minor:+,}) in minor units of {currency}\n"
            + (f"Recorded as {made}." if made else "Nothing was written: this was a dry run.")
        )

    def _take_set_aside(self, tenant: Tenant, options: dict[str, Any]) -> None:
        aside = SetAside.objects.filter(tenant_id=tenant.id, id=options["set_aside"]).first()
        if aside is None:
            raise CommandError(f"{tenant} has nothing set aside under {options['set_aside']}.")
        if options["dry_run"]:
            self.stdout.write(f"{aside.calls:,} call(s) would be backfilled; the ledger said: {aside.error}")
            return
        made = adjustments.from_set_aside(
            set_aside=aside, actor=options["actor"], reason=options["reason"], now=timezone.now()
        )
        self.stdout.write(f"{len(made):,} of {aside.calls:,} call(s) were billable and are backfilled.")


def _planned(tenant: Tenant, options: dict[str, Any]) -> adjustments.Change:
    if options["void"]:
        return adjustments.planned_void(tenant=tenant, call_id=options["void"])
    if options["amend"]:
        if options["units"] is None:
            raise CommandError("--amend needs --units: what the call costs.")
        return adjustments.planned_amend(tenant=tenant, call_id=options["amend"], units=options["units"])
    if options["calls"] is None or options["key"] is None or options["at"] is None:
        raise CommandError("--backfill needs --calls, --key and --at.")
    at = options["at"] if options["at"].tzinfo else options["at"].replace(tzinfo=UTC)
    return adjustments.planned_backfill(
        tenant=tenant, key=_key(tenant, options["key"]), capability=options["backfill"], occurred_at=at, calls=options["calls"],
        units=options["units"], now=timezone.now(),
    )  # fmt: skip


def _key(tenant: Tenant, name: str) -> ApiKey:
    public_id = name.removeprefix("mh_live_").partition("_")[0]
    key = ApiKey.objects.filter(tenant=tenant, public_id=public_id).first()
    if key is None:
        raise CommandError(f"{tenant} has no API key '{name}'.")
    return key
