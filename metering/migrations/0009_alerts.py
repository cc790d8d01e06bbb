"""Alerts: a quota row knows at how many calls the next one fires, and the commit that reaches it fires it.

A trigger does it, so whatever counts calls (a flush, a correction, a boundary that moves, a rebuild) fires what it crosses, in
its own transaction. A flush that crosses nothing compares two numbers of the row that it updates anyway; admission nothing.

A threshold is armed in each period. It fires once: the crossing is unique for tenant, period, threshold and number of calls.
When it is moved (other included calls, other prices) above what is used, it is armed again; moved elsewhere it is not.
Written with the crossing: the event that mails and webhooks tell of. Nothing in here ever refuses a recorded call.
"""

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

TABLES = """
CREATE TABLE metering_threshold (
    tenant_id uuid NOT NULL,
    period_start timestamptz NOT NULL,
    key text NOT NULL,
    units bigint NOT NULL,
    fired boolean NOT NULL,
    PRIMARY KEY (tenant_id, period_start, key)
);
CREATE TABLE metering_crossing (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    key text NOT NULL,
    kind text NOT NULL,
    percent integer,
    amount_minor bigint,
    currency text NOT NULL DEFAULT '',
    units bigint NOT NULL,
    used bigint NOT NULL,
    included bigint,
    crossed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    told_at timestamptz,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT crossing_once_for_each_threshold UNIQUE (tenant_id, period_start, key, units)
);
CREATE INDEX crossing_by_time ON metering_crossing (tenant_id, crossed_at DESC);
CREATE INDEX crossing_to_tell ON metering_crossing (crossed_at) WHERE told_at IS NULL;
ALTER TABLE metering_quota ADD COLUMN alert_at bigint;
"""
TABLES_UNDONE = """
ALTER TABLE metering_quota DROP COLUMN alert_at;
DROP TABLE metering_crossing, metering_threshold;
"""

