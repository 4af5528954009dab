"""Tasks that have a concurrency key beside their fairness key are found by age, and from key to key."""

from alembic import op

revision = "0009"
down_revision = "0008"

_OF_THEIR_OWN = "state = 'SUBMITTED' AND concurrency_key <> '' AND concurrency_key <> fairness_key"


def upgrade() -> None:
    op.execute(
        "CREATE INDEX task_waiting_by_age ON task (pool, tenant, queue, priority DESC, fairness_key,"
        f" run_after, task_id) WHERE {_OF_THEIR_OWN}"
    )
    # Hashes, for a walk can begin at a random one of them and meet every key as often.
    op.execute(
        "CREATE INDEX task_waiting_by_key ON task (pool, tenant, queue, priority DESC, fairness_key,"
        f" hashtextextended(concurrency_key, 0), run_after, task_id) WHERE {_OF_THEIR_OWN}"
    )
