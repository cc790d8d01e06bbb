"""How much they used: allowances, quotas, leases, the call log and the hourly rollup.

The tables that grow are partitioned and have the tenant first in their composite primary key; their SQL is in the
migrations, and the engine writes them with SQL of its own. Django sees them through unmanaged models with a one-column
key: enough for reading and for the admin. None of them has a foreign key: a recorded call is never refused by one.
"""

import uuid

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .alert_models import Alert, AlertKind, Crossing, CrossingKind

__all__ = [
    "MAX_BURST", "MAX_CALLS", "Adjustment", "AdjustmentKind", "Alert", "AlertKind", "Allowance", "Batch", "Call", "Crossing",
    "CrossingKind", "Lease", "LimitKind", "OnOutage", "Outcome", "Policy", "Process", "Quota", "Recording", "Restriction",
    "SetAside", "SubLimit", "UsageHour", "UsageMonth",
]  # fmt: skip

MAX_CALLS = 10**12
MAX_BURST = 10**7


class Policy(models.TextChoices):
    BLOCK = "block", _("Block: calls beyond the included ones are refused")
    RATE = "rate", _("Rate: calls beyond the included ones are priced per call")
    UPGRADE = "upgrade", _("Upgrade: move to the next tier with consent, block until then")


class OnOutage(models.TextChoices):
    CLOSED = "closed", _("Closed: refuse with 503 when the limit cannot be asked")
    OPEN = "open", _("Open: serve, and count later")


class Recording(models.TextChoices):
    BUFFERED = "buffered", _("Buffered: answered at once, committed within 50 ms")
    DURABLE = "durable", _("Durable: committed before the answer is sent")


class Restriction(models.TextChoices):
    PAYMENT = "payment", _("Payment: an invoice is open beyond the grace days")


class Allowance(models.Model):
    """What metering enforces for a tenant. Billing pushes it down; `label` is for people, nothing here knows plans."""

    tenant = models.OneToOneField(
        "tenants.Tenant", primary_key=True, on_delete=models.CASCADE, related_name="allowance"
    )
    label = models.CharField(max_length=60, help_text=_("What to call it to the customer: the plan's name."))
    included = models.BigIntegerField(null=True, blank=True, help_text=_("Calls per period; empty: unlimited."))
    hard_limit = models.BigIntegerField(
        null=True, blank=True, help_text=_("Calls per period never to exceed; empty: none.")
    )
    policy = models.CharField(max_length=16, choices=Policy.choices)
    on_outage = models.CharField(max_length=16, choices=OnOutage.choices, default=OnOutage.CLOSED)
    recording = models.CharField(
        max_length=16, choices=Recording.choices, default=Recording.BUFFERED, db_default=Recording.BUFFERED
    )
    burst_per_second = models.PositiveIntegerField(help_text=_("Calls per second."))
    restriction = models.CharField(
        max_length=16, choices=Restriction.choices, blank=True, db_default="",
        help_text=_("Why every call is refused; empty: none is for this reason."),
    )  # fmt: skip
    anchor = models.DateTimeField(help_text=_("Periods are this instant plus n months (UTC)."))
    changed_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=models.Q(included=None) | models.Q(included__gte=0, included__lte=MAX_CALLS),
                name="allowance_included_in_range",
            ),
            models.CheckConstraint(
                condition=models.Q(hard_limit=None) | models.Q(hard_limit__gte=0, hard_limit__lte=MAX_CALLS),
                name="allowance_hard_limit_in_range",
            ),
            models.CheckConstraint(
                condition=models.Q(burst_per_second__gte=1, burst_per_second__lte=MAX_BURST),
                name="allowance_burst_in_range",
            ),
            models.CheckConstraint(condition=models.Q(policy__in=Policy.values), name="allowance_policy_known"),
            models.CheckConstraint(condition=models.Q(on_outage__in=OnOutage.values), name="allowance_on_outage_known"),
            models.CheckConstraint(
                condition=models.Q(recording__in=Recording.values), name="allowance_recording_known"
            ),
            models.CheckConstraint(
                condition=models.Q(restriction="") | models.Q(restriction__in=Restriction.values),
                name="allowance_restriction_known",
            ),
        )

    def __str__(self) -> str:
        return f"{self.label} of {self.tenant}"

    @property
    def admits(self) -> int | None:
        """Calls that are admitted in a period; None without a bound."""
        bounds = [self.hard_limit, self.included if self.policy != Policy.RATE else None]
        return min((bound for bound in bounds if bound is not None), default=None)