FUNCTIONS = """
-- Each threshold of the period that is reached and has not fired has a crossing, and the quota row knows the next one. Under the
-- quota's lock. An alert that was deleted in this very moment leaves no threshold behind: its row is gone with it.
CREATE FUNCTION metering_fire(p_tenant uuid, p_start timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    q metering_quota;
BEGIN
    SELECT * INTO q FROM metering_quota WHERE tenant_id = p_tenant AND period_start = p_start;
    WITH passed AS (
        UPDATE metering_threshold SET fired = true
        WHERE tenant_id = p_tenant AND period_start = p_start AND NOT fired AND units <= q.used
        RETURNING key, units
    )
    INSERT INTO metering_crossing (tenant_id, period_start, period_end, key, kind, percent, amount_minor, currency, units, used, included)
    SELECT p_tenant, p_start, q.period_end, p.key, split_part(p.key, ':', 1), a.percent, a.amount_minor, coalesce(a.currency, ''),
           p.units, q.used, q.included
    FROM passed p LEFT JOIN metering_alert a ON a.tenant_id = p_tenant AND a.key = p.key
    ORDER BY p.units
    ON CONFLICT (tenant_id, period_start, key, units) DO NOTHING;
    UPDATE metering_quota
    SET alert_at = (SELECT min(units) FROM metering_threshold WHERE tenant_id = p_tenant AND period_start = p_start AND NOT fired)
    WHERE tenant_id = p_tenant AND period_start = p_start;
END $$;

-- The period's thresholds are those of the tenant's alerts and of its limit, as they are now; those that are reached have fired.
-- `p_silently`: those that are reached already are not told of.
CREATE FUNCTION metering_arm(p_tenant uuid, p_start timestamptz, p_silently boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    q metering_quota;
BEGIN
    SELECT * INTO q FROM metering_quota WHERE tenant_id = p_tenant AND period_start = p_start FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    WITH wanted AS (
        SELECT key, CASE kind WHEN 'share' THEN (q.included * percent + 99) / 100 ELSE calls END AS units
        FROM metering_alert WHERE tenant_id = p_tenant AND kind IN ('share', 'amount')
        UNION ALL
        SELECT 'limit', q.admits
    ), gone AS (
        DELETE FROM metering_threshold t
        WHERE t.tenant_id = p_tenant AND t.period_start = p_start AND NOT EXISTS (SELECT FROM wanted w WHERE w.key = t.key AND w.units > 0)
    )
    INSERT INTO metering_threshold AS t (tenant_id, period_start, key, units, fired)
    SELECT p_tenant, p_start, w.key, w.units, EXISTS (
        SELECT FROM metering_crossing c
        WHERE c.tenant_id = p_tenant AND c.period_start = p_start AND c.key = w.key AND NOT (w.units > c.units AND w.units > q.used))
    FROM wanted w WHERE w.units > 0
    ON CONFLICT (tenant_id, period_start, key) DO UPDATE SET
        units = EXCLUDED.units,
        fired = EXCLUDED.fired OR (t.fired AND NOT (EXCLUDED.units > t.units AND EXCLUDED.units > q.used));
    IF p_silently THEN
        UPDATE metering_threshold SET fired = true WHERE tenant_id = p_tenant AND period_start = p_start AND units <= q.used;
    END IF;
    PERFORM metering_fire(p_tenant, p_start);
END $$;

-- A call is counted even where its alert cannot fire: the next one tries again.
CREATE FUNCTION metering_fire_crossed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM metering_fire(NEW.tenant_id, NEW.period_start);
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'Alerts of tenant % wait: %', NEW.tenant_id, SQLERRM;
    RETURN NULL;
END $$;
CREATE TRIGGER quota_fires_alerts AFTER UPDATE OF used ON metering_quota
    FOR EACH ROW WHEN (NEW.used >= NEW.alert_at) EXECUTE FUNCTION metering_fire_crossed();

-- A period that is made with usage in it was loaded: nobody wants to be told of long ago.
CREATE FUNCTION metering_arm_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM metering_arm(NEW.tenant_id, NEW.period_start, TG_OP = 'INSERT' AND NEW.used > 0);
    RETURN NULL;
END $$;
CREATE TRIGGER quota_arms_alerts AFTER INSERT ON metering_quota FOR EACH ROW EXECUTE FUNCTION metering_arm_changed();
CREATE TRIGGER quota_moves_alerts AFTER UPDATE OF included, admits ON metering_quota
    FOR EACH ROW WHEN (OLD.included IS DISTINCT FROM NEW.included OR OLD.admits IS DISTINCT FROM NEW.admits)
    EXECUTE FUNCTION metering_arm_changed();

CREATE FUNCTION metering_disarm() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM metering_threshold WHERE tenant_id = OLD.tenant_id AND period_start = OLD.period_start;
    RETURN NULL;
END $$;
CREATE TRIGGER quota_disarms_alerts AFTER DELETE ON metering_quota FOR EACH ROW EXECUTE FUNCTION metering_disarm();

-- What the crossing tells the world, in its own transaction.
CREATE FUNCTION metering_tell_crossing() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    said jsonb := jsonb_build_object(
        'period', jsonb_build_object('start', metering_said(NEW.period_start), 'end', metering_said(NEW.period_end)),
        'used_calls', NEW.used, 'included_calls', NEW.included);
BEGIN
    IF NEW.kind = 'limit' THEN
        INSERT INTO tenants_event (id, tenant_id, type, key, data)
        VALUES (NEW.id, NEW.tenant_id, 'limit.reached', NEW.id::text, said || jsonb_build_object('limit_calls', NEW.units));
    ELSE
        INSERT INTO tenants_event (id, tenant_id, type, key, data)
        VALUES (NEW.id, NEW.tenant_id, 'alert.fired', NEW.id::text, said || jsonb_build_object(
            'alert', jsonb_strip_nulls(jsonb_build_object('kind', NEW.kind, 'percent', NEW.percent, 'amount_minor', NEW.amount_minor,
                                                          'currency', nullif(NEW.currency, ''))),
            'threshold_calls', nullif(NEW.units, 0)));
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION metering_said(instant timestamptz) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT to_char(instant AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
$$;
CREATE TRIGGER crossing_is_an_event AFTER INSERT ON metering_crossing FOR EACH ROW EXECUTE FUNCTION metering_tell_crossing();
"""
FUNCTIONS_UNDONE = """
DROP TRIGGER crossing_is_an_event ON metering_crossing;
DROP TRIGGER quota_disarms_alerts ON metering_quota;
DROP TRIGGER quota_moves_alerts ON metering_quota;
DROP TRIGGER quota_arms_alerts ON metering_quota;
DROP TRIGGER quota_fires_alerts ON metering_quota;
DROP FUNCTION metering_tell_crossing, metering_said, metering_disarm, metering_arm_changed, metering_fire_crossed, metering_arm,
    metering_fire;
"""

