"""Plans: tiers as sold, and the terms of each version."""

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from metering.models import MAX_BURST, MAX_CALLS, Policy


class Plan(models.Model):
    """A tier as sold. What it contains is in its versions."""

    code = models.SlugField(max_length=30, unique=True)
    name = models.CharField(max_length=60)
    rank = models.PositiveSmallIntegerField(unique=True, help_text=_("Order of the tiers, the smallest first."))
    is_custom = models.BooleanField(
        default=False, help_text=_("Sold by agreement: each tenant has a version of its own.")
    )

    class Meta:
        ordering = ("rank",)

    def __str__(self) -> str:
        return self.name


class PlanVersion(models.Model):
    """The terms of a plan. Once an account has been on it, a database trigger refuses every change (`used_at`)."""

    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="versions")
    tenant = models.ForeignKey(
        "tenants.Tenant", null=True, blank=True, on_delete=models.PROTECT, related_name="+",
        help_text=_("Empty: public. Otherwise terms agreed with this tenant alone."),
    )  # fmt: skip
    number = models.PositiveIntegerField()
    currency = models.CharField(max_length=3, default="usd", help_text=_("ISO 4217, lower case."))
    fee_minor = models.BigIntegerField(
        help_text=_("Price of a period in minor units (cents)."), validators=[MinValueValidator(0)]
    )
    included = models.BigIntegerField(
        null=True, blank=True, validators=[MinValueValidator(0), MaxValueValidator(MAX_CALLS)],
        help_text=_("Calls per period that the fee covers; empty: unlimited."),
    )  # fmt: skip
    hard_limit = models.BigIntegerField(
        null=True, blank=True, validators=[MinValueValidator(0), MaxValueValidator(MAX_CALLS)],
        help_text=_("Agreed calls per period never to exceed; empty: none."),
    )  # fmt: skip
    policy = models.CharField(max_length=16, choices=Policy.choices)
    unit_price_minor = models.DecimalField(
        max_digits=24, decimal_places=12, default=0, validators=[MinValueValidator(0)],
        help_text=_("Price of one call beyond the included ones, in minor units (0.025 = $0.25 per 1,000)."),
    )  # fmt: skip
    steps = models.JSONField(
        default=list, blank=True,
        help_text=_(
            'Prices of calls beyond the included ones, by step; empty: all at the unit price. '
            '[{"up_to": 1000000, "unit_price_minor": "0.02"}, {"up_to": null, "unit_price_minor": "0.01"}]: '
            "up_to counts calls beyond the included ones, null is the last step."
        ),
    )  # fmt: skip
    minimum_minor = models.BigIntegerField(
        default=0, validators=[MinValueValidator(0)],
        help_text=_("Minimum commitment of a period in minor units: fee and calls together cost at least this."),
    )  # fmt: skip
    currency_options = models.JSONField(
        default=dict, blank=True,
        help_text=_(
            "The same terms in other currencies: "
            '{"eur": {"fee_minor": 1800, "unit_price_minor": "0.023", "steps": [], "minimum_minor": 0}}.'
        ),
    )  # fmt: skip
    trial_days = models.PositiveSmallIntegerField(default=0, help_text=_("Free days before the first fee; 0: none."))
    burst_per_second = models.PositiveIntegerField(validators=[MinValueValidator(1), MaxValueValidator(MAX_BURST)])
    max_projects = models.PositiveIntegerField(null=True, blank=True, help_text=_("Empty: unlimited."))
    support = models.CharField(max_length=60, help_text=_("For example: email support."))
    sla = models.CharField(max_length=60, blank=True, help_text=_("For example: 99.9 % per month."))
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    used_at = models.DateTimeField(null=True, editable=False, help_text=_("Since when it cannot be changed (UTC)."))

    class Meta:
        ordering = ("plan", "number")
        constraints = (
            models.UniqueConstraint(
                fields=("plan", "tenant", "number"), nulls_distinct=False, name="planversion_number_unique"
            ),
            models.CheckConstraint(condition=models.Q(fee_minor__gte=0), name="planversion_fee_not_negative"),
            models.CheckConstraint(condition=models.Q(unit_price_minor__gte=0), name="planversion_price_not_negative"),
            models.CheckConstraint(condition=models.Q(minimum_minor__gte=0), name="planversion_minimum_not_negative"),
            models.CheckConstraint(
                condition=models.Q(included=None) | models.Q(included__gte=0, included__lte=MAX_CALLS),
                name="planversion_included_in_range",
            ),
            models.CheckConstraint(
                condition=models.Q(hard_limit=None) | models.Q(hard_limit__gte=0, hard_limit__lte=MAX_CALLS),
                name="planversion_hard_limit_in_range",
            ),
            models.CheckConstraint(
                condition=models.Q(burst_per_second__gte=1, burst_per_second__lte=MAX_BURST),
                name="planversion_burst_in_range",
            ),
            models.CheckConstraint(condition=models.Q(policy__in=Policy.values), name="planversion_policy_known"),
        )

    def __str__(self) -> str:
        return f"{self.plan} v{self.number}" + (" (agreed)" if self.tenant_id else "")
