"""`manage.py subscribe_demo`: the demo's paying tenants are customers of the demo's Stripe. Running it again changes nothing."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing.errors import BillingError
from sandbox import subscribers


class Command(BaseCommand):
    help = "Make the catalogue at Stripe and subscribe the demo's paying tenants, by a test card."
    requires_system_checks = ()

    def handle(self, *_: Any, **__: Any) -> None:
        try:
            subscribers.subscribe(now=timezone.now(), say=lambda line: self.stdout.write(f"  {line}"))
        except BillingError as error:
            raise CommandError(f"{error} The demo's tenants are not at Stripe yet; start it again.") from error
