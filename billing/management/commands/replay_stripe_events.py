"""`manage.py replay_stripe_events`: handle events of the inbox once more, by what Stripe says now."""

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.models import QuerySet
from django.utils import timezone

from billing import inbox
from billing.models import StripeEvent

SHOWN = 50


class Command(BaseCommand):
    help = (
        "Handle Stripe events of the inbox once more. Harmless: an account follows what Stripe says now, whatever the event "
        "said. Without ids: those that have failed for good."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("events", nargs="*", metavar="EVENT", help="Ids (evt_...).")
        parser.add_argument("--state", choices=StripeEvent.State.values, help="Events in this state (default: failed).")
        parser.add_argument("--type", help="Only of this type, or, ending in a dot, of these: invoice.")
        parser.add_argument(
            "--since", type=datetime.fromisoformat, help="Received from then on, like 2026-11-01 (UTC)."
        )
        parser.add_argument("--actor", required=True, help="Who asks: an e-mail address. Goes into the audit log.")
        parser.add_argument("--dry-run", action="store_true", help="Only list them.")
        parser.add_argument("--json", action="store_true", help="One JSON object on one line.")

    def handle(self, **options: Any) -> None:
        chosen = list(_chosen(options).order_by("created_at"))
        missing = sorted(set(options["events"]) - {event.pk for event in chosen})
        if missing:
            raise CommandError(f"Not in the inbox, or not of those: {', '.join(missing)}. Nothing was done.")
        worked = 0
        if not options["dry_run"]:
            ids = [event.pk for event in chosen]
            worked = inbox.replay(event_ids=ids, actor=options["actor"], now=timezone.now())
        if options["json"]:
            said = {"found": len(chosen), "replayed": worked, "events": [event.pk for event in chosen]}
            self.stdout.write(json.dumps(said))
        else:
            self._say(chosen, worked, is_dry=options["dry_run"])
        if worked < len(chosen) and not options["dry_run"]:
            raise CommandError(
                f"{len(chosen) - worked} did not work; they are tried again by themselves. See their errors."
            )

    def _say(self, chosen: list[StripeEvent], worked: int, *, is_dry: bool) -> None:
        for event in chosen[:SHOWN]:
            self.stdout.write(
                f"{event.received_at:%Y-%m-%d %H:%M} {event.state:8} {event.type} {event.pk} {event.error[:80]}"
            )
        if len(chosen) > SHOWN:
            self.stdout.write(f"... and {len(chosen) - SHOWN} more")
        self.stdout.write(f"{len(chosen)} found. " + ("Nothing was done." if is_dry else f"{worked} replayed."))


def _chosen(options: dict[str, Any]) -> QuerySet[StripeEvent]:
    found = StripeEvent.objects.all()
    if options["events"]:
        found = found.filter(pk__in=options["events"])
    if options["state"] or not options["events"]:
        found = found.filter(state=options["state"] or StripeEvent.State.FAILED)
    if options["type"]:
        kind = {"type__startswith": options["type"]} if options["type"].endswith(".") else {"type": options["type"]}
        found = found.filter(**kind)
    if options["since"]:
        since: datetime = options["since"]
        found = found.filter(received_at__gte=since if since.tzinfo else since.replace(tzinfo=UTC))
    return found
