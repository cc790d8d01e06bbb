from django.db import migrations, models
import django.contrib.postgres.fields
import django.db.models.deletion
import django.utils.timezone
import uuid


class Migration(migrations.Migration):
    initial = True

    dependencies = [("tenants", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="Batch",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("committed_at", models.DateTimeField(db_index=True)),
            ],
            options={
                "verbose_name_plural": "batches",
                "ordering": ("-committed_at",),
            },
        ),
        migrations.CreateModel(
            name="Process",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, primary_key=True, serialize=False)),
                ("host", models.CharField(max_length=120)),
                ("pid", models.PositiveIntegerField()),
                ("started_at", models.DateTimeField()),
                ("renewed_at", models.DateTimeField()),
                ("expires_at", models.DateTimeField(db_index=True)),
                (
                    "counted_to",
                    models.DateTimeField(help_text="All its calls before this instant are in the ledger (UTC)."),
                ),
            ],
            options={
                "verbose_name_plural": "processes",
                "ordering": ("-renewed_at",),
            },
        ),
        migrations.CreateModel(
            name="SetAside",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        help_text="The batch id under which they would have been committed.",
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("tenant_id", models.UUIDField(db_index=True)),
                ("at", models.DateTimeField(default=django.utils.timezone.now)),
                ("calls", models.PositiveIntegerField()),
                ("error", models.TextField()),
                ("records", models.JSONField()),
            ],
            options={
                "verbose_name_plural": "set aside",
                "ordering": ("-at",),
            },
        ),
        migrations.CreateModel(
            name="Allowance",
            fields=[
                (
                    "tenant",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="allowance",
                        serialize=False,
                        to="tenants.tenant",
                    ),
                ),
                (
                    "label",
                    models.CharField(help_text="What to call it to the customer: the plan's name.", max_length=60),
                ),
                (
                    "included",
                    models.BigIntegerField(blank=True, help_text="Calls per period; empty: unlimited.", null=True),
                ),
                (
                    "hard_limit",
                    models.BigIntegerField(
                        blank=True, help_text="Calls per period never to exceed; empty: none.", null=True
                    ),
                ),
                (
                    "policy",
                    models.CharField(
                        choices=[
                            ("block", "Block: calls beyond the included ones are refused"),
                            ("rate", "Rate: calls beyond the included ones are priced per call"),
                            ("upgrade", "Upgrade: move to the next tier with consent, block until then"),
                        ],
                        max_length=16,
                    ),
                ),
                (
                    "on_outage",
                    models.CharField(
                        choices=[
                            ("closed", "Closed: refuse with 503 when the limit cannot be asked"),
                            ("open", "Open: serve, and count later"),
                        ],
                        default="closed",
                        max_length=16,
                    ),
                ),
                ("burst_per_second", models.PositiveIntegerField(help_text="Calls per second.")),
                ("anchor", models.DateTimeField(help_text="Periods are this instant plus n months (UTC).")),
                ("changed_at", models.DateTimeField(db_index=True, default=django.utils.timezone.now)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("included", None),
                            models.Q(("included__gte", 0), ("included__lte", 1000000000000)),
                            _connector="OR",
                        ),
                        name="allowance_included_in_range",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("hard_limit", None),
                            models.Q(("hard_limit__gte", 0), ("hard_limit__lte", 1000000000000)),
                            _connector="OR",
                        ),
                        name="allowance_hard_limit_in_range",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("burst_per_second__gte", 1), ("burst_per_second__lte", 10000000)),
                        name="allowance_burst_in_range",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("policy__in", ["block", "rate", "upgrade"])), name="allowance_policy_known"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("on_outage__in", ["closed", "open"])), name="allowance_on_outage_known"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Call",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        help_text="The call id of the answer; begins with its time.", primary_key=True, serialize=False
                    ),
                ),
                ("occurred_at", models.DateTimeField(help_text="When it was admitted, by database time (UTC).")),
                ("recorded_at", models.DateTimeField(help_text="When it was committed (UTC).")),
                ("capability", models.CharField(max_length=60)),
                (
                    "outcome",
                    models.CharField(
                        choices=[
                            ("billable", "Billable"),
                            ("failed", "Failed, not billed"),
                            ("refused", "Refused, not billed"),
                        ],
                        max_length=16,
                    ),
                ),
                ("reason", models.CharField(blank=True, help_text="Which limit refused it.", max_length=40)),
                ("status", models.PositiveSmallIntegerField()),
                ("calls", models.PositiveIntegerField()),
                ("units", models.BigIntegerField(help_text="Units billed: 0 when failed or refused.")),
                ("latency_us", models.PositiveIntegerField(help_text="Microseconds.")),
                ("lease_id", models.UUIDField(null=True)),
                ("batch_id", models.UUIDField()),
            ],
            options={
                "db_table": "metering_call",
                "ordering": ("-occurred_at",),
                "managed": False,
            },
        ),
        migrations.CreateModel(
            name="Lease",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("process_id", models.UUIDField()),
                ("period_start", models.DateTimeField()),
                ("units", models.BigIntegerField(help_text="Units still reserved by it.")),
                ("granted_at", models.DateTimeField()),
            ],
            options={
                "db_table": "metering_lease",
                "ordering": ("-granted_at",),
                "managed": False,
            },
        ),
        migrations.CreateModel(
            name="Quota",
            fields=[
                ("key", models.CharField(max_length=80, primary_key=True, serialize=False)),
                ("period_start", models.DateTimeField()),
                ("period_end", models.DateTimeField()),
                ("included", models.BigIntegerField(null=True)),
                (
                    "admits",
                    models.BigIntegerField(help_text="Units admitted in the period; empty: no bound.", null=True),
                ),
                ("used", models.BigIntegerField(help_text="Units recorded: equals the ledger's.")),
                ("reserved", models.BigIntegerField(help_text="Units that processes hold on lease.")),
                ("failed", models.BigIntegerField()),
                ("refused", models.BigIntegerField()),
            ],
            options={
                "db_table": "metering_quota_row",
                "ordering": ("-period_start",),
                "managed": False,
            },
        ),
        migrations.CreateModel(
            name="UsageHour",
            fields=[
                ("key", models.CharField(max_length=300, primary_key=True, serialize=False)),
                ("period_start", models.DateTimeField()),
                ("hour", models.DateTimeField()),
                ("capability", models.CharField(max_length=60)),
                ("billable", models.BigIntegerField(help_text="Billable calls.")),
                ("units", models.BigIntegerField(help_text="Units billed.")),
                ("failed", models.BigIntegerField()),
                ("refused", models.BigIntegerField()),
                ("latency_start", models.PositiveSmallIntegerField(help_text="Histogram: the first bucket's index.")),
                (
                    "latency_counts",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.IntegerField(), help_text="Histogram: answered calls by bucket.", size=None
                    ),
                ),
            ],
            options={
                "db_table": "metering_usage_hour_row",
                "ordering": ("-hour",),
                "managed": False,
            },
        ),
    ]
