"""Find contents by their words: an index beside the path of those who append.

Rows come by `index_texts` and go with their content, by a trigger. Both lock the content first, so that no
words are left of one that is removed while it is being indexed.
"""

from alembic import op

from svc_kit.migrations import service_role

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Lists of what was removed, and what was searched for: to find these would be to find searches.
_WITHOUT_WORDS = "('removed', 'search')"

# Words of JSON are those of its names and values, as they read without escapes; of what is no JSON after all,
# of other text, and of large JSON those of the text as it stands. No more than 256 KiB of JSON, or 100,000
# characters, can grow beyond the 1 MiB that a tsvector may have. The log's own word keeps logs apart within
# the index itself; no text can have it, for a colon ends a word.
_WORDS = """
CREATE FUNCTION text_words(of_log uuid, content_type text, body bytea) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own tsvector := array_to_tsvector(ARRAY['log:' || of_log]);
    said text;
BEGIN
    IF content_type !~ '^(text/|application/([a-z0-9.+-]+[+])?json(;|$))' THEN RETURN own; END IF;
    said := convert_from(body, 'UTF8');
    IF content_type LIKE 'application/%' AND octet_length(body) <= 262144 THEN
        BEGIN
            RETURN own || jsonb_to_tsvector('simple', said::jsonb, '["all"]');
        EXCEPTION WHEN data_exception OR program_limit_exceeded THEN NULL;
        END;
    END IF;
    RETURN own || to_tsvector('simple', left(said, 100000));
EXCEPTION WHEN data_exception THEN
    RETURN own;
END
$$
"""

_INDEX = f"""
CREATE FUNCTION index_texts(of_log uuid, at_most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    done bigint;
    until bigint;
BEGIN
    INSERT INTO text_progress (log_id, size) VALUES (of_log, 0) ON CONFLICT DO NOTHING;
    SELECT size INTO done FROM text_progress WHERE log_id = of_log FOR UPDATE SKIP LOCKED;
    -- Another replica is at it.
    IF NOT FOUND THEN RETURN 0; END IF;
    SELECT least(size, done + at_most) INTO STRICT until FROM log_head WHERE log_id = of_log;
    IF until > done THEN
        INSERT INTO payload_text (log_id, event_id, part, words)
            SELECT payload.log_id, payload.event_id, payload.part,
                text_words(payload.log_id, payload.content_type, payload.body)
            FROM entry JOIN payload ON payload.log_id = of_log AND payload.event_id = entry.event_id
            WHERE entry.log_id = of_log AND entry.leaf_index >= done AND entry.leaf_index < until
                AND payload.part NOT IN {_WITHOUT_WORDS}
            FOR KEY SHARE OF payload
            ON CONFLICT DO NOTHING;
        UPDATE text_progress SET size = until WHERE log_id = of_log;
        -- What a crash takes is indexed again; the disk is left to those who append.
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    RETURN until - done;
END
$$
"""  # noqa: S608 -- from above

# After the row, and so after whoever indexes it: the command sees what was committed while it waited.
_FORGET = """
CREATE FUNCTION forget_text() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    DELETE FROM payload_text
        WHERE log_id = OLD.log_id AND event_id = OLD.event_id AND part = OLD.part;
    RETURN NULL;
END
$$
"""

_KEEP = """
CREATE FUNCTION refuse_while_stored() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM payload
        WHERE log_id = OLD.log_id AND event_id = OLD.event_id AND part = OLD.part
    ) THEN
        RAISE EXCEPTION '% on % is refused: words go with their content alone', TG_OP, TG_TABLE_NAME
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN OLD;
END
$$
"""

