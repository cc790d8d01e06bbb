"""`manage.py backtest`: how far the projection was off in the periods that are over, beside a straight line."""

import argparse
import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import backtest
from billing.models import Account


class Command(BaseCommand):
    help = "Make the projection again at every midnight of every past period, and compare it with what came. Writes nothing."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--tenant", help="Only this tenant, by its address (slug).")
        parser.add_argument("--json", action="store_true", help="One JSON object on one line.")

    def handle(self, **options: Any) -> None:
        accounts = Account.objects.select_related("tenant").order_by("tenant__slug")
        if options["tenant"]:
            accounts = accounts.filter(tenant__slug=options["tenant"])
            if not accounts:
                raise CommandError(f"There is no tenant '{options['tenant']}' with a plan.")
        now = timezone.now()
        scores = {
            account.tenant.slug: backtest.score(backtest.history_of(account=account, now=now)) for account in accounts
        }
        rows = {slug: score for slug, score in scores.items() if score.cut_points}
        overall = backtest.total(rows.values())
        if options["json"]:
            said = {"tenants": [{"tenant": slug, **_row(score)} for slug, score in rows.items()], "all": _row(overall)}
            self.stdout.write(json.dumps(said))
            return
        if not rows:
            self.stdout.write("No period is over that had enough calls: nothing to compare.")
            return
        self.stdout.write("Mean absolute error of the likely value, in % of what the period ended with\n\n" + HEAD)
        for name, score in [*rows.items(), ("all", overall)]:
            self.stdout.write(
                f"{name:<24.24} {score.cut_points:>10,} {score.error_percent:>12} {score.line_error_percent:>16} "
                f"{score.inside_percent:>18}"
            )


HEAD = f"{'tenant':<24} {'cut points':>10} {'projection':>12} {'straight line':>16} {'% in low..high':>18}"


def _row(score: backtest.Score) -> dict[str, Any]:
    """Percentages as text: they are exact to two places."""
    return {
        "cut_points": score.cut_points, "error_percent": str(score.error_percent),
        "straight_line_error_percent": str(score.line_error_percent), "inside_percent": str(score.inside_percent),
    }  # fmt: skip
