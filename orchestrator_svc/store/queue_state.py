"""Parts of statements that more than one question about queues needs."""

# Tokens in the bucket of a row of `queue` by now; NULL where it has no rate limit.
TOKENS = (
    "CASE WHEN queue.rate_count IS NOT NULL THEN least(queue.rate_burst, queue.tokens"
    " + greatest(0, extract(epoch FROM clock_timestamp() - queue.tokens_time)::float8)"
    " * queue.rate_count / queue.rate_seconds) END"
)
# Whether a queue's tasks are handed out under its lock.
MANAGED = "(queue.keyed OR queue.max_running IS NOT NULL OR queue.rate_count IS NOT NULL)"
# Whether as many of its tasks run as may.
FULL = (
    "(queue.max_running IS NOT NULL AND queue.max_running <= (SELECT count(*) FROM (SELECT FROM task"
    " WHERE task.tenant = queue.tenant AND task.queue = queue.name AND task.session_id IS NOT NULL"
    " LIMIT queue.max_running) AS live))"
)
# From queue to queue along the index, then without those that cannot give anything now. Parameters: pool,
# tenants.
OPEN_QUEUES = f"""
    WITH RECURSIVE waiting AS (
        SELECT asked.tenant, (SELECT queue FROM task WHERE state = 'SUBMITTED' AND pool = :pool
            AND task.tenant = asked.tenant ORDER BY queue LIMIT 1) AS queue
        FROM unnest(CAST(:tenants AS text[])) AS asked (tenant)
        UNION ALL
        SELECT waiting.tenant, (SELECT queue FROM task WHERE state = 'SUBMITTED' AND pool = :pool
            AND task.tenant = waiting.tenant AND task.queue > waiting.queue ORDER BY queue LIMIT 1)
        FROM waiting WHERE waiting.queue IS NOT NULL
    ), open_queue AS (
        SELECT waiting.tenant, waiting.queue, coalesce({MANAGED}, false) AS managed FROM waiting
        LEFT JOIN queue ON queue.tenant = waiting.tenant AND queue.name = waiting.queue
        WHERE waiting.queue IS NOT NULL
            AND (queue.name IS NULL OR NOT (queue.paused OR {FULL} OR coalesce({TOKENS} < 1, false)))
    )
"""  # noqa: S608 - parts of our own
