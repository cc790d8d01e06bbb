"""`manage.py seed_demo`: the demo's tenants with their history. Running it again changes nothing."""

import argparse
import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from sandbox import demo_data
from sandbox.demo_data import Login, Seeded
from tenants.errors import TenantsError


class Command(BaseCommand):
    help = "Create the demo's four tenants with 13 months of history. Passwords and keys are shown once."
    requires_system_checks = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print one line of JSON; null when nothing was to do.")

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            seeded = demo_data.seed(now=timezone.now(), say=self._say)
        except TenantsError as error:
            raise CommandError(f"{error} Nothing was created: use an empty database for the demo.") from error
        except (OperationalError, InterfaceError) as error:
            raise CommandError(f"PostgreSQL is unreachable: {error}. Nothing was created.") from error
        if options["json"]:
            self.stdout.write(json.dumps(None if seeded is None else document(seeded)))
        elif seeded is None:
            self.stdout.write("The demo's data exists already; nothing was changed.")
        else:
            self.stdout.write(json.dumps(document(seeded), indent=2))

    def _say(self, line: str) -> None:
        self.stderr.write(f"  {line}", self.style.NOTICE)


def document(seeded: Seeded) -> dict[str, object]:
    """The logins and keys as the demo keeps them."""
    tenants = [
        {
            "id": str(made.tenant.id),
            "slug": made.tenant.slug,
            "plan": made.plan,
            **_login(made.owner),
            "api_key": made.api_keys[0],
            "traffic_keys": list(made.api_keys[1:]),
        }
        for made in seeded.tenants
    ]
    also = [{**_login(login), "reads": list(slugs)} for login, slugs in seeded.also]
    return {"admin": _login(seeded.admin), "tenants": tenants, "also": also}


def _login(login: Login) -> dict[str, str | None]:
    return {"email": login.email, "password": login.password}
