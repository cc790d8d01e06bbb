"""`manage.py stripe_catalogue`: the plans as meter, products and prices at Stripe."""

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import catalogue
from billing.errors import BillingError


class Command(BaseCommand):
    help = (
        "Make or find the meter, products and prices of each plan version at Stripe, and store their ids. Amounts are in "
        "minor units. Running it again changes nothing; what is in use is never changed."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Only show what differs.")

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            parts = catalogue.make(now=timezone.now(), dry_run=options["dry_run"])
        except catalogue.CatalogueConflict as error:
            raise CommandError(f"Nothing was changed. {error}") from error
        except BillingError as error:
            raise CommandError(f"{error} What was made so far is found again by the next run.") from error
        for part in parts:
            self.stdout.write(f"{part.standing.value:9} {part.kind:8} {part.name}  {part.detail}".rstrip())
        missing = sum(part.standing is not catalogue.Standing.FOUND for part in parts)
        if options["dry_run"]:
            if any(part.standing is catalogue.Standing.CONFLICT for part in parts):
                raise CommandError("Conflicts, see above. Nothing was changed.")
            self.stdout.write(f"{missing} of {len(parts)} would be made or stored. Nothing was changed.")
        else:
            self.stdout.write(f"{missing} of {len(parts)} were made or stored, the others were there.")
