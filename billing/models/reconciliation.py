"""What the last reconciliation found: three sides for each tenant, meter and period, and whose reporting is stopped."""

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .accounts import Account


class Drift(models.Model):
    """The last reading of one tenant, meter and period: what each side has, and what the difference is, if there is one."""

    class Kind(models.TextChoices):
        NONE = "", _("All sides agree")
        IN_FLIGHT = "in_flight", _("In flight: reported or to be reported, or held back")
        LATE = "late", _("Late: used or corrected after the final invoice")
        REJECTED = "rejected", _("Rejected by Stripe")
        DUPLICATED = "duplicated", _("Duplicated: Stripe has more than was reported")
        UNEXPLAINED = "unexplained", _("Unexplained")

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="drifts")
    meter_id = models.CharField(max_length=255)
    period_start = models.DateTimeField(help_text=_("UTC."))
    period_end = models.DateTimeField(help_text=_("UTC."))
    kind = models.CharField(max_length=16, choices=Kind.choices, blank=True, help_text=_("The worst one found."))
    units = models.BigIntegerField(default=0, help_text=_("How many units this is about."))
    ledger = models.BigIntegerField(help_text=_("Units of the ledger."))
    reported = models.BigIntegerField(help_text=_("Units of our reports, those that Stripe rejected left out."))
    written_off = models.BigIntegerField(help_text=_("Late units: written off by name or charged as a dated item."))
    stripe = models.BigIntegerField(help_text=_("Units that Stripe's summaries show."))
    invoiced = models.BigIntegerField(null=True, blank=True, help_text=_("Units of the final invoice's lines."))
    detail = models.TextField(blank=True, help_text=_("What differs, in words."))
    mend = models.TextField(blank=True, help_text=_("What to do about it."))
    first_seen = models.DateTimeField(null=True, blank=True, help_text=_("Since when it is of this class (UTC)."))
    last_seen = models.DateTimeField(help_text=_("When it was read last (UTC)."))
    acknowledged_by = models.CharField(max_length=254, blank=True)
    acknowledged_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=500, blank=True, help_text=_("Why the operator accepts the difference."))

    class Meta:
        verbose_name = _("drift per tenant, meter and period")
        verbose_name_plural = _("drift per tenant, meter and period")
        ordering = ("-period_start", "account")
        constraints = (
            models.UniqueConstraint(fields=("account", "meter_id", "period_start"), name="drift_once_for_each_period"),
            models.CheckConstraint(
                condition=models.Q(kind__in=["", "in_flight", "late", "rejected", "duplicated", "unexplained"]),
                name="drift_kind_known",
            ),
            models.CheckConstraint(
                condition=models.Q(period_start__lt=models.F("period_end")), name="drift_period_forward"
            ),
        )

    def __str__(self) -> str:
        return f"{self.account.tenant} from {self.period_start:%Y-%m-%d %H:%M} (UTC): {self.get_kind_display()}"


class ReportingStop(models.Model):
    """Nothing more of this tenant's usage is reported, until an operator has looked and says why it may go on."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="reporting_stops")
    stopped_at = models.DateTimeField(default=timezone.now, help_text=_("UTC."))
    why = models.TextField()
    released_at = models.DateTimeField(null=True, blank=True, help_text=_("UTC; empty: reporting is stopped."))
    released_by = models.CharField(max_length=254, blank=True)
    reason = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ("-stopped_at",)
        constraints = (
            models.UniqueConstraint(
                fields=("account",), condition=models.Q(released_at=None), name="reportingstop_one_for_each_account"
            ),
            models.CheckConstraint(
                condition=models.Q(released_at=None, reason="")
                | (models.Q(released_at__isnull=False) & ~models.Q(reason="")),
                name="reportingstop_released_with_a_reason",
            ),
        )

    def __str__(self) -> str:
        return f"{self.account.tenant}: reporting stopped at {self.stopped_at:%Y-%m-%d %H:%M} (UTC)"
