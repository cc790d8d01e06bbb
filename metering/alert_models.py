"""Alerts: what a tenant wants to be told of, and what it was told."""

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

MOST_PERCENT = 1000
MOST_MINOR = 10**14


class AlertKind(models.TextChoices):
    SHARE = "share", _("A share of the included calls is used")
    AMOUNT = "amount", _("The period's usage costs an amount")
    PROJECTED = "projected", _("The period's usage is projected to cost an amount")


class Alert(models.Model):
    """What a tenant wants to be told of, once in each period. `key` names the threshold; `calls` is an amount in calls.

    What an amount is in calls billing says and pushes down, as the tenant's prices are now; nothing here knows prices.
    """

    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.CASCADE, related_name="alerts")
    kind = models.CharField(max_length=16, choices=AlertKind.choices)
    percent = models.PositiveIntegerField(null=True, blank=True)
    amount_minor = models.BigIntegerField(null=True, blank=True)
    currency = models.CharField(max_length=3, blank=True)
    key = models.CharField(max_length=60, editable=False)
    calls = models.BigIntegerField(
        null=True, blank=True, editable=False, help_text=_("The amount in calls; empty: no number of calls costs it.")
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("tenant", "kind", "percent", "amount_minor")
        constraints = (
            models.UniqueConstraint(fields=("tenant", "key"), name="alert_once_for_each_threshold"),
            models.CheckConstraint(
                condition=models.Q(
                    kind="share", percent__gte=1, percent__lte=MOST_PERCENT, amount_minor=None, currency=""
                )
                | models.Q(
                    kind__in=["amount", "projected"], percent=None, amount_minor__gte=1, amount_minor__lte=MOST_MINOR
                )
                & ~models.Q(currency=""),
                name="alert_names_its_threshold",
            ),
        )

    def __str__(self) -> str:
        return f"{self.key} of {self.tenant}"


class CrossingKind(models.TextChoices):
    SHARE = AlertKind.SHARE.value, AlertKind.SHARE.label
    AMOUNT = AlertKind.AMOUNT.value, AlertKind.AMOUNT.label
    PROJECTED = AlertKind.PROJECTED.value, AlertKind.PROJECTED.label
    LIMIT = "limit", _("The period's limit is reached: further calls are refused")


class Crossing(models.Model):
    """An alert that fired, or a limit that was reached: written by the commit that crossed it, once in a period."""

    id = models.UUIDField(primary_key=True, help_text=_("Also the id of the event and of its webhooks."))
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    key = models.CharField(max_length=60)
    kind = models.CharField(max_length=16, choices=CrossingKind.choices)
    percent = models.PositiveIntegerField(null=True)
    amount_minor = models.BigIntegerField(null=True)
    currency = models.CharField(max_length=3, blank=True)
    units = models.BigIntegerField(help_text=_("The threshold in calls; of a projection 0."))
    used = models.BigIntegerField(help_text=_("What the period counted when it fired."))
    included = models.BigIntegerField(null=True)
    crossed_at = models.DateTimeField(help_text=_("When that was committed (UTC)."))
    told_at = models.DateTimeField(null=True, help_text=_("When the mail was written (UTC)."))

    class Meta:
        managed = False
        db_table = "metering_crossing"
        ordering = ("-crossed_at", "-units")

    def __str__(self) -> str:
        return f"{self.key} at {self.crossed_at:%Y-%m-%d %H:%M}"