# Tenants that are here already get what every new one gets; what they have used by now is no news.
DEFAULTS = """
INSERT INTO metering_alert (tenant_id, kind, percent, currency, key, created_at)
SELECT tenant_id, 'share', percent, '', 'share:' || percent, now()
FROM metering_allowance CROSS JOIN unnest(ARRAY[50, 75, 90, 100]) AS percent;
SELECT metering_arm(tenant_id, period_start, true) FROM metering_quota WHERE period_end > now();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("metering", "0008_events_are_recorded_once"),
        ("tenants", "0010_events_and_webhooks"),
    ]

    operations = [
        migrations.CreateModel(
            name="Crossing",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        help_text="Also the id of the event and of its webhooks.", primary_key=True, serialize=False
                    ),
                ),
                ("period_start", models.DateTimeField()),
                ("period_end", models.DateTimeField()),
                ("key", models.CharField(max_length=60)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("share", "A share of the included calls is used"),
                            ("amount", "The period's usage costs an amount"),
                            ("projected", "The period's usage is projected to cost an amount"),
                            ("limit", "The period's limit is reached: further calls are refused"),
                        ],
                        max_length=16,
                    ),
                ),
                ("percent", models.PositiveIntegerField(null=True)),
                ("amount_minor", models.BigIntegerField(null=True)),
                ("currency", models.CharField(blank=True, max_length=3)),
                ("units", models.BigIntegerField(help_text="The threshold in calls; of a projection 0.")),
                ("used", models.BigIntegerField(help_text="What the period counted when it fired.")),
                ("included", models.BigIntegerField(null=True)),
                ("crossed_at", models.DateTimeField(help_text="When that was committed (UTC).")),
                ("told_at", models.DateTimeField(help_text="When the mail was written (UTC).", null=True)),
            ],
            options={
                "db_table": "metering_crossing",
                "ordering": ("-crossed_at", "-units"),
                "managed": False,
            },
        ),
        migrations.CreateModel(
            name="Alert",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("share", "A share of the included calls is used"),
                            ("amount", "The period's usage costs an amount"),
                            ("projected", "The period's usage is projected to cost an amount"),
                        ],
                        max_length=16,
                    ),
                ),
                ("percent", models.PositiveIntegerField(blank=True, null=True)),
                ("amount_minor", models.BigIntegerField(blank=True, null=True)),
                ("currency", models.CharField(blank=True, max_length=3)),
                ("key", models.CharField(editable=False, max_length=60)),
                (
                    "calls",
                    models.BigIntegerField(
                        blank=True,
                        editable=False,
                        help_text="The amount in calls; empty: no number of calls costs it.",
                        null=True,
                    ),
                ),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                (
                    "tenant",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="alerts", to="tenants.tenant"
                    ),
                ),
            ],
            options={
                "ordering": ("tenant", "kind", "percent", "amount_minor"),
                "constraints": [
                    models.UniqueConstraint(fields=("tenant", "key"), name="alert_once_for_each_threshold"),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("amount_minor", None),
                                ("currency", ""),
                                ("kind", "share"),
                                ("percent__gte", 1),
                                ("percent__lte", 1000),
                            ),
                            models.Q(
                                ("amount_minor__gte", 1),
                                ("amount_minor__lte", 100000000000000),
                                ("kind__in", ["amount", "projected"]),
                                ("percent", None),
                                models.Q(("currency", ""), _negated=True),
                            ),
                            _connector="OR",
                        ),
                        name="alert_names_its_threshold",
                    ),
                ],
            },
        ),
        migrations.RunSQL(TABLES, TABLES_UNDONE),
        migrations.RunSQL(FUNCTIONS, FUNCTIONS_UNDONE),
        migrations.RunSQL(DEFAULTS, migrations.RunSQL.noop),
    ]