class LimitKind(models.TextChoices):
    DAY = "day", _("Daily cap of the tenant (UTC day)")
    PROJECT = "project", _("Limit of a project per period")
    KEY = "key", _("Limit of an API key per period")


class SubLimit(models.Model):
    """A limit that the customer sets below the allowance: a daily cap, or what one project or key may use in a period."""

    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.CASCADE, related_name="sub_limits")
    kind = models.CharField(max_length=16, choices=LimitKind.choices)
    subject_id = models.BigIntegerField(default=0, help_text=_("Id of the project or API key; 0 for the daily cap."))
    calls = models.BigIntegerField(help_text=_("Units that are admitted in the day or period."))
    set_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name = _("sub-limit")
        ordering = ("tenant", "kind", "subject_id")
        constraints = (
            models.UniqueConstraint(fields=("tenant", "kind", "subject_id"), name="sublimit_once_for_each_subject"),
            models.CheckConstraint(
                condition=models.Q(calls__gte=0, calls__lte=MAX_CALLS), name="sublimit_calls_in_range"
            ),
            models.CheckConstraint(
                condition=models.Q(kind=LimitKind.DAY, subject_id=0)
                | models.Q(kind__in=[LimitKind.PROJECT, LimitKind.KEY], subject_id__gt=0),
                name="sublimit_names_its_subject",
            ),
        )

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {self.tenant}: {self.calls:,}"


