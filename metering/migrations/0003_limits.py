"""Several limits at once, and the two statements of the engine as functions: `metering_grant` and `metering_commit`.

A lease holds units of the period's quota and, at the same time, of each narrower limit that applies to it: the daily cap,
the project's limit, the key's limit. What those limits have used and reserved stands in `metering_window`, written in the
same commits as the quota; a window that is missing is made from the usage hours, under the quota's lock.

Functions, because each is one round trip then: a grant with its reclaim, and a whole flush.
"""

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

TABLES = """
CREATE TABLE metering_usage_month (
    tenant_id uuid NOT NULL,
    month timestamptz NOT NULL,
    billable bigint NOT NULL DEFAULT 0,
    units bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    refused bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, month)
) WITH (fillfactor = 50);
INSERT INTO metering_usage_month
    SELECT tenant_id, date_trunc('month', hour, 'UTC'), sum(billable), sum(units), sum(failed), sum(refused)
    FROM metering_usage_hour GROUP BY 1, 2;
CREATE INDEX usage_month_by_month ON metering_usage_month (month, tenant_id);
CREATE TABLE metering_window (
    tenant_id uuid NOT NULL,
    kind text NOT NULL,
    subject_id bigint NOT NULL,
    window_start timestamptz NOT NULL,
    used bigint NOT NULL DEFAULT 0,
    reserved bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, kind, subject_id, window_start)
) WITH (fillfactor = 50);
ALTER TABLE metering_lease
    ADD COLUMN project_id bigint NOT NULL DEFAULT 0,
    ADD COLUMN api_key_id bigint NOT NULL DEFAULT 0,
    ADD COLUMN day timestamptz;
ALTER TABLE metering_quota DROP COLUMN last_grant;
"""
TABLES_UNDONE = """
ALTER TABLE metering_quota ADD COLUMN last_grant bigint NOT NULL DEFAULT 0;
ALTER TABLE metering_lease DROP COLUMN project_id, DROP COLUMN api_key_id, DROP COLUMN day;
DROP TABLE metering_window, metering_usage_month;
"""

# The same sums as in 0002, by a loop: three times as fast as array_agg over generate_series.
HISTOGRAM = """
CREATE OR REPLACE FUNCTION metering_histogram_sum(a_start smallint, a integer[], b_start smallint, b integer[]) RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    total integer[];
    shift integer;
BEGIN
    IF cardinality(a) = 0 THEN RETURN b; END IF;
    IF cardinality(b) = 0 THEN RETURN a; END IF;
    IF a_start > b_start THEN RETURN metering_histogram_sum(b_start, b, a_start, a); END IF;
    total := a;
    shift := b_start - a_start;
    FOR place IN cardinality(a) + 1 .. shift LOOP
        total[place] := 0;
    END LOOP;
    FOR place IN 1 .. cardinality(b) LOOP
        total[shift + place] := coalesce(total[shift + place], 0) + b[place];
    END LOOP;
    RETURN total;
END $$;
"""

RECLAIM = """
-- Units that dead processes held of a quota and of its windows are free again; whether there were any.
-- A database that has just come back gives every process one lease time to renew first.
CREATE FUNCTION metering_reclaim(p_tenant uuid, p_start timestamptz, p_lease_seconds float8) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    patience interval := make_interval(secs => p_lease_seconds);
BEGIN
    IF pg_postmaster_start_time() > clock_timestamp() - patience THEN
        RETURN false;
    END IF;
    PERFORM FROM metering_quota WHERE tenant_id = p_tenant AND period_start = p_start FOR UPDATE;
    WITH dead AS (
        DELETE FROM metering_lease l
        WHERE l.tenant_id = p_tenant AND l.period_start = p_start AND l.granted_at < clock_timestamp() - patience
          AND NOT EXISTS (SELECT FROM metering_process p WHERE p.id = l.process_id AND p.expires_at > clock_timestamp())
        RETURNING l.units, l.project_id, l.api_key_id, l.day
    ), windows AS (
        UPDATE metering_window w SET reserved = w.reserved - n.units
        FROM (
            SELECT kind, subject_id, window_start, sum(units) AS units
            FROM dead CROSS JOIN LATERAL (VALUES ('day', 0, day), ('project', project_id, p_start), ('key', api_key_id, p_start))
                AS held (kind, subject_id, window_start)
            GROUP BY 1, 2, 3
        ) AS n
        WHERE w.tenant_id = p_tenant AND w.kind = n.kind AND w.subject_id = n.subject_id AND w.window_start = n.window_start
    )
    UPDATE metering_quota SET reserved = reserved - (SELECT sum(units) FROM dead)
    WHERE tenant_id = p_tenant AND period_start = p_start AND EXISTS (SELECT FROM dead);
    RETURN FOUND;
END $$;
"""

