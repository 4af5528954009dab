"""A claim's id is its session's own: the same one of another session is another claim."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute("ALTER TABLE claim DROP CONSTRAINT claim_pkey, ADD PRIMARY KEY (session_id, claim_id)")
