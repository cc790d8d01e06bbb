"""`manage.py price_lab`: what tenants' past periods would have cost under a draft plan, and which plan would have cost least."""

import argparse
import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import draft_plans, price_lab


class Command(BaseCommand):
    help = "Rate past periods of all or chosen tenants under a draft plan (docs/price-lab.md). Writes nothing."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--plan", required=True, type=Path, metavar="FILE", help="The draft plan, a TOML file.")
        parser.add_argument(
            "--tenant",
            action="append",
            default=[],
            help="Only this tenant, by its address (slug); several times for several.",
        )
        parser.add_argument("--months", type=int, default=12, help="How far back; default: 12.")
        parser.add_argument("--json", action="store_true", help="One JSON object on one line.")

    def handle(self, **options: Any) -> None:
        if not 1 <= options["months"] <= price_lab.MOST_MONTHS:
            raise CommandError(f"--months is 1 to {price_lab.MOST_MONTHS}.")
        try:
            draft = draft_plans.read(options["plan"].read_text(encoding="utf-8"))
            report = price_lab.run(draft=draft, months=options["months"], now=timezone.now(), tenants=options["tenant"])
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{options['plan']} cannot be read: {error}.") from error
        except draft_plans.DraftInvalid as error:
            raise CommandError(f"{options['plan']}: {error}") from error
        except price_lab.UnknownTenants as error:
            raise CommandError(str(error)) from error
        self.stdout.write(json.dumps(_as_json(report)) if options["json"] else "\n".join(_text(report)))


def _text(report: price_lab.Report) -> list[str]:
    said = [
        f"Draft {report.draft}: periods that ended since {report.since:%d %B %Y} (UTC). Minor units, before tax.\n",
        f"{'tenant':<24} {'plan':<20} {'periods':>7} {'calls':>15} {'priced':>13} {'draft':>13} {'difference':>13}  cheapest",
    ]
    for row in report.rows:
        draft = f"{row.draft.total_minor:>13,}" if row.draft else f"{'-':>13}"
        difference = f"{row.difference_minor:>+13,}" if row.difference_minor is not None else f"{'-':>13}"
        said.append(
            f"{row.tenant:<24.24} {row.plan:<20.20} {row.periods:>7} {row.units:>15,} {row.priced_minor:>9,} {row.currency} "
            f"{draft} {difference}  {_cheapest(row)}"
        )
    for total in report.sums:
        said.append(
            f"\n{total.tenants} tenant(s) in {total.currency}: {total.priced_minor:,} -> {total.draft_minor:,} "
            f"({total.draft_minor - total.priced_minor:+,}). More for {total.pay_more}, less for {total.pay_less}; "
            f"the draft is the cheapest for {total.draft_is_cheapest}, and would have refused calls of {total.refused_tenants}."
        )
    return said if report.rows else [*said, "No period is over in this time."]


def _cheapest(row: price_lab.Row) -> str:
    refused = f"; the draft refuses {row.draft.refused:,} calls" if row.draft and row.draft.refused else ""
    unpriced = "; the draft has no price in its currency" if row.draft is None else ""
    if row.cheapest is None:
        return f"none serves every call{refused}{unpriced}"
    return f"{row.cheapest.name}: {row.cheapest.total_minor:,}{refused}{unpriced}"


def _as_json(report: price_lab.Report) -> dict[str, Any]:
    return {
        "draft": report.draft, "months": report.months, "since": report.since.isoformat(),
        "tenants": [
            {
                "tenant": row.tenant, "plan_version": row.plan, "currency": row.currency, "periods": row.periods,
                "units": row.units, "priced_minor": row.priced_minor,
                "draft_minor": row.draft.total_minor if row.draft else None, "difference_minor": row.difference_minor,
                "draft_refuses_units": row.draft.refused if row.draft else None,
                "cheapest": row.cheapest.name if row.cheapest else None,
                "cheapest_minor": row.cheapest.total_minor if row.cheapest else None,
                "plans": [
                    {"plan": offer.name, "total_minor": offer.total_minor, "refuses_units": offer.refused}
                    for offer in row.offers
                ],
            }
            for row in report.rows
        ],
        "currencies": [
            {
                "currency": total.currency, "tenants": total.tenants, "priced_minor": total.priced_minor,
                "draft_minor": total.draft_minor, "difference_minor": total.draft_minor - total.priced_minor,
                "pay_more": total.pay_more, "pay_less": total.pay_less, "refused_tenants": total.refused_tenants,
                "draft_is_cheapest": total.draft_is_cheapest,
            }
            for total in report.sums
        ],
    }  # fmt: skip
