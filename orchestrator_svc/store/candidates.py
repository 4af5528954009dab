"""The statement that finds the waiting tasks of a queue of which `dispatch.choose` takes its choice."""

import sqlalchemy as sa

_CLASS = (
    "state = 'SUBMITTED' AND pool = :pool AND task.tenant = :tenant AND task.queue = :queue"
    " AND task.priority = level.priority"
)
_LANE = f"{_CLASS} AND task.fairness_key = class.fairness_key"
_DUE = "task.run_after <= statement_timestamp() AND (:suspects OR NOT task.suspect)"
# Those of a fairness key that have a concurrency key of their own; two indexes hold them alone.
_KEYED = f"{_LANE} AND task.concurrency_key <> '' AND task.concurrency_key <> task.fairness_key"
_HASH = "hashtextextended(task.concurrency_key, 0)"
# So many of the oldest with concurrency keys of their own are looked at, and if none may run, so many keys.
LOOK_AHEAD = 100
HIGHEST_HASH = 2**63 - 1
# Fairness keys with waiting tasks, beginning after the one that had its turn last. Every step from key to key
# is one look into the index, however many tasks of a key wait.
_CLASSES = f"""
    WITH RECURSIVE walk AS (
        SELECT false AS again, (SELECT task.fairness_key FROM task
            WHERE {_CLASS} AND task.fairness_key > level.last ORDER BY 1 LIMIT 1) AS fairness_key
        UNION ALL
        SELECT walk.again OR walk.fairness_key IS NULL, CASE WHEN walk.fairness_key IS NULL
            THEN (SELECT task.fairness_key FROM task
                WHERE {_CLASS} AND task.fairness_key <= level.last ORDER BY 1 LIMIT 1)
            WHEN walk.again THEN (SELECT task.fairness_key FROM task WHERE {_CLASS}
                AND task.fairness_key > walk.fairness_key AND task.fairness_key <= level.last
                ORDER BY 1 LIMIT 1)
            ELSE (SELECT task.fairness_key FROM task
                WHERE {_CLASS} AND task.fairness_key > walk.fairness_key ORDER BY 1 LIMIT 1)
            END
        FROM walk WHERE walk.fairness_key IS NOT NULL OR NOT walk.again
    )
    SELECT fairness_key FROM walk WHERE fairness_key IS NOT NULL
"""  # noqa: S608 - parts of our own
# The oldest of a class that may run. Its concurrency keys are gone through only when its oldest tasks are all
# of full keys: in the order of their hashes, from a random one on, so that each comes up again and again.
_LINE = f"""
    WITH RECURSIVE own AS (
        SELECT first.* FROM (SELECT '' AS key UNION SELECT class.fairness_key) AS of, LATERAL (
            SELECT task.task_id, task.run_after, task.concurrency_key FROM task
            WHERE {_LANE} AND task.concurrency_key = of.key AND {_DUE}
            ORDER BY task.run_after, task.task_id LIMIT :limit
        ) AS first
        WHERE of.key NOT IN (SELECT unnest(CAST(:full AS text[])))
    ),
    ahead AS MATERIALIZED (
        SELECT task.task_id, task.run_after, task.concurrency_key, task.suspect FROM task
        WHERE {_KEYED} AND task.run_after <= statement_timestamp()
        ORDER BY task.run_after, task.task_id LIMIT {LOOK_AHEAD}
    ),
    oldest AS MATERIALIZED (
        SELECT * FROM (
            SELECT task_id, run_after, concurrency_key,
                row_number() OVER (PARTITION BY concurrency_key ORDER BY run_after, task_id) AS place
            FROM ahead WHERE (:suspects OR NOT suspect)
                AND concurrency_key NOT IN (SELECT unnest(CAST(:full AS text[])))
        ) AS free WHERE place <= :per_key
    ),
    walk AS (
        SELECT false AS again, CAST(:start AS bigint) AS key_hash, false AS free, 0 AS found
        WHERE (SELECT count(*) FROM ahead) = {LOOK_AHEAD} AND NOT EXISTS (SELECT FROM oldest)
        UNION ALL
        SELECT place.again, place.key_hash, next.free, walk.found + CAST(next.free AS integer)
        FROM walk, LATERAL (
            SELECT * FROM (
                (SELECT walk.again, {_HASH} AS key_hash FROM task WHERE {_KEYED}
                    AND {_HASH} > walk.key_hash
                    AND {_HASH} <= CASE WHEN walk.again THEN :start ELSE {HIGHEST_HASH} END
                    ORDER BY 2 LIMIT 1)
                UNION ALL
                (SELECT true, {_HASH} FROM task WHERE {_KEYED} AND NOT walk.again AND {_HASH} <= :start
                    ORDER BY 2 LIMIT 1)
            ) AS either ORDER BY again LIMIT 1
        ) AS place, LATERAL (
            SELECT coalesce((SELECT task.concurrency_key FROM task
                WHERE {_KEYED} AND {_HASH} = place.key_hash AND {_DUE}
                ORDER BY task.run_after, task.task_id LIMIT 1
            ) NOT IN (SELECT unnest(CAST(:full AS text[]))), false) AS free
        ) AS next
        WHERE walk.found < {LOOK_AHEAD}
    )
    SELECT array_agg(task_id ORDER BY run_after, task_id) AS task_ids,
        array_agg(concurrency_key ORDER BY run_after, task_id) AS concurrency_keys
    FROM (
        SELECT * FROM own
        UNION ALL
        SELECT task_id, run_after, concurrency_key FROM oldest
        UNION ALL
        SELECT first.* FROM walk, LATERAL (
            SELECT task.task_id, task.run_after, task.concurrency_key FROM task
            WHERE {_KEYED} AND {_HASH} = walk.key_hash AND {_DUE}
            ORDER BY task.run_after, task.task_id LIMIT :per_key
        ) AS first
        WHERE walk.free
        ORDER BY run_after, task_id LIMIT :limit
    ) AS due
"""  # noqa: S608 - parts of our own
# As many classes (a priority and a fairness key) as tasks are wanted, each with as many tasks.
CANDIDATES = sa.text(
    f"""
    SELECT level.priority, class.fairness_key, line.task_ids, line.concurrency_keys
    FROM (SELECT priority, (CAST(:turns AS text[]))[priority + 1] COLLATE "C" AS last
        FROM generate_series(9, 0, -1) AS priority) AS level,
    LATERAL ({_CLASSES}) AS class,
    LATERAL ({_LINE}) AS line
    WHERE line.task_ids IS NOT NULL
    LIMIT :limit
    """  # noqa: S608 - parts of our own
)
