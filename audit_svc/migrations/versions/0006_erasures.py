"""The journal of erasures, and a way to write the files of contents anew, without what was deleted."""

from alembic import op

from svc_kit.migrations import service_role

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Runs as the owner, for only the owner may. What is deleted stays in a table's file until something else is
# written over it; CLUSTER copies what stands into new files and gives the old ones back. Nothing can be
# written to the table meanwhile, so a large one is left alone while its month lasts; and the lock is not
# waited for for long, since everybody else would wait behind.
_REWRITE = """
CREATE FUNCTION rewrite_contents(file text, most_bytes bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    relation regclass = to_regclass(file);
    key text;
BEGIN
    IF relation IS NULL THEN RETURN true; END IF;
    IF NOT EXISTS (
        SELECT FROM pg_inherits WHERE inhrelid = relation AND inhparent = 'payload'::regclass
    ) THEN
        RAISE EXCEPTION '% holds no contents', file USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF pg_total_relation_size(relation) > most_bytes AND still_written(relation) THEN RETURN false; END IF;
    SELECT indexrelid::regclass::text INTO key FROM pg_index WHERE indrelid = relation AND indisprimary;
    BEGIN
        EXECUTE format('CLUSTER %s USING %s', relation, key);
    EXCEPTION WHEN lock_not_available THEN
        RETURN false;
    END;
    RETURN true;
END $$
"""
# A partition ends with an event id, whose first 48 bits are milliseconds.
_STILL_WRITTEN = """
CREATE FUNCTION still_written(relation regclass) RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((
        SELECT ('x' || left(replace(bound[1], '-', ''), 12))::bit(48)::bigint
            > extract(epoch FROM now() - interval '1 day') * 1000
        FROM pg_class, regexp_match(pg_get_expr(relpartbound, oid), 'TO \\(''([0-9a-f-]{36})''\\)') AS bound
        WHERE oid = relation AND bound IS NOT NULL
    ), true)
$$
"""


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE erasure (
            erasure_id uuid PRIMARY KEY,
            log_id uuid NOT NULL REFERENCES log,
            tenant text NOT NULL,
            request_id uuid,
            task_id uuid,
            event_id uuid,
            part text NOT NULL,
            reason text NOT NULL,
            requester text NOT NULL,
            state text NOT NULL CHECK (state IN ('RUNNING', 'ERASED', 'COMPLETE')),
            waiting_for text NOT NULL DEFAULT '',
            create_time timestamptz NOT NULL,
            erase_time timestamptz CHECK ((erase_time IS NULL) = (state = 'RUNNING')),
            complete_time timestamptz CHECK ((complete_time IS NULL) = (state <> 'COMPLETE')),
            reached jsonb NOT NULL DEFAULT '{}',
            explained_by bigint[] NOT NULL DEFAULT '{}',
            files text[] NOT NULL DEFAULT '{}',
            UNIQUE (log_id, request_id),
            CHECK (num_nonnulls(task_id, event_id) = 1)
        )
        """
    )
    op.execute("CREATE INDEX erasure_newest ON erasure (log_id, create_time DESC, erasure_id DESC)")
    op.execute("CREATE INDEX erasure_open ON erasure (create_time) WHERE state <> 'COMPLETE'")
    op.execute(
        "CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON erasure"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute("ALTER TABLE erasure ENABLE ALWAYS TRIGGER append_only")
    op.execute(_STILL_WRITTEN)
    op.execute(_REWRITE)
    for function in ("still_written(regclass)", "rewrite_contents(text, bigint)"):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    if (role := service_role()) is not None:
        op.execute(f'GRANT EXECUTE ON FUNCTION rewrite_contents(text, bigint) TO "{role}"')