GRANT = """
-- What is left of one narrower limit; its window is made when it is missing. Under the quota's lock only.
CREATE FUNCTION metering_window_use(p_tenant uuid, p_period timestamptz, p_kind text, p_subject bigint, p_start timestamptz,
                                    OUT used bigint, OUT reserved bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    SELECT w.used, w.reserved INTO used, reserved FROM metering_window w
    WHERE w.tenant_id = p_tenant AND w.kind = p_kind AND w.subject_id = p_subject AND w.window_start = p_start;
    IF FOUND THEN
        RETURN;
    END IF;
    SELECT coalesce(sum(h.units), 0) INTO used FROM metering_usage_hour h
    WHERE h.tenant_id = p_tenant AND CASE p_kind
        WHEN 'day' THEN h.hour >= p_start AND h.hour < p_start + interval '1 day'
        WHEN 'project' THEN h.period_start = p_period AND h.project_id = p_subject
        ELSE h.period_start = p_period AND h.api_key_id = p_subject
    END;
    SELECT coalesce(sum(l.units), 0) INTO reserved FROM metering_lease l
    WHERE l.tenant_id = p_tenant AND CASE p_kind
        WHEN 'day' THEN l.day = p_start
        WHEN 'project' THEN l.period_start = p_period AND l.project_id = p_subject
        ELSE l.period_start = p_period AND l.api_key_id = p_subject
    END;
    INSERT INTO metering_window (tenant_id, kind, subject_id, window_start, used, reserved)
    VALUES (p_tenant, p_kind, p_subject, p_start, used, reserved);
END $$;

-- Takes units for a lease from the running period's quota and from every narrower limit that applies to this project and
-- key, or from none of them. No units and no `refused_by`: the period has not been opened, or there is no allowance.
-- Concurrent grants of a tenant queue up on its quota row, and each sees what the one before left.
CREATE FUNCTION metering_grant(
    p_tenant uuid, p_project bigint, p_key bigint, p_now timestamptz, p_want bigint, p_cost bigint, p_share bigint,
    p_lease uuid, p_process uuid, p_lease_seconds float8,
    OUT units bigint, OUT spare bigint, OUT lease_until float8, OUT refused_by text, OUT refused_limit bigint, OUT refused_used bigint, OUT refused_end float8,
    OUT used bigint, OUT included bigint, OUT admits bigint, OUT period_start float8, OUT period_end float8, OUT anchor timestamptz,
    OUT label text, OUT policy text, OUT on_outage text, OUT recording text, OUT burst_per_second bigint,
    OUT daily_cap bigint, OUT limited_projects bigint[], OUT limited_keys bigint[], OUT database_now float8
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    q metering_quota;
    a metering_allowance;
    l record;
    use record;
    free bigint;
    today timestamptz := date_trunc('day', p_now, 'UTC');
    of_project bigint := 0;
    of_key bigint := 0;
    of_day timestamptz;
BEGIN
    FOR attempt IN 1 .. 2 LOOP
        SELECT * INTO q FROM metering_quota
        WHERE tenant_id = p_tenant AND period_start <= p_now AND period_end > p_now FOR UPDATE;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        IF attempt = 1 THEN
            SELECT * INTO a FROM metering_allowance WHERE tenant_id = p_tenant;
            IF NOT FOUND THEN
                RETURN;
            END IF;
            SELECT max(calls) FILTER (WHERE kind = 'day'), array_agg(subject_id) FILTER (WHERE kind = 'project'),
                   array_agg(subject_id) FILTER (WHERE kind = 'key')
            INTO daily_cap, limited_projects, limited_keys FROM metering_sublimit WHERE tenant_id = p_tenant;
        END IF;
        refused_by := NULL;
        free := q.admits - q.used - q.reserved;
        IF a.restriction <> '' THEN
            refused_by := 'restriction';
            refused_limit := 0;
            refused_used := q.used;
            refused_end := extract(epoch FROM q.period_end);
            EXIT;
        END IF;
        IF free < p_cost THEN
            refused_by := CASE WHEN q.admits = a.hard_limit AND (a.policy = 'rate' OR a.included IS NULL OR a.hard_limit < a.included)
                               THEN 'hard_limit' ELSE 'quota' END;
            refused_limit := q.admits;
            refused_used := q.used;
            refused_end := extract(epoch FROM q.period_end);
        END IF;
        IF daily_cap IS NOT NULL OR p_project = ANY(limited_projects) OR p_key = ANY(limited_keys) THEN
            FOR l IN
                SELECT kind, subject_id, calls, CASE kind WHEN 'day' THEN today ELSE q.period_start END AS window_start,
                       CASE kind WHEN 'day' THEN today + interval '1 day' ELSE q.period_end END AS window_end
                FROM metering_sublimit
                WHERE tenant_id = p_tenant AND (kind = 'day' OR (kind = 'project' AND subject_id = p_project)
                                                OR (kind = 'key' AND subject_id = p_key))
                ORDER BY kind, subject_id
            LOOP
                SELECT * INTO use FROM metering_window_use(p_tenant, q.period_start, l.kind, l.subject_id, l.window_start);
                free := least(free, l.calls - use.used - use.reserved);
                IF l.calls - use.used - use.reserved < p_cost AND (refused_by IS NULL OR extract(epoch FROM l.window_end) > refused_end) THEN
                    refused_by := CASE l.kind WHEN 'day' THEN 'daily_cap' WHEN 'project' THEN 'project_limit' ELSE 'key_limit' END;
                    refused_limit := l.calls;
                    refused_used := use.used;
                    refused_end := extract(epoch FROM l.window_end);
                END IF;
                CASE l.kind
                    WHEN 'day' THEN of_day := today;
                    WHEN 'project' THEN of_project := l.subject_id;
                    ELSE of_key := l.subject_id;
                END CASE;
            END LOOP;
        END IF;
        EXIT WHEN refused_by IS NULL OR attempt = 2 OR NOT metering_reclaim(p_tenant, q.period_start, p_lease_seconds);
    END LOOP;

    units := 0;
    IF refused_by IS NULL THEN
        units := least(greatest(p_want, p_cost), greatest(p_cost, coalesce(free / p_share, p_want)));
        units := units - units % p_cost;
        UPDATE metering_quota SET reserved = reserved + units WHERE tenant_id = p_tenant AND period_start = q.period_start;
        IF of_day IS NOT NULL OR of_project <> 0 OR of_key <> 0 THEN
            UPDATE metering_window SET reserved = reserved + units
            WHERE tenant_id = p_tenant AND (
                (kind = 'day' AND window_start = of_day)
                OR (kind = 'project' AND subject_id = of_project AND window_start = q.period_start)
                OR (kind = 'key' AND subject_id = of_key AND window_start = q.period_start));
        END IF;
        INSERT INTO metering_lease (tenant_id, id, process_id, period_start, units, granted_at, project_id, api_key_id, day)
        VALUES (p_tenant, p_lease, p_process, q.period_start, units, p_now, of_project, of_key, of_day);
    END IF;
    spare := free - units;
    used := q.used;
    included := q.included;
    admits := q.admits;
    period_start := extract(epoch FROM q.period_start);
    period_end := extract(epoch FROM q.period_end);
    lease_until := least(period_end, extract(epoch FROM of_day + interval '1 day'));
    anchor := a.anchor;
    label := a.label;
    policy := a.policy;
    on_outage := a.on_outage;
    recording := a.recording;
    burst_per_second := a.burst_per_second;
    database_now := extract(epoch FROM clock_timestamp());
END $$;
"""

