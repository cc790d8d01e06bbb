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
from metering.models import Adjustment, AdjustmentKind, SetAside
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
        what.add_argument(
            "--dismiss", type=UUID, metavar="BATCH_ID", help="Bill nothing of what the ledger could not take."
        )
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
            if options["set_aside"] or options["dismiss"]:
                self._settle(tenant, options)
            elif not self._is_applied(tenant, options):
                self._correct(tenant, options)
        except adjustments.CannotAdjust as error:
            raise CommandError(str(error)) from error

    def _is_applied(self, tenant: Tenant, options: dict[str, Any]) -> bool:
        """Whether this id was applied before; says so then. Raises CommandError when it was for something else."""
        made = Adjustment.objects.filter(tenant=tenant, id=options["id"]).first() if options["id"] else None
        if made is None:
            return False
        if (made.kind, made.call_id) != _named(options):
            raise CommandError(f"{made.id} is another correction already: {made}.")
        said = {"id": str(made.id), "applied": True, "kind": made.kind, "calls": made.calls, "units": made.units}
        self.stdout.write(json.dumps(said) if options["json"] else f"{made}. Recorded as {made.id} before.")
        return True

    def _correct(self, tenant: Tenant, options: dict[str, Any]) -> None:
        change = _planned(tenant, options)
        (priced,) = prices.priced([change], tenant=tenant, now=timezone.now())
        made = None
        if not options["dry_run"]:
            made = adjustments.apply(
                change, actor=options["actor"], reason=options["reason"], source=options["source"],
                adjustment_id=options["id"],
            )  # fmt: skip
        if options["json"]:
            said = {"id": str(made.id) if made else None, "applied": made is not None, "kind": change.kind.value}
            self.stdout.write(json.dumps({**said, **_row(priced)}))
            return
        self.stdout.write(f"{change.kind.label}\n{_text(priced)}")
        self.stdout.write(f"Recorded as {made.id}." if made else NOTHING_WRITTEN)

    def _settle(self, tenant: Tenant, options: dict[str, Any]) -> None:
        """What was set aside is backfilled or dismissed."""
        batch = options["set_aside"] or options["dismiss"]
        aside = SetAside.objects.filter(tenant_id=tenant.id, id=batch).first()
        if aside is None:
            raise CommandError(f"{tenant} has nothing set aside under {batch}.")
        changes = []
        if options["set_aside"]:
            changes = adjustments.planned_from_set_aside(tenant=tenant, set_aside=aside, now=timezone.now())
        priced = prices.priced(changes, tenant=tenant, now=timezone.now())
        why = {"set_aside": aside, "actor": options["actor"], "reason": options["reason"]}
        if not options["dry_run"] and options["dismiss"]:
            adjustments.dismiss(**why)
        elif not options["dry_run"]:
            adjustments.from_set_aside(changes, **why)
        if options["json"]:
            said = {
                "batch": str(batch),
                "applied": not options["dry_run"],
                "set_aside": aside.calls,
                "backfilled": len(changes),
            }
            self.stdout.write(json.dumps({**said, "periods": [_row(one) for one in priced]}))
            return
        self.stdout.write(f"Set aside: {aside.calls:,} record(s), because: {aside.error}\nBackfilled: {len(changes):,}")
        for one in priced:
            self.stdout.write(_text(one))
        self.stdout.write(NOTHING_WRITTEN if options["dry_run"] else "Nothing is set aside under this id any more.")


NOTHING_WRITTEN = "Nothing was written: this was a dry run."


def _row(priced: prices.Priced) -> dict[str, Any]:
    effect = priced.effect
    return {
        "period": {"start": effect.period.start.isoformat(), "end": effect.period.end.isoformat()},
        "is_closed": effect.is_closed, "calls": effect.calls, "units": effect.units,
        "calls_before": effect.calls_before, "calls_after": effect.calls_after,
        "units_before": effect.before, "units_after": effect.after,
        "currency": priced.after.currency, "total_before_minor": priced.before.total_minor,
        "total_after_minor": priced.after.total_minor,
    }  # fmt: skip


def _text(priced: prices.Priced) -> str:
    effect = priced.effect
    closed = ", which is closed" if effect.is_closed else ""
    return (
        f"Period: {effect.period.start:%d %B %Y %H:%M} to {effect.period.end:%d %B %Y %H:%M} (UTC){closed}\n"
        f"Calls:  {effect.calls_before:,} -> {effect.calls_after:,} ({effect.calls:+,})\n"
        f"Units:  {effect.before:,} -> {effect.after:,} ({effect.units:+,})\n"
        f"Price:  {priced.before.total_minor:,} -> {priced.after.total_minor:,} "
        f"({priced.difference_minor:+,}) in minor units of {priced.after.currency}"
    )


def _named(options: dict[str, Any]) -> tuple[str, UUID | None]:
    """Kind and call that the options ask for."""
    if options["void"]:
        return AdjustmentKind.VOID, options["void"]
    if options["amend"]:
        return AdjustmentKind.AMEND, options["amend"]
    return AdjustmentKind.BACKFILL, None


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
