"""Let whole entries go once their time is over, when an entry that stays lists them; their hashes stay.

Of a removed entry the place and the leaf's hash are kept, from which the tree can be built again. What the
service removes has to be told, checked and deleted in one transaction; the database refuses all else.
"""

from alembic import op

from svc_kit.migrations import service_role

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_OF_LOG = "log_id = (SELECT log_id FROM log WHERE tenant = current_setting('audit.tenant', true))"


def upgrade() -> None:
    op.execute(
        "ALTER TABLE retention_rule ADD COLUMN entry_max_days integer NOT NULL DEFAULT 0 CHECK"
        " (entry_max_days = 0 OR entry_max_days >= 184"
        " AND payload_max_days BETWEEN 1 AND entry_max_days)"
    )
    op.execute(
        "CREATE TABLE removed_entry (log_id uuid NOT NULL, leaf_index bigint NOT NULL,"
        " event_id uuid NOT NULL, leaf_hash bytea NOT NULL, explained_by uuid NOT NULL,"
        " PRIMARY KEY (log_id, leaf_index))"
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON removed_entry"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute("ALTER TABLE removed_entry ENABLE ALWAYS TRIGGER append_only")
    op.execute("ALTER TABLE removed_entry ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY of_tenant ON removed_entry FOR SELECT USING ({_OF_LOG})")
    if (role := service_role()) is not None:
        op.execute(f'CREATE POLICY of_service ON removed_entry TO "{role}" USING (true) WITH CHECK (true)')
    _check_claims()
    _let_go()


def _check_claims() -> None:
    """Many claims at once, because whoever appends waits while entries are removed."""
    # Six months are the least for anybody. What stays for ever belongs to no class. Proofs take the hashes of
    # full tiles from the tiles, those of the last one from its entries.
    op.execute(
        """
        CREATE FUNCTION refuse_false_removal() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE first record;
        BEGIN
            IF EXISTS (
                SELECT FROM gone LEFT JOIN LATERAL (
                    SELECT entry.* FROM entry
                    WHERE entry.log_id = gone.log_id AND entry.event_id = gone.event_id
                    OFFSET 0
                ) AS found ON true
                WHERE (found.leaf_index, found.leaf_hash) IS DISTINCT FROM (gone.leaf_index, gone.leaf_hash)
                    OR retention_class(found.type) IS NULL
                    OR found.recorded_time > now() - interval '184 days'
                    OR EXISTS (
                        SELECT FROM payload
                        WHERE payload.log_id = gone.log_id AND payload.event_id = gone.event_id
                    )
                    OR NOT EXISTS (
                        SELECT FROM log_head
                        WHERE log_head.log_id = gone.log_id AND gone.leaf_index < size - size % 256
                    )
            ) OR EXISTS (
                SELECT FROM (SELECT DISTINCT log_id, explained_by FROM gone) AS told
                WHERE NOT EXISTS (
                    SELECT FROM entry WHERE entry.log_id = told.log_id AND entry.event_id = told.explained_by
                        AND entry.type = 'RETENTION' AND entry.producer = 'audit'
                )
            ) THEN
                RAISE EXCEPTION '% on % is refused: an entry that is claimed to go has to stay',
                    TG_OP, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
            END IF;
            SELECT kept.event_id, kept.keeper INTO first
            FROM (SELECT log_id, array_agg(event_id) AS event_ids FROM gone GROUP BY log_id) AS each,
                LATERAL kept_of(each.log_id, each.event_ids) AS kept LIMIT 1;
            IF FOUND THEN
                RAISE EXCEPTION 'the entry % is kept', first.event_id
                    USING ERRCODE = 'restrict_violation', DETAIL = first.keeper;
            END IF;
            RETURN NULL;
        END
        $$
        """
    )
    op.execute(
        "CREATE TRIGGER may_go AFTER INSERT ON removed_entry REFERENCING NEW TABLE AS gone"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_false_removal()"
    )
    op.execute("ALTER TABLE removed_entry ENABLE ALWAYS TRIGGER may_go")


def _let_go() -> None:
    # A claim of an earlier transaction was checked then: a hold may have come since.
    op.execute(
        """
        CREATE FUNCTION refuse_unclaimed() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NOT EXISTS (
                SELECT FROM removed_entry
                WHERE removed_entry.log_id = OLD.log_id AND removed_entry.leaf_index = OLD.leaf_index
                    AND removed_entry.event_id = OLD.event_id
                    AND removed_entry.xmin = pg_current_xact_id()::xid
            ) THEN
                RAISE EXCEPTION '% on % is refused: the audit log is append-only, and no entry explains this',
                    TG_OP, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
            END IF;
            RETURN OLD;
        END
        $$
        """
    )
    op.execute("DROP TRIGGER append_only ON entry")
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON entry"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute("ALTER TABLE entry ENABLE ALWAYS TRIGGER append_only")
    op.execute(
        "CREATE TRIGGER claimed BEFORE DELETE ON entry FOR EACH ROW EXECUTE FUNCTION refuse_unclaimed()"
    )
    op.execute("ALTER TABLE entry ENABLE ALWAYS TRIGGER claimed")
    op.execute("SELECT guard_months('entry')")
