"""Keep entries and contents by month: partitions over the time in the event id, each guarded by itself.

The id is a UUIDv7, whose first 48 bits are milliseconds since 1970. What a database holds already becomes the
first partition as it is, without being copied. There is no default partition: an id is refused until its
month is there, and `make_months` makes them ahead of time.
"""

from alembic import op

from svc_kit.migrations import service_role

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_INDEXES = {
    "entry_by_agent": "agent, recorded_time, leaf_index",
    "entry_by_tool": "tool, recorded_time, leaf_index",
    "entry_by_type": "type, recorded_time, leaf_index",
    "entry_by_actor": "actor, recorded_time, leaf_index",
    "entry_by_time": "recorded_time, leaf_index",
}


def upgrade() -> None:
    _functions()
    # A partition cannot be unique by what is not its key: each month is so by itself, the rest is held by the
    # head's lock, under which indexes are given out.
    _partition("entry", "log_id, event_id", refused="UPDATE OR DELETE OR TRUNCATE")
    _partition("payload", "log_id, event_id, part", refused="UPDATE OR TRUNCATE")
    # Triggers for rows are inherited, also by what is attached; the one of its own would be in their way.
    op.execute("DROP TRIGGER explained ON payload_before")
    op.execute(
        "CREATE TRIGGER explained BEFORE DELETE ON payload FOR EACH ROW EXECUTE FUNCTION refuse_unexplained()"
    )
    op.execute("ALTER TABLE payload ENABLE ALWAYS TRIGGER explained")
    for name, columns in _INDEXES.items():
        op.execute(f"ALTER INDEX {name} RENAME TO {name}_before")
        op.execute(f"CREATE INDEX {name} ON entry (log_id, {columns})")
    op.execute("ALTER INDEX entry_by_task RENAME TO entry_by_task_before")
    op.execute("CREATE INDEX entry_by_task ON entry (log_id, task_id, leaf_index) WHERE task_id IS NOT NULL")
    for table in ("entry", "payload"):
        _attach_first(table)
    op.execute("SELECT make_months(3)")


def _functions() -> None:
    op.execute(
        """
        CREATE FUNCTION month_id(month timestamp) RETURNS uuid LANGUAGE sql IMMUTABLE
        SET search_path = pg_catalog, pg_temp AS $$
            SELECT rpad(lpad(to_hex((extract(epoch FROM month) * 1000)::bigint), 12, '0'), 32, '0')::uuid
        $$
        """
    )
    # From the bounds as the catalog has them: a list of our own could say something else.
    op.execute(
        """
        CREATE FUNCTION months_end(parent regclass) RETURNS timestamp LANGUAGE sql STABLE
        SET search_path = pg_catalog, pg_temp AS $$
            SELECT to_timestamp(max(('x' || left(replace(bound, '-', ''), 12))::bit(48)::bigint) / 1000)
                AT TIME ZONE 'UTC'
            FROM (
                SELECT (regexp_match(pg_get_expr(relpartbound, oid), 'TO \\(''([0-9a-f-]+)''\\)'))[1] AS bound
                FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = parent
            ) AS months
        $$
        """
    )
    # Statement triggers are not inherited: who names a partition would pass by them.
    op.execute(
        """
        CREATE FUNCTION guard_month(month regclass, parent regclass) RETURNS void LANGUAGE plpgsql
        SET search_path = public, pg_temp AS $$
        DECLARE guard record;
        BEGIN
            FOR guard IN SELECT tgname FROM pg_trigger
                WHERE tgrelid = month AND NOT tgisinternal AND tgparentid = 0
            LOOP
                EXECUTE format('DROP TRIGGER %I ON %s', guard.tgname, month);
            END LOOP;
            FOR guard IN SELECT oid, tgname FROM pg_trigger
                WHERE tgrelid = parent AND NOT tgisinternal AND tgtype & 1 = 0
            LOOP
                EXECUTE replace(pg_get_triggerdef(guard.oid, true),
                    format(' ON %s ', parent), format(' ON %s ', month));
                EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', month, guard.tgname);
            END LOOP;
        END
        $$
        """
    )
    # For migrations that change the guards of a table.
    op.execute(
        """
        CREATE FUNCTION guard_months(parent regclass) RETURNS void LANGUAGE sql
        SET search_path = public, pg_temp AS $$
            SELECT guard_month(inhrelid::regclass, parent) FROM pg_inherits WHERE inhparent = parent
        $$
        """
    )
    # Attached when it is ready: a partition that is created as one waits for every query on its parent.
    op.execute(
        """
        CREATE FUNCTION make_month(parent regclass, month timestamp) RETURNS void LANGUAGE plpgsql
        SET search_path = public, pg_temp AS $$
        DECLARE made text := format('%s_%s', parent, to_char(month, 'YYYY_MM'));
        BEGIN
            EXECUTE format('CREATE TABLE %I (LIKE %s INCLUDING ALL)', made, parent);
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
    # As its owner, because the service has no right to change the schema.
    op.execute(
        """
        CREATE FUNCTION make_months(ahead integer) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER
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
            FOREACH parent IN ARRAY ARRAY['entry', 'payload'] LOOP
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
    )
    for function in (
        "month_id(timestamp)",
        "months_end(regclass)",
        "guard_month(regclass, regclass)",
        "guard_months(regclass)",
        "make_month(regclass, timestamp)",
        "make_months(integer)",
    ):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    if (role := service_role()) is not None:
        op.execute(f'GRANT EXECUTE ON FUNCTION make_months(integer) TO "{role}"')


def _partition(table: str, key: str, *, refused: str) -> None:
    op.execute(f"ALTER TABLE {table} RENAME TO {table}_before")
    op.execute(f"ALTER TABLE {table}_before RENAME CONSTRAINT {table}_pkey TO {table}_before_pkey")
    op.execute(
        f"CREATE TABLE {table} (LIKE {table}_before INCLUDING DEFAULTS INCLUDING CONSTRAINTS"
        f" INCLUDING STORAGE, PRIMARY KEY ({key})) PARTITION BY RANGE (event_id)"
    )
    op.execute(
        f"CREATE TRIGGER append_only BEFORE {refused} ON {table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only")


def _attach_first(table: str) -> None:
    """All that there is, up to the end of the month of its newest id, and at least of this month."""
    op.execute(
        f"""
        DO $$
        DECLARE newest uuid; until timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
        BEGIN
            SELECT event_id INTO newest FROM {table}_before ORDER BY event_id DESC LIMIT 1;
            IF newest >= month_id(until) THEN
                until := date_trunc('month', to_timestamp(
                    ('x' || left(replace(newest::text, '-', ''), 12))::bit(48)::bigint / 1000
                ) AT TIME ZONE 'UTC');
            END IF;
            EXECUTE format(
                'ALTER TABLE {table} ATTACH PARTITION {table}_before FOR VALUES FROM (MINVALUE) TO (%L)',
                month_id(until + interval '1 month'));
        END
        $$
        """  # noqa: S608 -- names from above
    )
