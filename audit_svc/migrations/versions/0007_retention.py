"""How long contents are kept, and what holds keep from going: also against whoever deletes by hand."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_APPEND_ONLY = ("retention_rule", "hold", "hold_release")


def upgrade() -> None:
    # The newest row of a class holds; those before stay as they were.
    op.execute(
        """
        CREATE TABLE retention_rule (
            log_id uuid NOT NULL,
            class text NOT NULL,
            leaf_index bigint NOT NULL,
            payload_min_days integer NOT NULL CHECK (payload_min_days >= 0),
            payload_max_days integer NOT NULL
                CHECK (payload_max_days = 0 OR payload_max_days >= payload_min_days),
            locked boolean NOT NULL,
            update_time timestamptz NOT NULL,
            PRIMARY KEY (log_id, class, leaf_index)
        )
        """
    )
    # An empty text and NULL select anything; `actor` is a pseudonym.
    op.execute(
        """
        CREATE TABLE hold (
            log_id uuid NOT NULL,
            hold_id uuid NOT NULL,
            task_id uuid,
            agent text NOT NULL,
            actor text NOT NULL,
            type text NOT NULL,
            begin_time timestamptz,
            end_time timestamptz,
            reason text NOT NULL,
            place_time timestamptz NOT NULL,
            PRIMARY KEY (log_id, hold_id)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE hold_release (
            log_id uuid NOT NULL,
            hold_id uuid NOT NULL,
            event_id uuid NOT NULL,
            reason text NOT NULL,
            release_time timestamptz NOT NULL,
            PRIMARY KEY (log_id, hold_id),
            FOREIGN KEY (log_id, hold_id) REFERENCES hold
        )
        """
    )
    for table in _APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only")
    _keep()


def _keep() -> None:
    op.execute(
        """
        CREATE FUNCTION retention_class(entry_type text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
            SELECT CASE
                WHEN entry_type IN ('PROMPT', 'MODEL_OUTPUT', 'TOOL_CALL', 'TOOL_RESULT', 'RESULT', 'REQUEST')
                    THEN 'CONTENT'
                WHEN entry_type = 'ERROR' THEN 'ERROR'
                WHEN entry_type IN ('DECISION', 'APPROVAL', 'POLICY_CHANGE', 'REGISTRY_CHANGE')
                    THEN 'DECISION'
                WHEN entry_type = 'STATE_CHANGE' THEN 'STATE'
                WHEN entry_type = 'PAYLOAD_READ' THEN 'ACCESS'
            END
        $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION kept_by(of_log uuid, of_event uuid) RETURNS text LANGUAGE sql STABLE
        SET search_path = public, pg_temp AS $$
            SELECT coalesce(
                (SELECT 'hold ' || hold.hold_id FROM hold
                WHERE hold.log_id = entry.log_id
                    AND (hold.task_id IS NULL OR hold.task_id = entry.task_id)
                    AND hold.agent IN ('', entry.agent)
                    AND hold.actor IN ('', entry.actor)
                    AND hold.type IN ('', entry.type)
                    AND (hold.begin_time IS NULL OR entry.recorded_time >= hold.begin_time)
                    AND (hold.end_time IS NULL OR entry.recorded_time < hold.end_time)
                    AND NOT EXISTS (
                        SELECT FROM hold_release AS gone
                        WHERE gone.log_id = hold.log_id AND gone.hold_id = hold.hold_id
                    )
                ORDER BY hold.hold_id LIMIT 1),
                (SELECT 'minimum ' || newest.payload_min_days
                FROM (
                    SELECT payload_min_days FROM retention_rule
                    WHERE retention_rule.log_id = entry.log_id
                        AND retention_rule.class = retention_class(entry.type)
                    ORDER BY leaf_index DESC LIMIT 1
                ) AS newest
                WHERE newest.payload_min_days > 0
                    AND entry.recorded_time > now() - make_interval(days => newest.payload_min_days))
            )
            FROM entry WHERE entry.log_id = of_log AND entry.event_id = of_event
        $$
        """
    )
    # Whoever places a hold locks the log's head first, and so does whoever removes: one sees the other.
    op.execute(
        """
        CREATE FUNCTION refuse_kept() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE keeper text := kept_by(OLD.log_id, OLD.event_id);
        BEGIN
            IF keeper IS NOT NULL THEN
                RAISE EXCEPTION 'the content % of % is kept', OLD.part, OLD.event_id
                    USING ERRCODE = 'restrict_violation', DETAIL = keeper;
            END IF;
            RETURN OLD;
        END
        $$
        """
    )
    op.execute("CREATE TRIGGER kept BEFORE DELETE ON payload FOR EACH ROW EXECUTE FUNCTION refuse_kept()")
    op.execute("ALTER TABLE payload ENABLE ALWAYS TRIGGER kept")
