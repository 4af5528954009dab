"""Let the name behind a pseudonym go, when an entry of the log says so; the pseudonym then tells nothing.

`log_head.forgotten` counts the names that went: whoever remembers pseudonyms sees by it that they are stale.
"""

from alembic import op

from svc_kit.migrations import service_role

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_OF_LOG = "log_id = (SELECT log_id FROM log WHERE tenant = current_setting('audit.tenant', true))"
# As before, and also for the table of names, which is never large.
_REWRITE = """
CREATE OR REPLACE FUNCTION rewrite_contents(file text, most_bytes bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    relation regclass = to_regclass(file);
    key text;
BEGIN
    IF relation IS NULL THEN RETURN true; END IF;
    IF relation <> 'actor'::regclass AND NOT EXISTS (
        SELECT FROM pg_inherits WHERE inhrelid = relation AND inhparent = 'payload'::regclass
    ) THEN
        RAISE EXCEPTION '% holds no contents', file USING ERRCODE = 'insufficient_privilege';
    END IF;
    FOREACH relation IN ARRAY ARRAY[
        relation, nullif(to_regclass(regexp_replace(file, '^payload', 'payload_text')), relation)
    ]
    LOOP
        CONTINUE WHEN relation IS NULL;
        IF pg_total_relation_size(relation) > most_bytes AND still_written(relation) THEN
            RETURN false;
        END IF;
        SELECT indexrelid::regclass::text INTO key FROM pg_index
            WHERE indrelid = relation AND indisprimary;
        BEGIN
            EXECUTE format('CLUSTER %s USING %s', relation, key);
        EXCEPTION WHEN lock_not_available THEN
            RETURN false;
        END;
    END LOOP;
    RETURN true;
END $$
"""


def upgrade() -> None:
    op.execute("ALTER TABLE log_head ADD COLUMN forgotten bigint NOT NULL DEFAULT 0")
    # The tree grows, or stays as it is while one more name is counted.
    op.execute(
        """
        CREATE OR REPLACE FUNCTION refuse_shrinking() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF (NEW.log_id <> OLD.log_id OR NEW.size <= OLD.size OR NEW.forgotten <> OLD.forgotten)
                AND (NEW.log_id, NEW.size, NEW.frontier, NEW.root, NEW.forgotten)
                    <> (OLD.log_id, OLD.size, OLD.frontier, OLD.root, OLD.forgotten + 1)
            THEN
                RAISE EXCEPTION 'the tree of log % may only grow', OLD.log_id
                    USING ERRCODE = 'insufficient_privilege';
            END IF;
            RETURN NEW;
        END
        $$
        """
    )
    op.execute(
        "CREATE TABLE forgotten_actor (log_id uuid NOT NULL REFERENCES log, pseudonym text NOT NULL,"
        " explained_by uuid NOT NULL, PRIMARY KEY (log_id, pseudonym))"
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON forgotten_actor"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute("ALTER TABLE forgotten_actor ENABLE ALWAYS TRIGGER append_only")
    op.execute("ALTER TABLE forgotten_actor ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY of_tenant ON forgotten_actor FOR SELECT USING ({_OF_LOG})")
    if (role := service_role()) is not None:
        op.execute(f'CREATE POLICY of_service ON forgotten_actor TO "{role}" USING (true) WITH CHECK (true)')
    _let_go()
    op.execute(_REWRITE)
    op.execute("ALTER TABLE erasure ADD COLUMN actor text CHECK (actor <> '')")
    op.execute(
        """
        DO $$
        DECLARE name text;
        BEGIN
            SELECT conname INTO STRICT name FROM pg_constraint
                WHERE conrelid = 'erasure'::regclass AND pg_get_constraintdef(oid) LIKE '%num_nonnulls%';
            EXECUTE format('ALTER TABLE erasure DROP CONSTRAINT %I', name);
        END
        $$
        """
    )
    op.execute("ALTER TABLE erasure ADD CHECK (num_nonnulls(task_id, event_id, actor) = 1)")


def _let_go() -> None:
    # Whoever places a hold locks the log's head first, and so does whoever removes: one sees the other.
    op.execute(
        """
        CREATE FUNCTION refuse_unforgotten() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE keeper uuid;
        BEGIN
            IF NOT EXISTS (
                SELECT FROM forgotten_actor
                JOIN entry ON entry.log_id = forgotten_actor.log_id
                    AND entry.event_id = forgotten_actor.explained_by
                WHERE forgotten_actor.log_id = OLD.log_id AND forgotten_actor.pseudonym = OLD.pseudonym
                    AND entry.type = 'ERASURE' AND entry.producer = 'audit'
            ) THEN
                RAISE EXCEPTION '% on % is refused: the audit log is append-only, and no entry explains this',
                    TG_OP, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
            END IF;
            SELECT hold_id INTO keeper FROM hold WHERE hold.log_id = OLD.log_id AND hold.actor = OLD.pseudonym
                AND NOT EXISTS (
                    SELECT FROM hold_release AS gone
                    WHERE gone.log_id = hold.log_id AND gone.hold_id = hold.hold_id
                ) LIMIT 1;
            IF FOUND THEN
                RAISE EXCEPTION 'the name of % is kept', OLD.pseudonym
                    USING ERRCODE = 'restrict_violation', DETAIL = 'hold ' || keeper;
            END IF;
            RETURN OLD;
        END
        $$
        """
    )
    op.execute("DROP TRIGGER append_only ON actor")
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON actor"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute("ALTER TABLE actor ENABLE ALWAYS TRIGGER append_only")
    op.execute(
        "CREATE TRIGGER explained BEFORE DELETE ON actor FOR EACH ROW EXECUTE FUNCTION refuse_unforgotten()"
    )
    op.execute("ALTER TABLE actor ENABLE ALWAYS TRIGGER explained")
