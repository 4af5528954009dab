"""Let contents go when, and only when, an entry of the log says so."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE removed_part (
            log_id uuid NOT NULL,
            event_id uuid NOT NULL,
            part text NOT NULL,
            explained_by uuid NOT NULL,
            PRIMARY KEY (log_id, event_id, part)
        )
        """
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON removed_part"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute("ALTER TABLE removed_part ENABLE ALWAYS TRIGGER append_only")
    # The lists by which gaps are explained stay for ever, or the gaps would be unexplained one day.
    op.execute(
        """
        CREATE FUNCTION refuse_unexplained() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NOT EXISTS (
                SELECT FROM removed_part
                JOIN entry
                    ON entry.log_id = removed_part.log_id AND entry.event_id = removed_part.explained_by
                WHERE removed_part.log_id = OLD.log_id AND removed_part.event_id = OLD.event_id
                    AND removed_part.part = OLD.part
                    AND entry.type IN ('ERASURE', 'RETENTION') AND entry.producer = 'audit'
            ) OR OLD.part = 'removed' THEN
                RAISE EXCEPTION '% on % is refused: the audit log is append-only, and no entry explains this',
                    TG_OP, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
            END IF;
            RETURN OLD;
        END
        $$
        """
    )
    op.execute("DROP TRIGGER append_only ON payload")
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON payload"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute("ALTER TABLE payload ENABLE ALWAYS TRIGGER append_only")
    op.execute(
        "CREATE TRIGGER explained BEFORE DELETE ON payload FOR EACH ROW EXECUTE FUNCTION refuse_unexplained()"
    )
    op.execute("ALTER TABLE payload ENABLE ALWAYS TRIGGER explained")
