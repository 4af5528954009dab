"""What agents and tools wrote in calls can be overwritten once the task has no call under way."""

from alembic import op

revision = "0011"
down_revision = "0010"

# An ended call never changes, but that what was written in it is taken out of it.
_ENDED = """
CREATE OR REPLACE FUNCTION tool_call_ended() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    contents CONSTANT text[] = ARRAY['argument_digest', 'message', 'error_message', 'result_json', 'verdicts',
        'receipt_key', 'receipt_payload', 'receipt_signature'];
BEGIN
    IF NEW.argument_digest = '' AND NEW.message = '' AND NEW.error_message = ''
        AND coalesce(NEW.result_json, 'null') = 'null' AND NEW.receipt_payload IS NULL
        AND NOT jsonb_path_exists(NEW.verdicts, '$[*] ? (@.explanation != "")')
        AND to_jsonb(NEW) - contents = to_jsonb(OLD) - contents
    THEN RETURN NEW; END IF;
    RAISE EXCEPTION 'an ended call never changes';
END $$
"""
# Runs as the service: it may change all of this. `undelivered` is what the log has not yet heard of.
_ERASE = """
CREATE FUNCTION erase_tasks(of_tenant text, ids uuid[]) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    alive uuid[];
    n bigint;
    erased jsonb = '{}';
BEGIN
    SELECT coalesce(array_agg(DISTINCT task_id), '{}') INTO alive FROM tool_call
        WHERE tenant = of_tenant AND task_id = ANY(ids) AND status = 'RUNNING';
    IF cardinality(alive) = 0 THEN
        SELECT coalesce(array_agg(DISTINCT task_id), '{}') INTO alive FROM approval
            WHERE tenant = of_tenant AND task_id = ANY(ids) AND status = 'PENDING';
    END IF;
    IF cardinality(alive) > 0 THEN
        RETURN jsonb_build_object('running', alive, 'undelivered', false, 'erased', erased);
    END IF;
    IF EXISTS (SELECT FROM outbox WHERE tenant = of_tenant
        AND (body -> 'event' ->> 'taskId')::uuid = ANY(ids)) THEN
        RETURN jsonb_build_object('running', alive, 'undelivered', true, 'erased', erased);
    END IF;
    UPDATE tool_call SET argument_digest = '', message = '', error_message = '',
        result_json = CASE WHEN result_json IS NOT NULL THEN 'null' END,
        receipt_key = NULL, receipt_payload = NULL, receipt_signature = NULL,
        verdicts = (SELECT coalesce(jsonb_agg(verdict || '{"explanation": ""}' ORDER BY place), '[]')
            FROM jsonb_array_elements(verdicts) WITH ORDINALITY AS each (verdict, place))
        WHERE tenant = of_tenant AND task_id = ANY(ids) AND argument_digest <> '';
    GET DIAGNOSTICS n = ROW_COUNT;
    erased = erased || jsonb_build_object('tool_call', n);
    UPDATE approval SET argument_digest = '', arguments_json = '{}', decision_reason = ''
        WHERE tenant = of_tenant AND task_id = ANY(ids) AND argument_digest <> '';
    GET DIAGNOSTICS n = ROW_COUNT;
    erased = erased || jsonb_build_object('approval', n);
    RETURN jsonb_build_object('running', alive, 'undelivered', false, 'erased', erased);
END $$
"""


def upgrade() -> None:
    op.execute("CREATE INDEX approval_task ON approval (tenant, task_id)")
    op.execute(_ENDED)
    op.execute(_ERASE)
