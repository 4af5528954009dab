"""What people and agents wrote in an ended task can be overwritten, and nothing else of it."""

from alembic import op

revision = "0012"
down_revision = "0011"

# An ended task never changes, but that what was written in it is taken out of it, once.
_TERMINAL = """
CREATE OR REPLACE FUNCTION task_is_over() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    contents CONSTANT text[] = ARRAY['input', 'result', 'input_blob', 'result_blob', 'labels', 'error',
        'fairness_key', 'concurrency_key', 'erase_time'];
BEGIN
    IF OLD.erase_time IS NULL AND NEW.erase_time IS NOT NULL
        AND NEW.input = '{}' AND NEW.result IS NULL AND NEW.input_blob IS NULL AND NEW.result_blob IS NULL
        AND NEW.labels = '{}' AND NEW.fairness_key = '' AND NEW.concurrency_key = ''
        AND coalesce(NEW.error ->> 'message', '') = ''
        AND to_jsonb(NEW) - contents = to_jsonb(OLD) - contents
    THEN RETURN NEW; END IF;
    RAISE EXCEPTION 'task % is % and never changes', OLD.task_id, OLD.state;
END $$
"""
# The service has no right to change events or to take back its word on tasks; this function, which runs as
# the owner, overwrites what was written in tasks that have ended and of which the log has heard everything.
# It locks the tasks first: nothing about them can begin meanwhile.
_ERASE = """
CREATE FUNCTION erase_tasks(of_tenant text, ids uuid[]) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    known uuid[];
    alive uuid[];
    blobs text[];
    n bigint;
    erased jsonb = '{}';
BEGIN
    PERFORM FROM task WHERE task_id = ANY(ids) AND tenant = of_tenant ORDER BY task_id FOR UPDATE;
    SELECT coalesce(array_agg(task_id), '{}'),
        coalesce(array_agg(task_id) FILTER (WHERE end_time IS NULL), '{}'),
        array_remove(array_agg(input_blob) || array_agg(result_blob), NULL)
        INTO known, alive, blobs
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
    op.execute("ALTER TABLE task ADD COLUMN erase_time timestamptz")
    op.execute(_TERMINAL)
    op.execute("CREATE INDEX idempotency_task ON idempotency (task_id)")
    op.execute(_ERASE)
