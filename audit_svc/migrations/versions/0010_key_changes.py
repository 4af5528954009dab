"""Change the key that signs checkpoints: which keys there are, and from which entry on each log has which.

A checkpoint of a tree that holds the entry of a change is signed by the new key, one of a smaller tree by the
key before. A log begins with the key that is the newest when it is made.
"""

from alembic import op

from svc_kit.migrations import service_role

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_OF_LOG = "log_id = (SELECT log_id FROM log WHERE tenant = current_setting('audit.tenant', true))"


def upgrade() -> None:
    op.execute(
        "CREATE TABLE signing_key (number integer PRIMARY KEY CHECK (number > 1), public_key bytea NOT NULL,"
        " requester text NOT NULL, create_time timestamptz NOT NULL DEFAULT now())"
    )
    op.execute(
        "CREATE TABLE key_change (log_id uuid NOT NULL REFERENCES log, number integer NOT NULL"
        " REFERENCES signing_key, leaf_index bigint NOT NULL, event_id uuid NOT NULL,"
        " PRIMARY KEY (log_id, number))"
    )
    op.execute("ALTER TABLE log ADD COLUMN first_key integer NOT NULL DEFAULT 1")
    for table in ("signing_key", "key_change"):
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only")
    op.execute("ALTER TABLE key_change ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY of_tenant ON key_change FOR SELECT USING ({_OF_LOG})")
    if (role := service_role()) is not None:
        op.execute(f'CREATE POLICY of_service ON key_change TO "{role}" USING (true) WITH CHECK (true)')
