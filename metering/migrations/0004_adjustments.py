"""Adjustments: corrections are new rows of the ledger, never changes of old ones. The one change that they may see is of the
period that they belong to, when a boundary is learned late (`metering/boundaries.py`).
"""

from django.db import migrations, models

TABLE = """
CREATE TABLE metering_adjustment (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    kind text NOT NULL,
    call_id uuid,
    occurred_at timestamptz NOT NULL,
    period_start timestamptz NOT NULL,
    project_id bigint NOT NULL,
    api_key_id bigint NOT NULL,
    capability text NOT NULL,
    calls bigint NOT NULL,
    units bigint NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    source text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT adjustment_signs_match_kind CHECK (
        (kind = 'void' AND call_id IS NOT NULL AND calls = -1 AND units <= 0)
        OR (kind = 'amend' AND call_id IS NOT NULL AND calls = 0 AND units <> 0)
        OR (kind = 'backfill' AND call_id IS NULL AND calls > 0 AND units >= 0)),
    CONSTRAINT adjustment_says_why CHECK (btrim(reason) <> '' AND btrim(actor) <> '')
);
CREATE UNIQUE INDEX adjustment_voids_a_call_once ON metering_adjustment (tenant_id, call_id) WHERE kind = 'void';
CREATE INDEX adjustment_by_period ON metering_adjustment (tenant_id, period_start, created_at);
CREATE INDEX adjustment_by_time ON metering_adjustment (created_at);
"""

# Moving between periods is the only exception, and is said for one transaction.
APPEND_ONLY = """
CREATE FUNCTION metering_refuse_adjustment_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND current_setting('meterhouse.moving_boundary', true) = 'on'
       AND to_jsonb(OLD) - 'period_start' = to_jsonb(NEW) - 'period_start' THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% is append-only: % refused. Correct it with an adjustment.', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER adjustment_is_append_only BEFORE UPDATE OR DELETE ON metering_adjustment
    FOR EACH ROW EXECUTE FUNCTION metering_refuse_adjustment_change();
"""
APPEND_ONLY_UNDONE = """
DROP TRIGGER adjustment_is_append_only ON metering_adjustment;
DROP FUNCTION metering_refuse_adjustment_change();
"""
VIEW = """
CREATE VIEW metering_usage_month_row AS
    SELECT tenant_id || ' ' || to_char(month AT TIME ZONE 'UTC', 'YYYY-MM') AS key, tenant_id, month, billable, units, failed, refused
    FROM metering_usage_month;
"""


class Migration(migrations.Migration):
    dependencies = [("metering", "0003_limits")]

    operations = [
        migrations.RunSQL(TABLE, "DROP TABLE metering_adjustment;"),
        migrations.RunSQL(APPEND_ONLY, APPEND_ONLY_UNDONE),
        migrations.RunSQL(VIEW, "DROP VIEW metering_usage_month_row;"),
        migrations.CreateModel(
            name="Adjustment",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("void", "Void: cancels a recorded call"),
                            ("amend", "Amend: changes the units of a recorded call"),
                            ("backfill", "Backfill: adds calls that were served and not recorded"),
                        ],
                        max_length=16,
                    ),
                ),
                ("call_id", models.UUIDField(help_text="The call that is voided or amended.", null=True)),
                ("occurred_at", models.DateTimeField(help_text="When the calls were made (UTC).")),
                ("period_start", models.DateTimeField()),
                ("capability", models.CharField(max_length=60)),
                ("calls", models.BigIntegerField(help_text="Billable calls added; -1 for a void.")),
                ("units", models.BigIntegerField(help_text="Units added; negative takes away.")),
                ("actor", models.CharField(max_length=254)),
                ("reason", models.TextField()),
                (
                    "source",
                    models.CharField(blank=True, help_text="Where it comes from: a ticket, a file.", max_length=200),
                ),
                ("created_at", models.DateTimeField()),
            ],
            options={"db_table": "metering_adjustment", "ordering": ("-created_at",), "managed": False},
        ),
        migrations.CreateModel(
            name="UsageMonth",
            fields=[
                ("key", models.CharField(max_length=60, primary_key=True, serialize=False)),
                ("month", models.DateTimeField()),
                ("billable", models.BigIntegerField(help_text="Billable calls.")),
                ("units", models.BigIntegerField(help_text="Units billed.")),
                ("failed", models.BigIntegerField()),
                ("refused", models.BigIntegerField()),
            ],
            options={"db_table": "metering_usage_month_row", "ordering": ("-month", "-units"), "managed": False},
        ),
    ]
