"""Child tasks: where a task stands in its tree, and which tasks wait for which."""

from alembic import op

revision = "0004"
down_revision = "0003"

_LINEAGE = """
ALTER TABLE task
    ADD COLUMN parent_task_id uuid,
    ADD COLUMN root_task_id uuid,
    ADD COLUMN depth smallint NOT NULL DEFAULT 0 CHECK (depth >= 0),
    ADD COLUMN close_policy text CHECK (close_policy IN ('CANCEL', 'ABANDON')),
    ADD CONSTRAINT task_lineage CHECK ((parent_task_id IS NULL) = (root_task_id IS NULL)
        AND (parent_task_id IS NULL) = (close_policy IS NULL) AND (parent_task_id IS NULL) = (depth = 0))
"""
_INDEXES = (
    (
        "CREATE INDEX task_children ON task (parent_task_id, create_time DESC, task_id DESC)"
        " WHERE parent_task_id IS NOT NULL"
    ),
    "CREATE INDEX task_tree ON task (root_task_id) WHERE root_task_id IS NOT NULL",
    # What is canceled when its parent ends.
    (
        "CREATE INDEX task_open_children ON task (parent_task_id)"
        " WHERE close_policy = 'CANCEL' AND end_time IS NULL"
    ),
)
_WAIT = """
CREATE TABLE child_wait (
    child_id uuid NOT NULL,
    parent_id uuid NOT NULL,
    tenant text NOT NULL,
    PRIMARY KEY (parent_id, child_id)
)
"""


def upgrade() -> None:
    op.execute(_LINEAGE)
    for index in _INDEXES:
        op.execute(index)
    op.execute(_WAIT)