# The words of a month's contents stand in a file of their own, which is written anew with it.
_REWRITE = """
CREATE OR REPLACE FUNCTION rewrite_contents(file text, most_bytes bigint) RETURNS boolean
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
    FOREACH relation IN ARRAY ARRAY[relation, to_regclass(regexp_replace(file, '^payload', 'payload_text'))]
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

_MAKE_MONTHS = """
CREATE OR REPLACE FUNCTION make_months(ahead integer) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    parent text; month timestamp; ready integer;
    this timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    before text := coalesce(current_setting('interlock.change_schema', true), '');
BEGIN
    IF ahead NOT BETWEEN 0 AND 24 THEN
        RAISE EXCEPTION 'months ahead must be between 0 and 24, not %', ahead;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('interlock audit months', 0));
    PERFORM set_config('interlock.change_schema', 'on', true);
    FOREACH parent IN ARRAY ARRAY['entry', 'payload', 'payload_text'] LOOP
        month := months_end(parent::regclass);
        WHILE month <= this + make_interval(months => ahead) LOOP
            PERFORM make_month(parent::regclass, month);
            month := month + interval '1 month';
        END LOOP;
        ready := least(ready, (extract(year FROM age(month, this)) * 12
            + extract(month FROM age(month, this)))::integer - 1);
    END LOOP;
    PERFORM set_config('interlock.change_schema', before, true);
    RETURN ready;
END
$$
"""

_OF_LOG = "log_id = (SELECT log_id FROM log WHERE tenant = current_setting('audit.tenant', true))"


def upgrade() -> None:
    op.execute("CREATE TABLE text_progress (log_id uuid PRIMARY KEY REFERENCES log, size bigint NOT NULL)")
    op.execute(
        "CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON text_progress"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TABLE payload_text (log_id uuid, event_id uuid, part text, words tsvector NOT NULL,"
        " PRIMARY KEY (log_id, event_id, part)) PARTITION BY RANGE (event_id)"
    )
    op.execute("CREATE INDEX payload_text_words ON payload_text USING gin (words)")
    for function in (_WORDS, _INDEX, _FORGET, _KEEP, _REWRITE, _MAKE_MONTHS):
        op.execute(function)
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON payload_text"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER stored BEFORE DELETE ON payload_text"
        " FOR EACH ROW EXECUTE FUNCTION refuse_while_stored()"
    )
    op.execute(
        "CREATE TRIGGER forget_text AFTER DELETE ON payload FOR EACH ROW EXECUTE FUNCTION forget_text()"
    )
    _first_months()
    for table, guards in {
        "text_progress": ("append_only",),
        "payload_text": ("append_only", "stored"),
        "payload": ("forget_text",),
    }.items():
        for guard in guards:
            op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {guard}")
    op.execute("SELECT guard_months('payload_text')")
    for table in ("text_progress", "payload_text"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY of_tenant ON {table} FOR SELECT USING ({_OF_LOG})")
    _rights()


def _first_months() -> None:
    """One partition for as long as the first one of `payload` lasts, and then month by month."""
    op.execute(
        """
        DO $$
        DECLARE bound text;
        BEGIN
            SELECT pg_get_expr(relpartbound, oid) INTO STRICT bound
                FROM pg_inherits JOIN pg_class ON oid = inhrelid
                WHERE inhparent = 'payload'::regclass AND pg_get_expr(relpartbound, oid) LIKE '%MINVALUE%';
            EXECUTE 'CREATE TABLE payload_text_before PARTITION OF payload_text ' || bound;
        END
        $$
        """
    )
    op.execute("SELECT make_months(3)")


def _rights() -> None:
    functions = (
        "text_words(uuid, text, bytea)",
        "index_texts(uuid, integer)",
        "forget_text()",
    )
    for function in functions:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    if (role := service_role()) is not None:
        for function in functions:
            if function != "forget_text()":
                op.execute(f'GRANT EXECUTE ON FUNCTION {function} TO "{role}"')
        for table in ("text_progress", "payload_text"):
            op.execute(f'CREATE POLICY of_service ON {table} TO "{role}" USING (true) WITH CHECK (true)')
