"""Agents, tools and their immutable versions."""

from alembic import op

from svc_kit.event_log import create_log_head
from svc_kit.outbox import create_outbox

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the first tables."""
    create_log_head(op)
    create_outbox(op)
    op.execute(
        """
        CREATE TABLE resource (
            kind text NOT NULL CHECK (kind IN ('agent', 'tool')),
            tenant text NOT NULL,
            name text COLLATE "C" NOT NULL,
            latest_version text NOT NULL,
            active boolean NOT NULL,
            description text NOT NULL,
            capabilities text[] NOT NULL,
            covered text[] NOT NULL,
            tools text[] NOT NULL,
            creator text NOT NULL,
            create_time timestamptz NOT NULL,
            update_time timestamptz NOT NULL,
            position bigint NOT NULL,
            PRIMARY KEY (kind, tenant, name)
        )
        """
    )
    op.execute("CREATE INDEX resource_position ON resource (position)")
    op.execute("CREATE INDEX resource_covered ON resource USING gin (covered)")
    op.execute("CREATE INDEX resource_tools ON resource USING gin (tools)")
    op.execute(
        """
        CREATE TABLE version (
            kind text NOT NULL,
            tenant text NOT NULL,
            name text COLLATE "C" NOT NULL,
            version text NOT NULL,
            digest text NOT NULL,
            spec_json text NOT NULL,
            publisher text NOT NULL,
            create_time timestamptz NOT NULL,
            position bigint NOT NULL,
            PRIMARY KEY (kind, tenant, name, version),
            FOREIGN KEY (kind, tenant, name) REFERENCES resource
        )
        """
    )
    op.execute("CREATE INDEX version_position ON version (position)")
    op.execute(
        """
        CREATE FUNCTION version_is_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'a published version never changes'; END $$
        """
    )
    op.execute(
        "CREATE TRIGGER version_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON version"
        " FOR EACH STATEMENT EXECUTE FUNCTION version_is_immutable()"
    )
