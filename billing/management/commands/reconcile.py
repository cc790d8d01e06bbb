"""`manage.py reconcile`: whether ledger, usage reports, Stripe and invoices agree, for each tenant, meter and period."""

import argparse
import json
import sys
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import reconcile
from billing.models import Drift
from billing.reconcile import Found, Result
from tenants.models import Tenant

HEADS = ("tenant", "period from (UTC)", "class", "units", "ledger", "reported", "written off", "Stripe", "invoiced")


class Command(BaseCommand):
    help = (
        "Compare the ledger, our usage reports, Stripe's summaries and its invoices for every tenant, meter and period of the "
        "last 13 months. Exits with 1 only when something is unexplained; while Stripe cannot be read nothing is judged."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--tenant", help="Only this tenant: its address (slug) or id.")
        parser.add_argument("--json", action="store_true", help="The last line is one JSON object.")

    def handle(self, **options: Any) -> None:
        tenant = _tenant(options["tenant"]) if options["tenant"] else None
        result = reconcile.run(now=timezone.now(), tenant=tenant)
        for why in result.unread:
            self.stderr.write(f"Not read, and nothing is said about it: {why}")
        if options["json"]:
            self.stdout.write(json.dumps(result.as_json()))
        else:
            self.report(result)
        if result.of(Drift.Kind.UNEXPLAINED):
            sys.exit(1)

    def report(self, result: Result) -> None:
        """A table, and below it what each row means and its mend."""
        if result.found:
            rows = [HEADS, *(_row(one) for one in result.found)]
            widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
            for row in rows:
                self.stdout.write(
                    "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                )
            self.stdout.write("")
            for one in result.found:
                self.stdout.write(f"{one.tenant.slug}: {one.difference.detail}\n  mend: {one.difference.mend}")
        self.stdout.write(f"{result.checked:,} periods read, {len(result.found):,} differences.")


def _row(found: Found) -> tuple[str, ...]:
    sides, difference = found.sides, found.difference
    accepted = f" (accepted by {found.acknowledged_by})" if found.acknowledged_by else ""
    invoiced = "-" if sides.invoiced is None else f"{sides.invoiced:,}"
    numbers = (sides.ledger.units, sides.carried, sides.written_off, sides.at_stripe)
    return (
        found.tenant.slug, f"{found.place.period.start:%Y-%m-%d %H:%M}", difference.kind.value + accepted,
        f"{difference.units:+,}", *(f"{number:,}" for number in numbers), invoiced,
    )  # fmt: skip


def _tenant(name: str) -> Tenant:
    """Raises CommandError: 1 is kept for what cannot be explained."""
    tenant = Tenant.objects.filter(slug=name).first()
    if tenant is None:
        try:
            tenant = Tenant.objects.filter(pk=UUID(name)).first()
        except ValueError:
            tenant = None
    if tenant is None:
        raise CommandError(f"There is no tenant '{name}'.", returncode=2)
    return tenant