OPEN_PERIOD = """
-- The period that holds the instant has a quota row: this one, trimmed to its neighbours, for periods tile time. Whoever makes a
-- period takes the tenant's allowance row first, and looks only then which periods there are.
CREATE FUNCTION metering_open_period(p_tenant uuid, p_start timestamptz, p_end timestamptz, p_instant timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM metering_allowance WHERE tenant_id = p_tenant FOR NO KEY UPDATE;
    INSERT INTO metering_quota (tenant_id, period_start, period_end, included, admits)
    SELECT p_tenant,
           greatest(p_start, (SELECT max(period_end) FROM metering_quota WHERE tenant_id = p_tenant AND period_end <= p_instant)),
           least(p_end, (SELECT min(period_start) FROM metering_quota WHERE tenant_id = p_tenant AND period_start > p_instant)),
           included, least(hard_limit, CASE WHEN policy = 'rate' THEN NULL ELSE included END)
    FROM metering_allowance
    WHERE tenant_id = p_tenant AND NOT EXISTS (
        SELECT FROM metering_quota WHERE tenant_id = p_tenant AND period_start <= p_instant AND period_end > p_instant)
    ON CONFLICT (tenant_id, period_start) DO NOTHING;
END $$;
"""

COMMIT = """
-- One flush. The batch's calls, usage hours, months, leases, windows and quotas move together or not at all, and a batch that
-- is in the database already changes nothing. Arguments: q_ one element for each quota that calls were admitted to, h_ for each
-- usage hour, c_ for each row of the call log (c_hour: its place in h_), l_ for each lease that gives up units (NULL: all of
-- them); quotas and hours in key order. Returns the quotas as they are now, with what this flush added to `used`.
-- Raises MH001 when a call lies outside the period it was admitted to: its boundary has moved since.
CREATE FUNCTION metering_commit(
    p_batch uuid,
    q_tenant uuid[], q_start float8[], q_end float8[], q_first float8[], q_last float8[], q_used bigint[], q_failed bigint[],
    q_refused bigint[],
    h_tenant uuid[], h_hour float8[], h_period float8[], h_project bigint[], h_key bigint[], h_capability text[],
    h_billable bigint[], h_units bigint[], h_failed bigint[], h_refused bigint[], h_latency_start smallint[], h_latencies text[],
    c_hour integer[], c_at float8[], c_id uuid[], c_outcome text[], c_reason text[], c_status integer[], c_calls integer[],
    c_units bigint[], c_latency_us integer[], c_lease uuid[],
    l_tenant uuid[], l_id uuid[], l_units bigint[]
) RETURNS TABLE (tenant uuid, start float8, total bigint, recorded bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    has_windows boolean;
BEGIN
    INSERT INTO metering_batch (id, committed_at) VALUES (p_batch, clock_timestamp()) ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN;
    END IF;

    -- Quota rows are locked in key order before anything else of their tenants is touched: no two flushes wait for each other.
    INSERT INTO metering_quota (tenant_id, period_start, period_end, included, admits)
    SELECT k.tenant_id, to_timestamp(k.starts), to_timestamp(k.ends), a.included,
           least(a.hard_limit, CASE WHEN a.policy = 'rate' THEN NULL ELSE a.included END)
    FROM unnest(q_tenant, q_start, q_end) AS k (tenant_id, starts, ends)
    LEFT JOIN metering_allowance a ON a.tenant_id = k.tenant_id
    WHERE NOT EXISTS (
        SELECT FROM metering_quota q
        WHERE q.tenant_id = k.tenant_id AND q.period_start < to_timestamp(k.ends) AND q.period_end > to_timestamp(k.starts))
    ORDER BY 1, 2
    ON CONFLICT (tenant_id, period_start) DO NOTHING;
    PERFORM FROM metering_quota q JOIN (
        SELECT tenant_id, to_timestamp(starts) AS period_start FROM unnest(q_tenant, q_start) AS k (tenant_id, starts)
        UNION
        SELECT l.tenant_id, l.period_start FROM unnest(l_tenant, l_id) AS n (tenant_id, id) JOIN metering_lease l USING (tenant_id, id)
    ) AS k USING (tenant_id, period_start)
    ORDER BY q.tenant_id, q.period_start FOR UPDATE OF q;
    IF EXISTS (
        SELECT FROM unnest(q_tenant, q_start, q_first, q_last) AS k (tenant_id, starts, earliest, latest)
        LEFT JOIN metering_quota q ON q.tenant_id = k.tenant_id AND q.period_start = to_timestamp(k.starts)
        WHERE q.tenant_id IS NULL OR to_timestamp(k.earliest) < q.period_start OR to_timestamp(k.latest) >= q.period_end
    ) THEN
        RAISE EXCEPTION 'A period''s boundary has moved.' USING ERRCODE = 'MH001';
    END IF;
    has_windows := EXISTS (SELECT FROM metering_window w WHERE w.tenant_id = ANY (q_tenant || l_tenant));

    -- Leases that were reclaimed meanwhile are gone, and take nothing off `reserved`. Before anything that tenants' periods share:
    -- a lease that moved to another period just now may make this wait for that period's row.
    RETURN QUERY
    WITH n AS (
        SELECT * FROM unnest(l_tenant, l_id, l_units) AS n (tenant_id, id, units)
    ), emptied AS (
        DELETE FROM metering_lease l USING n
        WHERE l.tenant_id = n.tenant_id AND l.id = n.id AND coalesce(n.units >= l.units, true)
        RETURNING l.tenant_id, l.period_start, l.project_id, l.api_key_id, l.day, l.units
    ), reduced AS (
        UPDATE metering_lease l SET units = l.units - n.units FROM n
        WHERE l.tenant_id = n.tenant_id AND l.id = n.id AND n.units < l.units
        RETURNING l.tenant_id, l.period_start, l.project_id, l.api_key_id, l.day, n.units
    ), released AS (
        SELECT * FROM emptied UNION ALL SELECT * FROM reduced
    ), windows AS (
        UPDATE metering_window w SET used = w.used + n.used, reserved = w.reserved - n.released
        FROM (
            SELECT tenant_id, kind, subject_id, window_start, sum(used) AS used, sum(released) AS released
            FROM (
                SELECT tenant_id, project_id, api_key_id, date_trunc('day', to_timestamp(hour), 'UTC') AS day,
                       to_timestamp(period) AS period_start, units AS used, 0 AS released
                FROM unnest(h_tenant, h_project, h_key, h_hour, h_period, h_units)
                  AS h (tenant_id, project_id, api_key_id, hour, period, units)
                UNION ALL
                SELECT tenant_id, project_id, api_key_id, day, period_start, 0, units FROM released
            ) AS moved CROSS JOIN LATERAL (
                VALUES ('day', 0, day), ('project', project_id, period_start), ('key', api_key_id, period_start)
            ) AS held (kind, subject_id, window_start)
            WHERE has_windows GROUP BY 1, 2, 3, 4
        ) AS n
        WHERE w.tenant_id = n.tenant_id AND w.kind = n.kind AND w.subject_id = n.subject_id AND w.window_start = n.window_start
    ), change AS (
        SELECT tenant_id, period_start, sum(used)::bigint AS used, sum(released)::bigint AS released, sum(failed)::bigint AS failed,
               sum(refused)::bigint AS refused
        FROM (
            SELECT tenant_id, to_timestamp(starts) AS period_start, used, 0 AS released, failed, refused
            FROM unnest(q_tenant, q_start, q_used, q_failed, q_refused) AS k (tenant_id, starts, used, failed, refused)
            UNION ALL
            SELECT tenant_id, period_start, 0, units, 0, 0 FROM released
        ) AS moved GROUP BY 1, 2
    )
    UPDATE metering_quota q SET used = q.used + c.used, reserved = q.reserved - c.released, failed = q.failed + c.failed,
                                refused = q.refused + c.refused
    FROM change c WHERE q.tenant_id = c.tenant_id AND q.period_start = c.period_start
    RETURNING q.tenant_id, extract(epoch FROM q.period_start)::float8, q.used, c.used;

    INSERT INTO metering_usage_hour AS h (tenant_id, hour, period_start, project_id, api_key_id, capability, billable, units,
                                          failed, refused, latency_start, latency_counts)
    SELECT tenant_id, to_timestamp(hour), to_timestamp(period), project_id, api_key_id, capability, billable, units, failed,
           refused, latency_start, latencies::integer[]
    FROM unnest(h_tenant, h_hour, h_period, h_project, h_key, h_capability, h_billable, h_units, h_failed, h_refused,
                h_latency_start, h_latencies)
      AS n (tenant_id, hour, period, project_id, api_key_id, capability, billable, units, failed, refused, latency_start, latencies)
    ON CONFLICT (tenant_id, hour, period_start, project_id, api_key_id, capability) DO UPDATE SET
        billable = h.billable + EXCLUDED.billable,
        units = h.units + EXCLUDED.units,
        failed = h.failed + EXCLUDED.failed,
        refused = h.refused + EXCLUDED.refused,
        latency_start = metering_histogram_start(h.latency_start, h.latency_counts, EXCLUDED.latency_start, EXCLUDED.latency_counts),
        latency_counts = metering_histogram_sum(h.latency_start, h.latency_counts, EXCLUDED.latency_start, EXCLUDED.latency_counts);

    INSERT INTO metering_usage_month AS m (tenant_id, month, billable, units, failed, refused)
    SELECT tenant_id, date_trunc('month', to_timestamp(hour), 'UTC'), sum(billable), sum(units), sum(failed), sum(refused)
    FROM unnest(h_tenant, h_hour, h_billable, h_units, h_failed, h_refused) AS n (tenant_id, hour, billable, units, failed, refused)
    GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (tenant_id, month) DO UPDATE SET
        billable = m.billable + EXCLUDED.billable,
        units = m.units + EXCLUDED.units,
        failed = m.failed + EXCLUDED.failed,
        refused = m.refused + EXCLUDED.refused;

    INSERT INTO metering_call (tenant_id, occurred_at, id, project_id, api_key_id, capability, outcome, reason, status, calls,
                               units, latency_us, lease_id, batch_id)
    SELECT h_tenant[hour], to_timestamp(at), id, h_project[hour], h_key[hour], h_capability[hour], outcome, reason,
           status::smallint, calls, units, latency_us, lease_id, p_batch
    FROM unnest(c_hour, c_at, c_id, c_outcome, c_reason, c_status, c_calls, c_units, c_latency_us, c_lease)
      AS n (hour, at, id, outcome, reason, status, calls, units, latency_us, lease_id);
END $$;
"""
FUNCTIONS_UNDONE = """
DROP FUNCTION metering_commit;
DROP FUNCTION metering_open_period;
DROP FUNCTION metering_grant;
DROP FUNCTION metering_window_use;
DROP FUNCTION metering_reclaim;
"""


