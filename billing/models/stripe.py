"""What came from Stripe and what goes there: the webhook inbox, ids of prices, usage reports. dj-stripe mirrors the rest."""

import uuid

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .accounts import Account
from .plans import PlanVersion
from .usage import BilledPeriod


class StripePrices(models.Model):
    """Where a plan version's prices stand in Stripe. Made by `manage.py stripe_catalogue`."""

    version = models.OneToOneField(
        PlanVersion, primary_key=True, on_delete=models.CASCADE, related_name="stripe_prices"
    )
    meter_id = models.CharField(max_length=255, blank=True)
    product_id = models.CharField(max_length=255)
    fee_price_id = models.CharField(max_length=255, unique=True)
    usage_price_id = models.CharField(max_length=255, blank=True, help_text=_("Empty: calls are not priced."))
    made_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name_plural = _("Stripe prices")

    def __str__(self) -> str:
        return f"{self.version}: {self.fee_price_id}"


class StripeEvent(models.Model):
    """The inbox of webhooks: one row for each event that was verified, whatever number of times it was delivered."""

    class Kind(models.TextChoices):
        SNAPSHOT = "snapshot", _("Snapshot")
        THIN = "thin", _("Thin")

    class State(models.TextChoices):
        RECEIVED = "received", _("Received: to be handled")
        HANDLED = "handled", _("Handled")
        IGNORED = "ignored", _("Ignored: of no meaning here")
        FAILED = "failed", _("Failed: tried too often, replay it when the cause is gone")

    id = models.CharField(max_length=255, primary_key=True, help_text=_("Stripe's evt_..."))
    kind = models.CharField(max_length=16, choices=Kind.choices)
    type = models.CharField(max_length=120)
    object_id = models.CharField(max_length=255, blank=True, help_text=_("Of the object that the event is about."))
    customer_id = models.CharField(max_length=255, blank=True, db_index=True)
    is_live = models.BooleanField()
    created_at = models.DateTimeField(help_text=_("When it happened at Stripe (UTC)."))
    received_at = models.DateTimeField(default=timezone.now, help_text=_("When we heard of it (UTC)."))
    body = models.JSONField(help_text=_("As delivered."))
    state = models.CharField(max_length=16, choices=State.choices, default=State.RECEIVED)
    attempts = models.PositiveIntegerField(default=0)
    due_at = models.DateTimeField(default=timezone.now, help_text=_("Not tried again before this instant (UTC)."))
    handled_at = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True)

    class Meta:
        verbose_name = _("Stripe event")
        ordering = ("-received_at",)
        indexes = (
            models.Index(fields=("due_at",), condition=models.Q(state="received"), name="stripeevent_to_handle"),
        )
        constraints = (
            models.CheckConstraint(
                condition=models.Q(state__in=["received", "handled", "ignored", "failed"]),
                name="stripeevent_state_known",
            ),
        )

    def __str__(self) -> str:
        return f"{self.type} {self.id}"


class UsageReport(models.Model):
    """A frozen quantity of one tenant's usage for Stripe. Its id is the meter event's identifier, so it counts once.

    A window is [start, end) within one period; a later revision carries what the ledger holds beyond the earlier ones.
    """

    class State(models.TextChoices):
        PENDING = "pending", _("To be sent")
        SENDING = "sending", _("Sent, the answer is not known")
        DELIVERED = "delivered", _("Stripe has taken it")
        CONFIRMED = "confirmed", _("Stripe's summaries agree")
        REJECTED = "rejected", _("Stripe has rejected it; a later revision carries its units once the cause is mended")
        SET_ASIDE = "set_aside", _("Rejected for good: a person decides")
        TOO_LATE = "too_late", _("Not counted: the invoice was final before")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="usage_reports")
    period = models.ForeignKey(BilledPeriod, null=True, blank=True, on_delete=models.PROTECT, related_name="reports")
    subscription_id = models.CharField(max_length=255)
    meter_id = models.CharField(max_length=255)
    period_start = models.DateTimeField()
    window_start = models.DateTimeField()
    window_end = models.DateTimeField()
    revision = models.PositiveIntegerField(default=1)
    quantity = models.BigIntegerField(help_text=_("Units; never changed."))
    stamped_at = models.DateTimeField(help_text=_("The meter event's timestamp, inside the item's period (UTC)."))
    state = models.CharField(max_length=16, choices=State.choices, default=State.PENDING)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    attempted_at = models.DateTimeField(null=True, blank=True, help_text=_("When it was first sent (UTC)."))
    delivered_at = models.DateTimeField(null=True, blank=True)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    mended_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text=_("When the cause of its rejection was gone: its units are free to be sent anew."),
    )
    error = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ("account", "window_start", "revision")
        indexes = (
            models.Index(
                fields=("account",), condition=models.Q(state__in=["pending", "sending", "delivered", "rejected"]),
                name="usagereport_unsettled",
            ),
        )  # fmt: skip
        constraints = (
            models.UniqueConstraint(
                fields=("account", "meter_id", "window_start", "window_end", "revision"), name="usagereport_once"
            ),
            models.CheckConstraint(
                condition=models.Q(window_start__lt=models.F("window_end")), name="usagereport_window_forward"
            ),
            models.CheckConstraint(
                condition=models.Q(window_start__gte=models.F("period_start")), name="usagereport_window_in_period"
            ),
        )

    def __str__(self) -> str:
        return f"{self.quantity:,} of {self.account.tenant} from {self.window_start:%Y-%m-%d %H:%M} (UTC)"
