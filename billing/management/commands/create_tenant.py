"""`manage.py create_tenant`: a tenant on a plan, with an owner who can sign in and a key that works."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.core.validators import validate_email
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from billing import accounts, onboarding
from billing.errors import BillingError
from metering.models import MAX_BURST, MAX_CALLS, Policy
from tenants.errors import TenantsError

NAME_LENGTH = 120


def whole_number(*, low: int, high: int, unlimited: bool = False) -> Callable[[str], int | None]:
    """An argparse type for whole numbers from low to high, or `unlimited` where that is allowed."""

    def parse(text: str) -> int | None:
        if unlimited and text == "unlimited":
            return None
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            also = ", or 'unlimited'" if unlimited else ""
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {low} to {high:,}{also}")
        return value

    return parse


class Command(BaseCommand):
    help = "Create a tenant on a plan, with an owner, a project and an API key. The key is shown once."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        calls = whole_number(low=0, high=MAX_CALLS, unlimited=True)
        parser.add_argument("--name", required=True, help="Name of the organisation.")
        parser.add_argument(
            "--email", required=True, help="The owner's e-mail address; an existing user becomes the owner."
        )
        parser.add_argument("--plan", required=True, help="Code of the plan: free, launch, scale or enterprise.")
        parser.add_argument(
            "--included", type=calls, default=accounts.Agreed.UNCHANGED, help="Included calls a month, or 'unlimited'."
        )
        parser.add_argument("--hard-limit", type=calls, default=None, help="Calls a month never to exceed.")
        parser.add_argument(
            "--overage",
            choices=Policy.values,
            default=accounts.Agreed.UNCHANGED,
            help="What happens beyond the included calls.",
        )
        parser.add_argument(
            "--burst",
            type=whole_number(low=1, high=MAX_BURST),
            default=accounts.Agreed.UNCHANGED,
            help="Calls a second.",
        )
        parser.add_argument("--json", action="store_true", help="Print one line of JSON.")

    def handle(self, *_: Any, **options: Any) -> None:
        name = options["name"].strip()
        if not name:
            raise CommandError("--name is empty.")
        if len(name) > NAME_LENGTH or not name.isprintable():
            raise CommandError(f"--name must be readable text of at most {NAME_LENGTH} characters.")
        try:
            validate_email(options["email"])
            made = onboarding.onboard(
                name=name,
                email=options["email"],
                plan_code=options["plan"],
                actor="command create_tenant",
                now=timezone.now(),
                agreed=accounts.Agreed(
                    included=options["included"], policy=options["overage"], burst_per_second=options["burst"]
                ),
                hard_limit=options["hard_limit"],
            )
        except (BillingError, TenantsError) as error:
            raise CommandError(str(error)) from error
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from error
        except (OperationalError, InterfaceError) as error:
            raise CommandError(
                f"PostgreSQL is unreachable: {error}. Check DATABASE_URL; nothing was created."
            ) from error
        result = {
            "id": str(made.tenant.id),
            "slug": made.tenant.slug,
            "plan": options["plan"],
            "email": made.user.email,
            "password": made.password,
            "api_key": made.api_key,
        }
        if options["json"]:
            self.stdout.write(json.dumps(result))
            return
        for label, value in result.items():
            self.stdout.write(f"{label:10} {value if value is not None else '(unchanged)'}")
