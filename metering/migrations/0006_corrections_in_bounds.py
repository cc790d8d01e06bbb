"""A correction of a call names one that was billed, and never takes more off it than it costs.

The check comes after the row, under the tenant's allowance row, which every correction takes first: no two pass it together.
"""

from django.db import migrations

BOUNDS = """
CREATE INDEX adjustment_by_call ON metering_adjustment (tenant_id, call_id) WHERE call_id IS NOT NULL;

CREATE FUNCTION metering_check_correction() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    cost bigint;
    is_voided boolean;
BEGIN
    PERFORM FROM metering_allowance WHERE tenant_id = NEW.tenant_id FOR NO KEY UPDATE;
    SELECT units INTO cost FROM metering_call
    WHERE tenant_id = NEW.tenant_id AND occurred_at = NEW.occurred_at AND id = NEW.call_id AND outcome = 'billable';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'Call % was not billed at that time: nothing to correct.', NEW.call_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'adjustment_is_of_a_billed_call';
    END IF;
    SELECT cost + sum(units), bool_or(kind = 'void') INTO cost, is_voided FROM metering_adjustment
    WHERE tenant_id = NEW.tenant_id AND call_id = NEW.call_id;
    IF cost < 0 OR (is_voided AND cost <> 0) THEN
        RAISE EXCEPTION 'Call % would cost % units after this correction.', NEW.call_id, cost
            USING ERRCODE = 'check_violation', CONSTRAINT = 'adjustment_leaves_a_cost';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER adjustment_stays_in_bounds AFTER INSERT ON metering_adjustment
    FOR EACH ROW WHEN (NEW.call_id IS NOT NULL) EXECUTE FUNCTION metering_check_correction();
"""
BOUNDS_UNDONE = """
DROP TRIGGER adjustment_stays_in_bounds ON metering_adjustment;
DROP FUNCTION metering_check_correction();
DROP INDEX adjustment_by_call;
"""


class Migration(migrations.Migration):
    dependencies = [("metering", "0005_moving_boundaries")]

    operations = [migrations.RunSQL(BOUNDS, BOUNDS_UNDONE)]
