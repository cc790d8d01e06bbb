"""No two periods of a tenant overlap, whoever opens one while another process moves its boundaries.

Whoever makes a period takes the tenant's allowance row first, as `boundaries.learn`, `allowances.push` and `metering_open_period` do,
and looks only then which periods there are. An overlapping one is refused with MH001: a flush places its calls anew then.
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


class Migration(migrations.Migration):
    dependencies = [("metering", "0004_adjustments")]

    operations = [migrations.RunSQL(NO_OVERLAP, NO_OVERLAP_UNDONE)]
