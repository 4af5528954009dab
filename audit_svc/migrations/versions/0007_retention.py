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
    # For many at once, because whoever appends waits while contents are removed.
    op.execute(
        """
        CREATE FUNCTION kept_of(of_log uuid, of_events uuid[]) RETURNS TABLE (event_id uuid, keeper text)
        LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
            WITH active AS MATERIALIZED (
                SELECT hold.* FROM hold WHERE hold.log_id = of_log AND NOT EXISTS (
                    SELECT FROM hold_release AS gone
                    WHERE gone.log_id = hold.log_id AND gone.hold_id = hold.hold_id
                )
            ),
            minimum AS MATERIALIZED (
                SELECT DISTINCT ON (rule.class) rule.class, rule.payload_min_days
                FROM retention_rule AS rule WHERE rule.log_id = of_log
                ORDER BY rule.class, rule.leaf_index DESC
            )
            SELECT told.event_id, told.keeper
            FROM unnest(of_events) AS wanted (event_id), LATERAL (
                SELECT entry.event_id, coalesce(
                    (SELECT 'hold ' || min(active.hold_id::text) FROM active
                    WHERE (active.task_id IS NULL OR active.task_id = entry.task_id)
                        AND active.agent IN ('', entry.agent)
                        AND active.actor IN ('', entry.actor)
                        AND active.type IN ('', entry.type)
                        AND (active.begin_time IS NULL OR entry.recorded_time >= active.begin_time)
                        AND (active.end_time IS NULL OR entry.recorded_time < active.end_time)),
                    (SELECT 'minimum ' || minimum.payload_min_days FROM minimum
                    WHERE minimum.class = retention_class(entry.type) AND minimum.payload_min_days > 0
                        AND entry.recorded_time > now() - make_interval(days => minimum.payload_min_days))
                ) AS keeper
                FROM entry WHERE entry.log_id = of_log AND entry.event_id = wanted.event_id
                OFFSET 0
            ) AS told
            WHERE told.keeper IS NOT NULL
        $$
        """
    )
    # Whoever places a hold locks the log's head first, and so does whoever removes: one sees the other.
    op.execute(
        """
        CREATE FUNCTION refuse_kept() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE first record;
        BEGIN
            SELECT kept.event_id, kept.keeper INTO first
            FROM (SELECT log_id, array_agg(DISTINCT event_id) AS event_ids FROM gone GROUP BY log_id) AS each,
                LATERAL kept_of(each.log_id, each.event_ids) AS kept LIMIT 1;
            IF FOUND THEN
                RAISE EXCEPTION 'a content of % is kept', first.event_id
                    USING ERRCODE = 'restrict_violation', DETAIL = first.keeper;
            END IF;
            RETURN NULL;
        END
        $$
        """
    )
    op.execute(
        "CREATE TRIGGER kept AFTER DELETE ON payload REFERENCING OLD TABLE AS gone"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_kept()"
    )
    op.execute("ALTER TABLE payload ENABLE ALWAYS TRIGGER kept")
    op.execute("SELECT guard_months('payload')")
