"""How a period's calls are billed: under which terms, on which invoice, and what is charged for besides Stripe's own lines."""

import uuid

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .accounts import Account
from .plans import PlanVersion


class BilledPeriod(models.Model):
    """A period of an account as its subscription bills it. Its usage is reported or rated until its invoice is final."""

    class State(models.TextChoices):
        OPEN = "open", _("Open: its invoice is not final, usage still goes there")
        FINAL = "final", _("Final: what comes later is late usage or a correction")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="billed_periods")
    version = models.ForeignKey(PlanVersion, on_delete=models.PROTECT, related_name="+")
    currency = models.CharField(max_length=3)
    subscription_id = models.CharField(max_length=255, help_text=_("Stripe's sub_..."))
    item_id = models.CharField(
        max_length=255, blank=True, help_text=_("Stripe's si_... of the metered price; empty: calls are rated here.")
    )
    meter_id = models.CharField(max_length=255, blank=True)
    start = models.DateTimeField()
    end = models.DateTimeField(help_text=_("Predicted until it has passed or a change of plan has cut it (UTC)."))
    counts_from = models.DateTimeField(help_text=_("Stripe's item counts no earlier than this (UTC)."))
    is_free = models.BooleanField(default=False, help_text=_("A trial: its calls cost nothing."))
    state = models.CharField(max_length=16, choices=State.choices, default=State.OPEN)
    invoice_id = models.CharField(max_length=255, blank=True, help_text=_("Stripe's in_..., once it is known."))
    rated_units = models.BigIntegerField(default=0, help_text=_("Units that our own lines of the draft are for."))
    billed_units = models.BigIntegerField(
        null=True, blank=True, help_text=_("Units on the final invoice, by Stripe's lines or ours.")
    )
    cap_minor = models.BigIntegerField(null=True, blank=True, help_text=_("The customer's limit in money at its end."))
    scanned_to = models.DateTimeField(null=True, blank=True, help_text=_("What the last scan counted up to (UTC)."))
    looked_at = models.DateTimeField(null=True, blank=True, help_text=_("When its invoice was last looked for (UTC)."))
    final_at = models.DateTimeField(null=True, blank=True, help_text=_("When we saw that its invoice was final (UTC)."))
    stopped_because = models.CharField(
        max_length=300, blank=True, help_text=_("Why nothing is sent for it; empty: it is. A person decides.")
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("account", "start")
        constraints = (
            models.UniqueConstraint(fields=("account", "subscription_id", "start"), name="billedperiod_once"),
            models.CheckConstraint(condition=models.Q(start__lt=models.F("end")), name="billedperiod_forward"),
            models.CheckConstraint(
                condition=models.Q(state="open") | models.Q(billed_units__isnull=False),
                name="billedperiod_final_with_its_units",
            ),
        )
        indexes = (models.Index(fields=("end",), condition=models.Q(state="open"), name="billedperiod_open"),)

    def __str__(self) -> str:
        return f"{self.account.tenant} from {self.start:%Y-%m-%d %H:%M} (UTC)"


class Charge(models.Model):
    """A named amount of ours on an invoice, or one that was written off. Its id makes it once; units and amount never change."""

    class Kind(models.TextChoices):
        OVERAGE = "overage", _("Calls beyond the included ones, rated here")
        WRITE_OFF = "write_off", _("Beyond the customer's limit in money: not charged")
        MINIMUM = "minimum", _("Up to the agreed minimum")
        LATE = "late", _("Calls that were counted after the invoice was final")
        CORRECTION = "correction", _("Calls that were taken back after the invoice was final")

    class State(models.TextChoices):
        PENDING = "pending", _("To be put on an invoice")
        ADDED = "added", _("On an invoice, or waiting at Stripe for the next one")
        WRITTEN_OFF = "written_off", _("Written off: never charged")
        NOTHING = "nothing", _("Makes no difference in money")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="charges")
    period = models.ForeignKey(BilledPeriod, on_delete=models.PROTECT, related_name="charges")
    kind = models.CharField(max_length=16, choices=Kind.choices)
    step = models.PositiveIntegerField(default=0, help_text=_("Number of the price step, from 0."))
    number = models.PositiveIntegerField(
        default=1, help_text=_("A later one carries the difference to the earlier ones.")
    )
    units = models.BigIntegerField(help_text=_("Units of usage that it settles."))
    amount_minor = models.BigIntegerField(help_text=_("Negative: a credit."))
    currency = models.CharField(max_length=3)
    description = models.CharField(max_length=300, help_text=_("As the invoice shows it."))
    derivation = models.JSONField(default=dict, help_text=_("How the amount was computed."))
    state = models.CharField(max_length=16, choices=State.choices, default=State.PENDING)
    invoice_id = models.CharField(max_length=255, blank=True, help_text=_("Stripe's in_...; empty: the next one."))
    stripe_id = models.CharField(max_length=255, blank=True, help_text=_("Stripe's ii_... or cn_..."))
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    attempted_at = models.DateTimeField(null=True, blank=True, help_text=_("When it was first sent (UTC)."))
    added_at = models.DateTimeField(null=True, blank=True)
    error = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ("account", "created_at")
        constraints = (
            models.UniqueConstraint(fields=("period", "kind", "step", "number"), name="charge_once"),
            models.CheckConstraint(
                condition=~models.Q(state="nothing") | models.Q(amount_minor=0), name="charge_nothing_is_nothing"
            ),
        )
        indexes = (models.Index(fields=("account",), condition=models.Q(state="pending"), name="charge_pending"),)

    def __str__(self) -> str:
        return f"{self.description}: {self.amount_minor} {self.currency}"
