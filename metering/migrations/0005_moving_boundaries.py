"""No two periods of a tenant overlap, whoever opens one while another process moves its boundaries.

Whoever makes a period takes the tenant's allowance row first, as `boundaries.learn` and `allowances.push` do, and looks only then
which periods there are. An overlapping one is refused with MH001: a flush places its calls anew then.
"""

from django.db import migrations

NO_OVERLAP = """
CREATE FUNCTION metering_refuse_overlap() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM metering_allowance WHERE tenant_id = NEW.tenant_id FOR NO KEY UPDATE;
    IF EXISTS (
        SELECT FROM metering_quota
        WHERE tenant_id = NEW.tenant_id AND period_start <> NEW.period_start
          AND period_start < NEW.period_end AND period_end > NEW.period_start
    ) THEN
        RAISE EXCEPTION 'Tenant % has another period between % and %.', NEW.tenant_id, NEW.period_start, NEW.period_end
            USING ERRCODE = 'MH001';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER quota_periods_do_not_overlap BEFORE INSERT ON metering_quota
    FOR EACH ROW EXECUTE FUNCTION metering_refuse_overlap();
"""
NO_OVERLAP_UNDONE = """
DROP TRIGGER quota_periods_do_not_overlap ON metering_quota;
DROP FUNCTION metering_refuse_overlap();
"""

INSERT = """
    INSERT INTO metering_quota (tenant_id, period_start, period_end, included, admits)
    SELECT p_tenant,
           greatest(p_start, (SELECT max(period_end) FROM metering_quota WHERE tenant_id = p_tenant AND period_end <= p_instant)),
           least(p_end, (SELECT min(period_start) FROM metering_quota WHERE tenant_id = p_tenant AND period_start > p_instant)),
           included, least(hard_limit, CASE WHEN policy = 'rate' THEN NULL ELSE included END)
    FROM metering_allowance
    WHERE tenant_id = p_tenant AND NOT EXISTS (
        SELECT FROM metering_quota WHERE tenant_id = p_tenant AND period_start <= p_instant AND period_end > p_instant)
    ON CONFLICT (tenant_id, period_start) DO NOTHING
"""
SIGNATURE = (
    "metering_open_period(p_tenant uuid, p_start timestamptz, p_end timestamptz, p_instant timestamptz) RETURNS void"
)
OPEN_PERIOD = f"""
-- The period that holds the instant has a quota row: this one, trimmed to its neighbours, for periods tile time.
CREATE OR REPLACE FUNCTION {SIGNATURE} LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM metering_allowance WHERE tenant_id = p_tenant FOR NO KEY UPDATE;
    {INSERT};
END $$;
"""
OPEN_PERIOD_UNDONE = f"CREATE OR REPLACE FUNCTION {SIGNATURE} LANGUAGE sql AS $$ {INSERT} $$;"


class Migration(migrations.Migration):
    dependencies = [("metering", "0004_adjustments")]

    operations = [
        migrations.RunSQL(NO_OVERLAP, NO_OVERLAP_UNDONE),
        migrations.RunSQL(OPEN_PERIOD, OPEN_PERIOD_UNDONE),
    ]
