"""An account without a subscription may owe an invoice of the one that has ended."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0006_reconciliation")]

    operations = [
        migrations.RemoveConstraint(model_name="account", name="account_past_due_since_a_day"),
        migrations.AddConstraint(
            model_name="account",
            constraint=models.CheckConstraint(
                condition=models.Q(past_due_since__isnull=False, state__in=["past_due", "restricted"])
                | models.Q(past_due_since=None, state__in=["trialing", "active"])
                | models.Q(state="none"),
                name="account_past_due_since_a_day",
            ),
        ),
    ]