class Process(models.Model):
    """A process that holds leases. Its units come back when `expires_at` has passed."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    host = models.CharField(max_length=120)
    pid = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    renewed_at = models.DateTimeField()
    expires_at = models.DateTimeField(db_index=True)
    counted_to = models.DateTimeField(help_text=_("All its calls before this instant are in the ledger (UTC)."))

    class Meta:
        verbose_name_plural = _("processes")
        ordering = ("-renewed_at",)

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class Batch(models.Model):
    """A committed flush. Its id is unique, so a retry after an ambiguous commit changes nothing."""

    id = models.UUIDField(primary_key=True)
    committed_at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name_plural = _("batches")
        ordering = ("-committed_at",)

    def __str__(self) -> str:
        return str(self.id)


class SetAside(models.Model):
    """Records that the ledger could not take, with the reason; the rest of their batch was committed."""

    id = models.UUIDField(primary_key=True, help_text=_("The batch id under which they would have been committed."))
    tenant_id = models.UUIDField(db_index=True)
    at = models.DateTimeField(default=timezone.now)
    calls = models.PositiveIntegerField()
    error = models.TextField()
    records = models.JSONField()

    class Meta:
        verbose_name_plural = _("set aside")
        ordering = ("-at",)

    def __str__(self) -> str:
        return f"{self.calls} calls of {self.tenant_id}"


class Outcome(models.TextChoices):
    BILLABLE = "billable", _("Billable")
    FAILED = "failed", _("Failed, not billed")
    REFUSED = "refused", _("Refused, not billed")


class Quota(models.Model):
    """What a tenant used in a period (view `metering_quota_row` over the table `metering_quota`)."""

    key = models.CharField(primary_key=True, max_length=80)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    included = models.BigIntegerField(null=True)
    admits = models.BigIntegerField(null=True, help_text=_("Units admitted in the period; empty: no bound."))
    used = models.BigIntegerField(help_text=_("Units recorded: equals the ledger's."))
    reserved = models.BigIntegerField(help_text=_("Units that processes hold on lease."))
    failed = models.BigIntegerField()
    refused = models.BigIntegerField()

    class Meta:
        managed = False
        db_table = "metering_quota_row"
        ordering = ("-period_start",)

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.period_start:%Y-%m-%d}"


class Lease(models.Model):
    """Units that a process took ahead of use (view `metering_lease_row`)."""

    id = models.UUIDField(primary_key=True)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    process_id = models.UUIDField()
    period_start = models.DateTimeField()
    units = models.BigIntegerField(help_text=_("Units still reserved by it."))
    granted_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "metering_lease"
        ordering = ("-granted_at",)

    def __str__(self) -> str:
        return str(self.id)


class Call(models.Model):
    """The ledger: one row a metered call; floods of refused calls share rows (`calls` says how many). Append-only.

    Its period is the one that holds `occurred_at`.
    """

    id = models.UUIDField(primary_key=True, help_text=_("The call id of the answer; begins with its time."))
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    occurred_at = models.DateTimeField(help_text=_("When it was admitted, by database time (UTC)."))
    recorded_at = models.DateTimeField(help_text=_("When it was committed (UTC)."))
    project = models.ForeignKey("tenants.Project", on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    api_key = models.ForeignKey("tenants.ApiKey", on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    capability = models.CharField(max_length=60)
    outcome = models.CharField(max_length=16, choices=Outcome.choices)
    reason = models.CharField(max_length=40, blank=True, help_text=_("Which limit refused it."))
    status = models.PositiveSmallIntegerField()
    calls = models.PositiveIntegerField()
    units = models.BigIntegerField(help_text=_("Units billed: 0 when failed or refused."))
    latency_us = models.PositiveIntegerField(null=True, help_text=_("Microseconds; empty: not known."))
    lease_id = models.UUIDField(null=True)
    batch_id = models.UUIDField()

    class Meta:
        managed = False
        db_table = "metering_call"
        ordering = ("-occurred_at",)

    def __str__(self) -> str:
        return str(self.id)


class UsageHour(models.Model):
    """The rollup (view `metering_usage_hour_row` over the table `metering_usage_hour`)."""

    key = models.CharField(primary_key=True, max_length=300)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    period_start = models.DateTimeField()
    hour = models.DateTimeField()
    project = models.ForeignKey("tenants.Project", on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    api_key = models.ForeignKey("tenants.ApiKey", on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    capability = models.CharField(max_length=60)
    billable = models.BigIntegerField(help_text=_("Billable calls."))
    units = models.BigIntegerField(help_text=_("Units billed."))
    failed = models.BigIntegerField()
    refused = models.BigIntegerField()
    latency_start = models.PositiveSmallIntegerField(help_text=_("Histogram: the first bucket's index."))
    latency_counts = ArrayField(models.IntegerField(), help_text=_("Histogram: answered calls by bucket."))

    class Meta:
        managed = False
        db_table = "metering_usage_hour_row"
        ordering = ("-hour",)

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.hour:%Y-%m-%d %H}h {self.capability}"


class UsageMonth(models.Model):
    """A tenant's calendar month (UTC), written with each flush (view `metering_usage_month_row` over `metering_usage_month`)."""

    key = models.CharField(primary_key=True, max_length=60)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    month = models.DateTimeField()
    billable = models.BigIntegerField(help_text=_("Billable calls."))
    units = models.BigIntegerField(help_text=_("Units billed."))
    failed = models.BigIntegerField()
    refused = models.BigIntegerField()

    class Meta:
        managed = False
        db_table = "metering_usage_month_row"
        ordering = ("-month", "-units")

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.month:%Y-%m}"


class AdjustmentKind(models.TextChoices):
    VOID = "void", _("Void: cancels a recorded call")
    AMEND = "amend", _("Amend: changes the units of a recorded call")
    BACKFILL = "backfill", _("Backfill: adds calls that were served and not recorded")


class Adjustment(models.Model):
    """A correction of the ledger. Append-only: it adds or takes away, and the call it corrects stays as it was recorded."""

    id = models.UUIDField(primary_key=True)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    kind = models.CharField(max_length=16, choices=AdjustmentKind.choices)
    call_id = models.UUIDField(null=True, help_text=_("The call that is voided or amended."))
    occurred_at = models.DateTimeField(help_text=_("When the calls were made (UTC)."))
    period_start = models.DateTimeField()
    project = models.ForeignKey("tenants.Project", on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    api_key = models.ForeignKey("tenants.ApiKey", on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    capability = models.CharField(max_length=60)
    calls = models.BigIntegerField(help_text=_("Billable calls added; -1 for a void."))
    units = models.BigIntegerField(help_text=_("Units added; negative takes away."))
    actor = models.CharField(max_length=254)
    reason = models.TextField()
    source = models.CharField(max_length=200, blank=True, help_text=_("Where it comes from: a ticket, a file."))
    created_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "metering_adjustment"
        ordering = ("-created_at",)

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.units:+,} units"
