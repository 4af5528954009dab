"""Create the logs with the triggers that keep them append-only."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_APPEND_ONLY = ("log", "entry", "payload", "tile", "checkpoint", "actor")


def upgrade() -> None:
    _create_tables()
    _create_indexes()
    _guard()


def _create_tables() -> None:
    op.execute(
        """
        CREATE TABLE log (
            log_id uuid PRIMARY KEY,
            tenant text NOT NULL UNIQUE,
            origin text NOT NULL UNIQUE,
            create_time timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    # Room on the page, because this one row changes with every commit.
    op.execute(
        """
        CREATE TABLE log_head (
            log_id uuid PRIMARY KEY REFERENCES log,
            size bigint NOT NULL CHECK (size >= 0),
            frontier bytea NOT NULL,
            root bytea NOT NULL CHECK (octet_length(root) = 32)
        ) WITH (fillfactor = 10)
        """
    )
    # No foreign keys on what every append writes: whoever appends holds the head row of that very log.
    op.execute(
        """
        CREATE TABLE entry (
            log_id uuid NOT NULL,
            event_id uuid NOT NULL,
            leaf_index bigint NOT NULL CHECK (leaf_index >= 0),
            type text NOT NULL,
            producer text NOT NULL,
            producer_sequence bigint NOT NULL,
            actor text NOT NULL,
            agent text NOT NULL,
            agent_version text NOT NULL,
            task_id uuid,
            tool text NOT NULL,
            status text NOT NULL,
            trace_id text NOT NULL,
            span_id text NOT NULL,
            event_time timestamptz NOT NULL,
            recorded_time timestamptz NOT NULL,
            leaf bytea NOT NULL,
            leaf_hash bytea NOT NULL CHECK (octet_length(leaf_hash) = 32),
            PRIMARY KEY (log_id, event_id)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE payload (
            log_id uuid NOT NULL,
            event_id uuid NOT NULL,
            part text NOT NULL,
            content_type text NOT NULL,
            salt bytea NOT NULL CHECK (octet_length(salt) = 32),
            body bytea NOT NULL,
            PRIMARY KEY (log_id, event_id, part)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE tile (
            log_id uuid NOT NULL,
            tier smallint NOT NULL,
            number bigint NOT NULL,
            hashes bytea NOT NULL CHECK (octet_length(hashes) = 8192),
            root bytea NOT NULL CHECK (octet_length(root) = 32),
            PRIMARY KEY (log_id, tier, number)
        )
        """
    )
    # Hashes do not compress; trying costs time and gains nothing.
    op.execute("ALTER TABLE tile ALTER COLUMN hashes SET STORAGE EXTERNAL")
    op.execute(
        """
        CREATE TABLE checkpoint (
            log_id uuid NOT NULL REFERENCES log,
            size bigint NOT NULL CHECK (size > 0),
            root bytea NOT NULL CHECK (octet_length(root) = 32),
            note text NOT NULL,
            sign_time timestamptz NOT NULL,
            PRIMARY KEY (log_id, size)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE actor (
            log_id uuid NOT NULL REFERENCES log,
            pseudonym text NOT NULL,
            subject text NOT NULL,
            PRIMARY KEY (log_id, pseudonym),
            UNIQUE (log_id, subject)
        )
        """
    )


def _create_indexes() -> None:
    op.execute("CREATE UNIQUE INDEX entry_by_index ON entry (log_id, leaf_index)")
    op.execute("CREATE INDEX entry_by_task ON entry (log_id, task_id, leaf_index) WHERE task_id IS NOT NULL")


def _guard() -> None:
    op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% on % is refused: the audit log is append-only', TG_OP, TG_TABLE_NAME
                USING ERRCODE = 'insufficient_privilege';
        END
        $$
        """
    )
    # Statement triggers: TRUNCATE has no other, and a statement that would change no row is refused as well.
    for table in _APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute(
        "CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON log_head"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        """
        CREATE FUNCTION refuse_shrinking() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.log_id <> OLD.log_id OR NEW.size <= OLD.size THEN
                RAISE EXCEPTION 'the tree of log % may only grow', OLD.log_id
                    USING ERRCODE = 'insufficient_privilege';
            END IF;
            RETURN NEW;
        END
        $$
        """
    )
    op.execute(
        "CREATE TRIGGER only_grows BEFORE UPDATE ON log_head FOR EACH ROW EXECUTE FUNCTION refuse_shrinking()"
    )
    # Also while a session claims to be a replica, in which ordinary triggers sleep.
    for table in (*_APPEND_ONLY, "log_head"):
        op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only")
    op.execute("ALTER TABLE log_head ENABLE ALWAYS TRIGGER only_grows")
