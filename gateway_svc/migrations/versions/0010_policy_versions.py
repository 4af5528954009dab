"""Versions, modes and expiry of policies; what policies in shadow mode would have changed."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Every policy that stands becomes the first version of itself, in force and without an end."""
    op.execute(
        """
        ALTER TABLE policy
            ADD COLUMN mode text NOT NULL DEFAULT 'ENFORCE',
            ADD COLUMN expire_time timestamptz,
            ADD COLUMN version integer NOT NULL DEFAULT 1,
            ADD COLUMN update_time timestamptz,
            ADD COLUMN updater text
        """
    )
    op.execute("UPDATE policy SET update_time = create_time, updater = creator")
    op.execute(
        "ALTER TABLE policy ALTER COLUMN update_time SET NOT NULL, ALTER COLUMN updater SET NOT NULL,"
        " ALTER COLUMN mode DROP DEFAULT, ALTER COLUMN version DROP DEFAULT"
    )
    op.execute(
        """
        CREATE TABLE policy_version (
            tenant text NOT NULL,
            policy_id text COLLATE "C" NOT NULL,
            version integer NOT NULL,
            cedar text NOT NULL,
            description text NOT NULL,
            mode text NOT NULL,
            expire_time timestamptz,
            create_time timestamptz NOT NULL,
            creator text NOT NULL,
            update_time timestamptz NOT NULL,
            updater text NOT NULL,
            etag text NOT NULL,
            PRIMARY KEY (tenant, policy_id, version)
        )
        """
    )
    op.execute(
        """
        INSERT INTO policy_version SELECT tenant, policy_id, version, cedar, description, mode, expire_time,
            create_time, creator, update_time, updater, etag FROM policy
        """
    )
    op.execute("ALTER TABLE tool_call ADD COLUMN shadow_policy_ids text[] NOT NULL DEFAULT '{}'")
    op.execute(
        "CREATE INDEX tool_call_shadow ON tool_call USING gin (shadow_policy_ids)"
        " WHERE shadow_policy_ids <> '{}'"
    )
