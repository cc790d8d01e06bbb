"""Calls that the gateway admitted and whose answer is not known yet: `metering_pending`, and the units that they hold.

Written by a flush, within 50 ms of the answer. Their units leave the lease of the process that admitted them for a lease of the
holder, a process that never dies: so `reserved` = leases at each commit, and nothing that dies gives them back. Whoever settles a
call deletes its row and commits it in one transaction.
"""

from django.db import migrations, models

# No latency is known of a call whose outcome nobody told.
TABLE = """
ALTER TABLE metering_call ALTER COLUMN latency_us DROP NOT NULL;
CREATE TABLE metering_pending (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL,
    project_id bigint NOT NULL,
    api_key_id bigint NOT NULL,
    capability text NOT NULL,
    units bigint NOT NULL,
    admitted_at timestamptz NOT NULL,
    lease_id uuid
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
CREATE INDEX pending_by_time ON metering_pending (admitted_at);
"""
TABLE_UNDONE = "DROP TABLE metering_pending;"

HOLD = """
-- These calls wait for their outcome, and their units belong to the holder; a batch that is in the database already changes nothing.
-- A lease that was reclaimed meanwhile has no units to hand on: its calls wait without. Returns the quotas of now, with what this
-- flush and all that wait hold of them.
CREATE FUNCTION metering_hold(
    p_batch uuid, p_holder uuid, c_tenant uuid[], c_id uuid[], c_project bigint[], c_key bigint[], c_capability text[], c_units bigint[],
    c_at float8[], c_lease uuid[]
) RETURNS TABLE (tenant uuid, start float8, total bigint, recorded bigint, held bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    n record;
    l metering_lease;
    pool uuid;
    given uuid[] := '{}';
    taken uuid[] := '{}';
BEGIN
    INSERT INTO metering_batch (id, committed_at) VALUES (p_batch, clock_timestamp()) ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO metering_process (id, host, pid, started_at, renewed_at, expires_at, counted_to)
    VALUES (p_holder, 'calls that await their outcome', 0, clock_timestamp(), clock_timestamp(), '9000-01-01Z', '9000-01-01Z')
    ON CONFLICT (id) DO NOTHING;

    -- As in metering_commit: quota rows in key order first.
    PERFORM FROM metering_quota q JOIN (
        SELECT DISTINCT l.tenant_id, l.period_start
        FROM unnest(c_tenant, c_lease) AS n (tenant_id, id) JOIN metering_lease l USING (tenant_id, id)
    ) AS k USING (tenant_id, period_start)
    ORDER BY q.tenant_id, q.period_start FOR UPDATE OF q;

    FOR n IN
        SELECT tenant_id, id, sum(units)::bigint AS units FROM unnest(c_tenant, c_lease, c_units) AS n (tenant_id, id, units)
        WHERE id IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2
    LOOP
        SELECT * INTO l FROM metering_lease WHERE tenant_id = n.tenant_id AND id = n.id FOR UPDATE;
        CONTINUE WHEN NOT FOUND OR l.units < n.units;
        IF l.units = n.units THEN
            DELETE FROM metering_lease WHERE tenant_id = n.tenant_id AND id = n.id;
        ELSE
            UPDATE metering_lease SET units = units - n.units WHERE tenant_id = n.tenant_id AND id = n.id;
        END IF;
        SELECT id INTO pool FROM metering_lease
        WHERE tenant_id = n.tenant_id AND process_id = p_holder AND period_start = l.period_start AND project_id = l.project_id
          AND api_key_id = l.api_key_id AND day IS NOT DISTINCT FROM l.day
        LIMIT 1 FOR UPDATE;
        IF FOUND THEN
            UPDATE metering_lease SET units = units + n.units WHERE tenant_id = n.tenant_id AND id = pool;
        ELSE
            pool := gen_random_uuid();
            INSERT INTO metering_lease (tenant_id, id, process_id, period_start, units, granted_at, project_id, api_key_id, day)
            VALUES (l.tenant_id, pool, p_holder, l.period_start, n.units, l.granted_at, l.project_id, l.api_key_id, l.day);
        END IF;
        given := given || n.id;
        taken := taken || pool;
    END LOOP;

    INSERT INTO metering_pending (id, tenant_id, project_id, api_key_id, capability, units, admitted_at, lease_id)
    SELECT n.id, n.tenant_id, n.project_id, n.api_key_id, n.capability, n.units, to_timestamp(n.at), m.taken
    FROM unnest(c_tenant, c_id, c_project, c_key, c_capability, c_units, c_at, c_lease)
      AS n (tenant_id, id, project_id, api_key_id, capability, units, at, lease_id)
    LEFT JOIN unnest(given, taken) AS m (given, taken) ON m.given = n.lease_id;

    RETURN QUERY
    SELECT q.tenant_id, extract(epoch FROM q.period_start)::float8, q.used, n.units, (
        SELECT coalesce(sum(l.units), 0)::bigint FROM metering_lease l
        WHERE l.tenant_id = q.tenant_id AND l.period_start = q.period_start AND l.process_id = p_holder)
    FROM (SELECT tenant_id, max(at) AS at, sum(units)::bigint AS units FROM unnest(c_tenant, c_at, c_units) AS n (tenant_id, at, units)
          GROUP BY 1) AS n
    JOIN metering_quota q ON q.tenant_id = n.tenant_id AND q.period_start <= to_timestamp(n.at) AND q.period_end > to_timestamp(n.at);
END $$;
"""
HOLD_UNDONE = "DROP FUNCTION metering_hold;"


class Migration(migrations.Migration):
    dependencies = [("metering", "0010_where_streams_were_read_to")]
    operations = [
        migrations.AlterField(
            model_name="call",
            name="latency_us",
            field=models.PositiveIntegerField(help_text="Microseconds; empty: not known.", null=True),
        ),
        migrations.RunSQL(TABLE, TABLE_UNDONE),
        migrations.RunSQL(HOLD, HOLD_UNDONE),
    ]
