"""Take no samples of what can be erased: the planner's statistics hold values of rows, and outlive them.

Only what tasks take turns by has to be sampled, or claims are planned badly: when a task is erased that has
such a key, the samples are taken anew.
"""

from alembic import op

from svc_kit.migrations import without_samples

revision = "0013"
down_revision = "0012"

# As before, and then new samples of the keys, without those of the tasks that were erased.
_ERASE = """
CREATE OR REPLACE FUNCTION erase_tasks(of_tenant text, ids uuid[]) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    known uuid[];
    alive uuid[];
    blobs text[];
    keyed boolean;
    n bigint;
    erased jsonb = '{}';
BEGIN
    PERFORM FROM task WHERE task_id = ANY(ids) AND tenant = of_tenant ORDER BY task_id FOR UPDATE;
    SELECT coalesce(array_agg(task_id), '{}'),
        coalesce(array_agg(task_id) FILTER (WHERE end_time IS NULL), '{}'),
        array_remove(array_agg(input_blob) || array_agg(result_blob), NULL),
        coalesce(bool_or(fairness_key <> '' OR concurrency_key <> ''), false)
        INTO known, alive, blobs, keyed
        FROM task WHERE task_id = ANY(ids) AND tenant = of_tenant;
    IF cardinality(alive) > 0 THEN
        RETURN jsonb_build_object('running', alive, 'undelivered', false, 'erased', erased);
    END IF;
    IF EXISTS (SELECT FROM outbox WHERE (body ->> 'task_id')::uuid = ANY(known)) THEN
        RETURN jsonb_build_object('running', alive, 'undelivered', true, 'erased', erased);
    END IF;
    UPDATE task SET input = '{}', result = NULL, input_blob = NULL, result_blob = NULL, labels = '{}',
        fairness_key = '', concurrency_key = '', error = error || '{"message": ""}', erase_time = now()
        WHERE task_id = ANY(known) AND erase_time IS NULL;
    GET DIAGNOSTICS n = ROW_COUNT;
    IF keyed THEN ANALYZE task (fairness_key, concurrency_key); END IF;
    erased = erased || jsonb_build_object('task', n);
    UPDATE attempt SET error = error || '{"message": ""}', progress = NULL
        WHERE task_id = ANY(known) AND (error ->> 'message' <> '' OR progress IS NOT NULL);
    GET DIAGNOSTICS n = ROW_COUNT;
    erased = erased || jsonb_build_object('attempt', n);
    UPDATE task_step SET input = 'null', input_digest = '', error = error || '{"message": ""}',
        output = CASE WHEN output IS NOT NULL THEN 'null' END
        WHERE task_id = ANY(known) AND input_digest <> '';
    GET DIAGNOSTICS n = ROW_COUNT;
    erased = erased || jsonb_build_object('task_step', n);
    UPDATE task_event SET detail = CASE WHEN detail ? 'error'
            THEN jsonb_set(detail, '{error,message}', '""') ELSE detail END
            || CASE WHEN detail ? 'step'
            THEN jsonb_build_object('step', detail -> 'step' || '{"digest": ""}') ELSE '{}' END
        WHERE task_id = ANY(known)
            AND (detail -> 'error' ->> 'message' <> '' OR detail -> 'step' ->> 'digest' <> '');
    GET DIAGNOSTICS n = ROW_COUNT;
    erased = erased || jsonb_build_object('task_event', n);
    UPDATE task_input SET prompt = '', answer = CASE WHEN answer IS NOT NULL THEN 'null' END
        WHERE task_id = ANY(known) AND (prompt <> '' OR answer <> 'null');
    GET DIAGNOSTICS n = ROW_COUNT;
    erased = erased || jsonb_build_object('task_input', n);
    -- The request id still counts as used; what was asked under it is not known any more.
    UPDATE idempotency SET digest = '' WHERE task_id = ANY(known) AND digest <> '';
    GET DIAGNOSTICS n = ROW_COUNT;
    erased = erased || jsonb_build_object('idempotency', n);
    DELETE FROM blob WHERE tenant = of_tenant AND digest = ANY(blobs)
        AND NOT EXISTS (SELECT FROM task WHERE (task.tenant, input_blob) = (blob.tenant, blob.digest))
        AND NOT EXISTS (SELECT FROM task WHERE (task.tenant, result_blob) = (blob.tenant, blob.digest));
    GET DIAGNOSTICS n = ROW_COUNT;
    erased = erased || jsonb_build_object('blob', n);
    RETURN jsonb_build_object('running', alive, 'undelivered', false, 'erased', erased);
END $$
"""


def upgrade() -> None:
    without_samples(
        {
            "task": (
                "input",
                "result",
                "input_blob",
                "result_blob",
                "labels",
                "error",
            ),
            "attempt": ("error", "progress"),
            "task_step": ("input", "input_digest", "output", "error"),
            "task_event": ("detail",),
            "task_input": ("prompt", "answer"),
            "idempotency": ("digest",),
            "blob": ("digest", "data"),
            "outbox": ("body",),
        }
    )
    op.execute(_ERASE)
