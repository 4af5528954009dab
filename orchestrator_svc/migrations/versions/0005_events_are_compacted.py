"""Old events of ended tasks can be removed; how far they are is on record."""

from alembic import op

revision = "0005"
down_revision = "0004"

# The service has no right to delete events. It can call this function, which runs as the owner and removes
# nothing but what it may: events of tasks that ended long ago, none of which the audit log still has to hear
# of, each task's events from the first one on, so that what is left of a task is without gaps.
_COMPACT = """
CREATE FUNCTION compact_events(after bigint, slice integer, hours integer,
    OUT scanned bigint, OUT removed bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    horizon timestamptz;
BEGIN
    IF hours < 1 THEN RAISE EXCEPTION 'events are kept for an hour at least, not % hours', hours; END IF;
    horizon = now() - make_interval(hours => hours);
    -- Nearly ordered by time as well, so a slice that holds nothing old is where the old ones end.
    SELECT max(part.position) FILTER (WHERE part.time < horizon) INTO scanned FROM (
        SELECT e.position, e.time FROM task_event e WHERE e.position > after ORDER BY e.position LIMIT slice
    ) AS part;
    WITH pending AS MATERIALIZED (
        SELECT DISTINCT (body ->> 'task_id')::uuid AS task_id FROM outbox
    ), gone AS (
        DELETE FROM task_event e USING task
        WHERE e.position > after AND e.position <= scanned
            AND task.task_id = e.task_id AND task.end_time < horizon
            AND NOT EXISTS (SELECT FROM pending WHERE pending.task_id = e.task_id)
            AND (SELECT first.position FROM task_event first
                WHERE first.task_id = e.task_id ORDER BY first.revision LIMIT 1) > after
        RETURNING e.position
    ), edge AS (
        UPDATE event_edge SET position = greatest(event_edge.position, top.position)
        FROM (SELECT max(gone.position) AS position FROM gone) AS top WHERE top.position IS NOT NULL
    )
    SELECT count(*) INTO removed FROM gone;
END $$
"""


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE event_edge (
            id smallint PRIMARY KEY CHECK (id = 1),
            position bigint NOT NULL CHECK (position >= 0)
        )
        """
    )
    op.execute("INSERT INTO event_edge VALUES (1, 0)")
    op.execute(_COMPACT)
