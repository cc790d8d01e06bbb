"""The four tiers as sold at the start. Later prices are new versions, made by an operator or a migration."""

from decimal import Decimal

from django.db import migrations

TIERS = [
    {
        "plan": {"code": "free", "name": "Free", "rank": 1},
        "fee_minor": 0, "included": 5_000, "policy": "block", "unit_price_minor": Decimal(0),
        "burst_per_second": 50, "max_projects": 1, "support": "community support",
    },
    {
        "plan": {"code": "launch", "name": "Launch", "rank": 2},
        "fee_minor": 19_00, "included": 100_000, "policy": "rate", "unit_price_minor": Decimal("0.025"),
        "burst_per_second": 500, "max_projects": 3, "support": "email support",
    },
    {
        "plan": {"code": "scale", "name": "Scale", "rank": 3},
        "fee_minor": 49_00, "included": 1_000_000, "policy": "rate", "unit_price_minor": Decimal("0.006"),
        "burst_per_second": 5_000, "max_projects": None, "support": "priority support",
    },
    {
        "plan": {"code": "enterprise", "name": "Enterprise", "rank": 4, "is_custom": True},
        "fee_minor": 0, "included": None, "policy": "rate", "unit_price_minor": Decimal(0),
        "burst_per_second": 20_000, "max_projects": None, "support": "by agreement", "sla": "by agreement",
    },
]  # fmt: skip


def seed(apps, schema_editor):
    Plan, PlanVersion = apps.get_model("billing", "Plan"), apps.get_model("billing", "PlanVersion")
    for tier in TIERS:
        terms = {name: value for name, value in tier.items() if name != "plan"}
        plan, _ = Plan.objects.get_or_create(code=tier["plan"]["code"], defaults=tier["plan"])
        PlanVersion.objects.get_or_create(plan=plan, tenant=None, number=1, defaults={"currency": "usd", **terms})


class Migration(migrations.Migration):
    dependencies = [("billing", "0002_used_versions_never_change")]

    operations = [migrations.RunPython(seed, migrations.RunPython.noop)]
