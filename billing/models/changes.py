"""Changes of plan on their way to Stripe, and the customer's consent to automatic ones."""

import uuid

from django.core.validators import MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from metering.models import Policy

from .accounts import Account
from .plans import PlanVersion


class Consent(models.Model):
    """A customer agreed to be moved to a next tier at stated prices. Never changed; an end is written beside it."""

    class End(models.TextChoices):
        USED = "used", _("The upgrade happened")
        WITHDRAWN = "withdrawn", _("The customer withdrew it")
        UNDONE = "undone", _("The customer undid an announced upgrade")
        FAILED = "failed", _("The payment was refused")
        OVERTAKEN = "overtaken", _("The plan changed otherwise")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="consents")
    from_version = models.ForeignKey(PlanVersion, on_delete=models.PROTECT, related_name="+")
    to_version = models.ForeignKey(PlanVersion, on_delete=models.PROTECT, related_name="+")
    currency = models.CharField(max_length=3)
    fee_minor = models.BigIntegerField(help_text=_("The fee of a period that was agreed to, in minor units."))
    bridge_calls = models.BigIntegerField(
        default=0, validators=[MinValueValidator(0)],
        help_text=_("From a plan without a price per call: calls served while the upgrade is made, free if it fails."),
    )  # fmt: skip
    fallback = models.CharField(
        max_length=16, choices=[(Policy.BLOCK.value, Policy.BLOCK.label), (Policy.RATE.value, Policy.RATE.label)],
        help_text=_("What happens to calls beyond the included ones when the upgrade fails or is undone."),
    )  # fmt: skip
    text = models.TextField(help_text=_("What the customer read and agreed to."))
    given_by = models.CharField(max_length=254)
    given_at = models.DateTimeField(default=timezone.now, editable=False)
    ended_at = models.DateTimeField(null=True, blank=True, editable=False)
    end = models.CharField(max_length=16, choices=End.choices, blank=True, editable=False)

    class Meta:
        ordering = ("-given_at",)
        constraints = (
            models.UniqueConstraint(
                fields=("account",), condition=models.Q(ended_at=None), name="consent_one_for_each_account"
            ),
            models.CheckConstraint(condition=models.Q(fee_minor__gte=0), name="consent_fee_not_negative"),
            models.CheckConstraint(condition=models.Q(bridge_calls__gte=0), name="consent_bridge_not_negative"),
            models.CheckConstraint(
                condition=models.Q(fallback__in=[Policy.BLOCK, Policy.RATE]), name="consent_fallback_known"
            ),
            models.CheckConstraint(
                condition=models.Q(ended_at=None, end="") | (models.Q(ended_at__isnull=False) & ~models.Q(end="")),
                name="consent_end_has_a_reason",
            ),
        )

    def __str__(self) -> str:
        return f"{self.account.tenant}: to {self.to_version} for {self.fee_minor} {self.currency}"


class PlanChange(models.Model):
    """One change of an account's plan, from request to Stripe. Its id makes every step's idempotency key."""

    class Kind(models.TextChoices):
        UPGRADE = "upgrade", _("Upgrade, at once")
        AUTOMATIC = "automatic", _("Automatic upgrade, by consent")
        DOWNGRADE = "downgrade", _("Downgrade, at the period's end")
        CANCEL = "cancel", _("Cancellation, at the period's end")
        REACTIVATE = "reactivate", _("A scheduled change or cancellation is taken back")

    class State(models.TextChoices):
        ANNOUNCED = "announced", _("Announced: may be undone until due_at")
        SETTLING = "settling", _("The calls so far are being counted and sent to Stripe")
        APPLYING = "applying", _("Stripe is being asked")
        APPLIED = "applied", _("Done")
        FAILED = "failed", _("Refused; nothing changed")
        UNDONE = "undone", _("Undone by the customer; nothing changed")

    OPEN_STATES = (State.ANNOUNCED, State.SETTLING, State.APPLYING)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="changes")
    kind = models.CharField(max_length=16, choices=Kind.choices)
    state = models.CharField(max_length=16, choices=State.choices)
    from_version = models.ForeignKey(PlanVersion, on_delete=models.PROTECT, related_name="+")
    to_version = models.ForeignKey(PlanVersion, on_delete=models.PROTECT, related_name="+")
    consent = models.OneToOneField(Consent, null=True, blank=True, on_delete=models.PROTECT, related_name="change")
    requested_by = models.CharField(max_length=254)
    requested_at = models.DateTimeField(default=timezone.now, editable=False)
    due_at = models.DateTimeField(
        help_text=_("Not before this instant; of an automatic one the end of the undo window (UTC).")
    )
    cut_at = models.DateTimeField(
        null=True, blank=True, help_text=_("Calls from this instant on belong to the new terms (UTC).")
    )
    previewed_minor = models.BigIntegerField(
        null=True, blank=True, help_text=_("What the customer was told is due at once.")
    )
    proration_at = models.DateTimeField(
        null=True, blank=True, help_text=_("The instant that the preview was made for (UTC).")
    )
    items = models.JSONField(
        default=list, blank=True, help_text=_("Ids of the subscription items that the change made.")
    )
    failure = models.CharField(
        max_length=300, blank=True, help_text=_("Why Stripe refused, in words for the customer.")
    )
    ended_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ("-requested_at",)
        constraints = (
            models.UniqueConstraint(
                fields=("account",),
                condition=models.Q(state__in=("announced", "settling", "applying")),
                name="planchange_one_open_for_each_account",
            ),
            models.CheckConstraint(
                condition=~models.Q(kind="automatic") | models.Q(consent__isnull=False),
                name="planchange_automatic_by_consent",
            ),
        )

    def __str__(self) -> str:
        return f"{self.account.tenant}: {self.from_version} to {self.to_version} ({self.state})"

    @property
    def is_open(self) -> bool:
        return self.state in self.OPEN_STATES
