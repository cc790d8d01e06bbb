"""Accounts: which terms a tenant is on, how it pays, and what its subscription at Stripe says."""

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from metering.models import MAX_CALLS, Policy

from .plans import PlanVersion


class PaymentState(models.TextChoices):
    """How a tenant stands with its payments. Every change comes from Stripe's subscription, or from the end of the grace days."""

    NONE = "none", _("No subscription: free, or invoiced by agreement")
    TRIALING = "trialing", _("Trial: nothing is due yet")
    ACTIVE = "active", _("Active: paid")
    PAST_DUE = "past_due", _("Past due: a payment failed, service goes on until the grace days end")
    RESTRICTED = "restricted", _("Restricted: calls are refused until the open invoice is paid")


class Account(models.Model):
    """Which terms a tenant is on, and from when its periods count. `accounts.py` pushes them down to metering.

    What Stripe knows is copied here by `subscriptions.py` and only there; without a subscription the Stripe fields are empty.
    """

    tenant = models.OneToOneField("tenants.Tenant", primary_key=True, on_delete=models.CASCADE, related_name="account")
    plan_version = models.ForeignKey(PlanVersion, on_delete=models.PROTECT, related_name="accounts")
    currency = models.CharField(
        max_length=3, default="usd", help_text=_("ISO 4217, lower case; fixed by the first subscription.")
    )
    policy = models.CharField(
        max_length=16, choices=Policy.choices, blank=True,
        help_text=_("What the customer chose for calls beyond the included ones; empty: as the plan says."),
    )  # fmt: skip
    hard_limit = models.BigIntegerField(
        null=True, blank=True, validators=[MinValueValidator(0), MaxValueValidator(MAX_CALLS)],
        help_text=_("Calls per period that the customer will not exceed; empty: none."),
    )  # fmt: skip
    hard_limit_minor = models.BigIntegerField(
        null=True, blank=True, validators=[MinValueValidator(0)],
        help_text=_("Minor units per period that the usage line will not exceed, before tax; empty: none."),
    )  # fmt: skip
    anchor = models.DateTimeField(help_text=_("Periods are this instant plus n months (UTC)."))
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    state = models.CharField(max_length=16, choices=PaymentState.choices, default=PaymentState.NONE)
    customer_id = models.CharField(max_length=255, null=True, blank=True, unique=True, help_text=_("Stripe's cus_..."))
    customer_name = models.CharField(
        max_length=255, blank=True, help_text=_("The tenant's name that Stripe was told last; empty: not known.")
    )
    customer_email = models.CharField(
        max_length=255, blank=True, help_text=_("The billing address that Stripe was told last; empty: not known.")
    )
    subscription_id = models.CharField(
        max_length=255, null=True, blank=True, unique=True, help_text=_("Stripe's sub_...")
    )
    schedule_id = models.CharField(
        max_length=255, blank=True, help_text=_("Stripe's sub_sched_... of a scheduled change.")
    )
    period_start = models.DateTimeField(
        null=True, blank=True, help_text=_("Of the subscription's items, by Stripe (UTC).")
    )
    period_end = models.DateTimeField(
        null=True, blank=True, help_text=_("Of the subscription's items, by Stripe (UTC).")
    )
    trial_ends_at = models.DateTimeField(null=True, blank=True)
    cancels_at = models.DateTimeField(
        null=True, blank=True, help_text=_("When the subscription ends; empty: it goes on (UTC).")
    )
    next_version = models.ForeignKey(
        PlanVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="+",
        help_text=_("The terms from the period's end on, when a change is scheduled."),
    )  # fmt: skip
    past_due_since = models.DateTimeField(null=True, blank=True, help_text=_("Since when a payment is missing (UTC)."))
    fetched_at = models.DateTimeField(
        null=True, blank=True,
        help_text=_("When the reading of Stripe that this row follows began (UTC): an older reading changes nothing."),
    )  # fmt: skip

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=models.Q(hard_limit=None) | models.Q(hard_limit__gte=0, hard_limit__lte=MAX_CALLS),
                name="account_hard_limit_in_range",
            ),
            models.CheckConstraint(
                condition=models.Q(hard_limit_minor=None) | models.Q(hard_limit_minor__gte=0),
                name="account_hard_limit_minor_not_negative",
            ),
            models.CheckConstraint(condition=models.Q(state__in=PaymentState.values), name="account_state_known"),
            models.CheckConstraint(
                condition=models.Q(policy="") | models.Q(policy__in=Policy.values), name="account_policy_known"
            ),
            models.CheckConstraint(
                condition=models.Q(state=PaymentState.NONE) | models.Q(subscription_id__isnull=False),
                name="account_pays_by_subscription",
            ),
            models.CheckConstraint(
                condition=models.Q(
                    state__in=[PaymentState.PAST_DUE, PaymentState.RESTRICTED], past_due_since__isnull=False
                )
                | models.Q(state__in=[PaymentState.TRIALING, PaymentState.ACTIVE], past_due_since=None)
                | models.Q(state=PaymentState.NONE),  # an invoice of a subscription that has ended may be unpaid
                name="account_past_due_since_a_day",
            ),
        )

    def __str__(self) -> str:
        return f"{self.tenant} on {self.plan_version}"