class Migration(migrations.Migration):
    dependencies = [("metering", "0002_ledger"), ("tenants", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="allowance",
            name="recording",
            field=models.CharField(
                choices=[
                    ("buffered", "Buffered: answered at once, committed within 50 ms"),
                    ("durable", "Durable: committed before the answer is sent"),
                ],
                default="buffered",
                db_default="buffered",
                max_length=16,
            ),
        ),
        migrations.AddConstraint(
            model_name="allowance",
            constraint=models.CheckConstraint(
                condition=models.Q(recording__in=["buffered", "durable"]), name="allowance_recording_known"
            ),
        ),
        migrations.CreateModel(
            name="SubLimit",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("day", "Daily cap of the tenant (UTC day)"),
                            ("project", "Limit of a project per period"),
                            ("key", "Limit of an API key per period"),
                        ],
                        max_length=16,
                    ),
                ),
                (
                    "subject_id",
                    models.BigIntegerField(default=0, help_text="Id of the project or API key; 0 for the daily cap."),
                ),
                ("calls", models.BigIntegerField(help_text="Units that are admitted in the day or period.")),
                ("set_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "tenant",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="sub_limits", to="tenants.tenant"
                    ),
                ),
            ],
            options={
                "verbose_name": "sub-limit",
                "ordering": ("tenant", "kind", "subject_id"),
            },
        ),
        migrations.AddConstraint(
            model_name="sublimit",
            constraint=models.UniqueConstraint(
                fields=("tenant", "kind", "subject_id"), name="sublimit_once_for_each_subject"
            ),
        ),
        migrations.AddConstraint(
            model_name="sublimit",
            constraint=models.CheckConstraint(
                condition=models.Q(calls__gte=0, calls__lte=10**12), name="sublimit_calls_in_range"
            ),
        ),
        migrations.AddConstraint(
            model_name="sublimit",
            constraint=models.CheckConstraint(
                condition=models.Q(kind="day", subject_id=0) | models.Q(kind__in=["project", "key"], subject_id__gt=0),
                name="sublimit_names_its_subject",
            ),
        ),
        migrations.RunSQL(TABLES, TABLES_UNDONE),
        migrations.RunSQL(HISTOGRAM, migrations.RunSQL.noop),
        migrations.RunSQL(RECLAIM + GRANT + OPEN_PERIOD + COMMIT, FUNCTIONS_UNDONE),
    ]
