"""The tables that grow: quota, leases, the call log and the hourly rollup, with their guards.

Every primary key begins with the tenant, so that the same schema can be distributed by it. The call log is partitioned by
day and the rollup by month (`metering/partitions.py` makes and drops the partitions); rows of no partition land in the
default one and are moved when theirs is made. No foreign keys and no CHECK on used against a limit: a call that was
answered is never refused by the ledger.

A call does not name its period: the periods of a tenant tile time, so its time does. A boundary that is learned late changes
no row of the call log.
"""

from django.db import migrations

TABLES = """
CREATE TABLE metering_quota (
    tenant_id uuid NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    included bigint,
    admits bigint,
    used bigint NOT NULL DEFAULT 0,
    reserved bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    refused bigint NOT NULL DEFAULT 0,
    last_grant bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, period_start),
    CONSTRAINT quota_period_not_empty CHECK (period_start < period_end)
) WITH (fillfactor = 50);

CREATE TABLE metering_lease (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    process_id uuid NOT NULL,
    period_start timestamptz NOT NULL,
    units bigint NOT NULL,
    granted_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
) WITH (fillfactor = 70);

CREATE TABLE metering_call (
    tenant_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    id uuid NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    project_id bigint NOT NULL,
    api_key_id bigint NOT NULL,
    capability text NOT NULL,
    outcome text NOT NULL,
    reason text NOT NULL DEFAULT '',
    status smallint NOT NULL,
    calls integer NOT NULL DEFAULT 1,
    units bigint NOT NULL,
    latency_us integer NOT NULL,
    lease_id uuid,
    batch_id uuid NOT NULL,
    PRIMARY KEY (tenant_id, occurred_at, id)
) PARTITION BY RANGE (occurred_at);
CREATE TABLE metering_call_default PARTITION OF metering_call DEFAULT;

CREATE TABLE metering_usage_hour (
    tenant_id uuid NOT NULL,
    hour timestamptz NOT NULL,
    period_start timestamptz NOT NULL,
    project_id bigint NOT NULL,
    api_key_id bigint NOT NULL,
    capability text NOT NULL,
    billable bigint NOT NULL DEFAULT 0,
    units bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    refused bigint NOT NULL DEFAULT 0,
    latency_start smallint NOT NULL DEFAULT 0,
    latency_counts integer[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant_id, hour, period_start, project_id, api_key_id, capability)
) PARTITION BY RANGE (hour);
CREATE TABLE metering_usage_hour_default PARTITION OF metering_usage_hour DEFAULT;

CREATE VIEW metering_quota_row AS
    SELECT tenant_id || ' ' || to_char(period_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS') AS key,
           tenant_id, period_start, period_end, included, admits, used, reserved, failed, refused
    FROM metering_quota;
CREATE VIEW metering_usage_hour_row AS
    SELECT concat_ws(' ', tenant_id, to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24'),
                     to_char(period_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS'), project_id, api_key_id, capability) AS key,
           tenant_id, hour, period_start, project_id, api_key_id, capability, billable, units, failed, refused,
           latency_start, latency_counts
    FROM metering_usage_hour;
"""
TABLES_UNDONE = """
DROP VIEW metering_usage_hour_row, metering_quota_row;
DROP TABLE metering_usage_hour, metering_call, metering_lease, metering_quota;
"""

HISTOGRAM = """
CREATE FUNCTION metering_histogram_start(a_start smallint, a integer[], b_start smallint, b integer[]) RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN cardinality(a) = 0 THEN b_start WHEN cardinality(b) = 0 THEN a_start ELSE least(a_start, b_start) END
$$;
CREATE FUNCTION metering_histogram_sum(a_start smallint, a integer[], b_start smallint, b integer[]) RETURNS integer[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN cardinality(a) = 0 THEN b WHEN cardinality(b) = 0 THEN a ELSE (
        SELECT array_agg(coalesce(a[bucket - a_start + 1], 0) + coalesce(b[bucket - b_start + 1], 0) ORDER BY bucket)
        FROM generate_series(least(a_start, b_start),
                             greatest(a_start + cardinality(a), b_start + cardinality(b)) - 1) AS bucket
    ) END
$$;
"""
HISTOGRAM_UNDONE = """
DROP FUNCTION metering_histogram_sum(smallint, integer[], smallint, integer[]);
DROP FUNCTION metering_histogram_start(smallint, integer[], smallint, integer[]);
"""

# Moving rows out of a default partition and dropping old days are the only exceptions, and say so for their transaction.
APPEND_ONLY = """
CREATE FUNCTION metering_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('meterhouse.moving_rows', true) = 'on' THEN RETURN OLD; END IF;
    RAISE EXCEPTION '% is append-only: % refused. Correct it with an adjustment.', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER call_is_append_only BEFORE UPDATE OR DELETE ON metering_call
    FOR EACH ROW EXECUTE FUNCTION metering_refuse_change();
"""
APPEND_ONLY_UNDONE = """
DROP TRIGGER call_is_append_only ON metering_call;
DROP FUNCTION metering_refuse_change();
"""


class Migration(migrations.Migration):
    dependencies = [("metering", "0001_initial")]

    operations = [
        migrations.RunSQL(TABLES, TABLES_UNDONE),
        migrations.RunSQL(HISTOGRAM, HISTOGRAM_UNDONE),
        migrations.RunSQL(APPEND_ONLY, APPEND_ONLY_UNDONE),
    ]
