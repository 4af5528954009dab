"""Take no samples of what can be erased: the planner's statistics hold values of rows, and outlive them."""

from alembic import op

from svc_kit.migrations import without_samples

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    without_samples(
        {
            "payload": ("salt", "body"),
            "payload_text": ("words",),
            "actor": ("subject",),
            "erasure": ("reason", "requester"),
        }
    )
    # A new month is made like its table, but for this.
    op.execute(
        """
        CREATE OR REPLACE FUNCTION make_month(parent regclass, month timestamp) RETURNS void LANGUAGE plpgsql
        SET search_path = public, pg_temp AS $$
        DECLARE
            made text := format('%s_%s', parent, to_char(month, 'YYYY_MM'));
            name name;
        BEGIN
            EXECUTE format('CREATE TABLE %I (LIKE %s INCLUDING ALL)', made, parent);
            FOR name IN SELECT attname FROM pg_attribute WHERE attrelid = parent AND attstattarget = 0
                AND attnum > 0 AND NOT attisdropped
            LOOP
                EXECUTE format('ALTER TABLE %I ALTER COLUMN %I SET STATISTICS 0', made, name);
            END LOOP;
            IF parent = 'entry'::regclass THEN
                EXECUTE format('CREATE UNIQUE INDEX ON %I (log_id, leaf_index)', made);
            END IF;
            PERFORM guard_month(made::regclass, parent);
            EXECUTE format('ALTER TABLE %s ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                parent, made, month_id(month), month_id(month + interval '1 month'));
        END
        $$
        """
    )
