"""Large inputs and results: JSON documents by their digest."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE blob (
            tenant text NOT NULL,
            digest text NOT NULL CHECK (digest ~ '^sha256:[0-9a-f]{64}$'),
            size bigint NOT NULL,
            -- Out of line and as it is, so that a slice is read without the rest.
            data bytea STORAGE EXTERNAL NOT NULL CHECK (length(data) = size),
            use_time timestamptz NOT NULL,
            PRIMARY KEY (tenant, digest) INCLUDE (size)
        )
        """
    )
    op.execute("CREATE INDEX blob_use_time ON blob (use_time)")
    for column in ("input_blob", "result_blob"):
        op.execute(
            f"ALTER TABLE task ADD COLUMN {column} text,"
            f" ADD CONSTRAINT task_{column} FOREIGN KEY (tenant, {column}) REFERENCES blob"
        )
        op.execute(f"CREATE INDEX task_{column} ON task (tenant, {column}) WHERE {column} IS NOT NULL")
