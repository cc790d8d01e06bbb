from django.db import migrations

GUARD = """
CREATE FUNCTION billing_mark_version_used() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE billing_planversion SET used_at = now() WHERE id = NEW.plan_version_id AND used_at IS NULL;
    RETURN NEW;
END $$;
CREATE TRIGGER account_marks_its_version AFTER INSERT OR UPDATE OF plan_version_id ON billing_account
    FOR EACH ROW EXECUTE FUNCTION billing_mark_version_used();

CREATE FUNCTION billing_refuse_change_of_used_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'Version % of plan % is or was in use and cannot be changed; make a new version.', OLD.number, OLD.plan_id
        USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'planversion_used_is_final';
END $$;
CREATE TRIGGER planversion_used_is_final BEFORE UPDATE OR DELETE ON billing_planversion
    FOR EACH ROW WHEN (OLD.used_at IS NOT NULL) EXECUTE FUNCTION billing_refuse_change_of_used_version();
"""
GUARD_UNDONE = """
DROP TRIGGER planversion_used_is_final ON billing_planversion;
DROP FUNCTION billing_refuse_change_of_used_version();
DROP TRIGGER account_marks_its_version ON billing_account;
DROP FUNCTION billing_mark_version_used();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial")]

    operations = [migrations.RunSQL(GUARD, GUARD_UNDONE)]
