"""The one statement by which locked tasks change: all of a batch, and the log's head, in one round trip.

Locks: the tasks are held already, in the order of their ids; new claims are stored before the head of the log
is taken, which is the last lock of the transaction and is held for this statement and the commit alone.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc.changes import AuditNote, TaskChanges
from orchestrator_svc.lifecycle import Ending
from orchestrator_svc.records import Event, LockedTask, NewClaim, Session, Step, StepStatus
from orchestrator_svc.store.rows import detail_json, error_json, usage_json
from svc_kit.ids import uuid7

Parameters = dict[str, list[Any]]


_TASK = """changed AS (
    UPDATE task SET state = c.state, wait_reason = c.wait_reason, run_after = c.run_after,
        attempt = c.attempt, failures = c.failures, crashes = c.crashes, error = c.error::jsonb,
        revision = c.revision, step_count = c.step_count, session_id = c.session_id,
        last_outcome = c.last_outcome, result = c.result, input_kind = c.input_kind, suspect = c.suspect,
        pausing = c.pausing, dead_lettered = c.dead_lettered, start_by = c.start_by, expires = c.expires,
        left_seconds = c.left_seconds, wind_up_by = c.wind_up_by, losses = c.losses,
        result_blob = c.result_blob, usage = c.usage::jsonb,
        close_by = CASE WHEN c.session_id IS NULL THEN NULL
            WHEN task.session_id IS NOT NULL THEN task.close_by
            ELSE statement_timestamp() + make_interval(secs => task.start_to_close) END,
        start_time = coalesce(task.start_time,
            CASE WHEN c.session_id IS NOT NULL THEN statement_timestamp() END),
        end_time = CASE WHEN c.over THEN statement_timestamp() END
    FROM unnest(CAST(:t_id AS uuid[]), CAST(:t_tenant AS text[]), CAST(:t_state AS text[]),
        CAST(:t_wait AS text[]), CAST(:t_run_after AS timestamptz[]), CAST(:t_attempt AS int[]),
        CAST(:t_failures AS int[]), CAST(:t_crashes AS int[]), CAST(:t_error AS text[]),
        CAST(:t_revision AS bigint[]), CAST(:t_steps AS int[]), CAST(:t_session AS uuid[]),
        CAST(:t_outcome AS text[]), CAST(:t_result AS text[]), CAST(:t_over AS bool[]),
        CAST(:t_input_kind AS text[]), CAST(:t_suspect AS bool[]), CAST(:t_pausing AS bool[]),
        CAST(:t_dead AS bool[]), CAST(:t_start_by AS timestamptz[]), CAST(:t_expires AS timestamptz[]),
        CAST(:t_left AS float8[]), CAST(:t_wind_up_by AS timestamptz[]), CAST(:t_losses AS int[]),
        CAST(:t_result_blob AS text[]), CAST(:t_usage AS text[]))
        AS c (task_id, tenant, state, wait_reason, run_after, attempt, failures, crashes, error, revision,
            step_count, session_id, last_outcome, result, over, input_kind, suspect, pausing, dead_lettered,
            start_by, expires, left_seconds, wind_up_by, losses, result_blob, usage)
    WHERE task.task_id = c.task_id AND task.tenant = c.tenant
    RETURNING task.task_id
)"""
_STARTED = """started AS (
    INSERT INTO attempt (task_id, attempt, tenant, worker, session_id, start_time)
    SELECT *, statement_timestamp() FROM unnest(CAST(:s_id AS uuid[]), CAST(:s_attempt AS int[]),
        CAST(:s_tenant AS text[]), CAST(:s_worker AS text[]), CAST(:s_session AS uuid[])) AS s
)"""
_ENDED = """ended AS (
    UPDATE attempt SET end_time = statement_timestamp(), outcome = e.outcome, error = e.error::jsonb
    FROM unnest(CAST(:e_id AS uuid[]), CAST(:e_attempt AS int[]), CAST(:e_outcome AS text[]),
        CAST(:e_error AS text[])) AS e (task_id, attempt, outcome, error)
    WHERE attempt.task_id = e.task_id AND attempt.attempt = e.attempt
)"""
_STEPS = """steps AS (
    INSERT INTO task_step (task_id, step_key, tenant, ordinal, kind, name, status, call_id, input_digest,
        input, output, error, attempt, start_time, end_time)
    SELECT j.task_id, j.step_key, j.tenant, j.ordinal, j.kind, j.name, j.status, j.call_id, j.digest, j.input,
        j.output, j.error::jsonb, j.attempt, statement_timestamp(),
        CASE WHEN j.over THEN statement_timestamp() END
    FROM unnest(CAST(:j_id AS uuid[]), CAST(:j_key AS text[]), CAST(:j_tenant AS text[]),
        CAST(:j_ordinal AS int[]), CAST(:j_kind AS text[]), CAST(:j_name AS text[]),
        CAST(:j_status AS text[]), CAST(:j_call AS uuid[]), CAST(:j_digest AS text[]),
        CAST(:j_input AS text[]), CAST(:j_output AS text[]), CAST(:j_error AS text[]),
        CAST(:j_attempt AS int[]), CAST(:j_over AS bool[]))
        AS j (task_id, step_key, tenant, ordinal, kind, name, status, call_id, digest, input, output, error,
            attempt, over)
    ON CONFLICT (task_id, step_key) DO UPDATE SET status = excluded.status, output = excluded.output,
        error = excluded.error, attempt = excluded.attempt, end_time = excluded.end_time,
        call_id = excluded.call_id
)"""
_CLAIMS = """claims AS (
    INSERT INTO claim (claim_id, session_id, tenant, task_id, attempt, create_time)
    SELECT *, statement_timestamp() FROM unnest(CAST(:c_claim AS uuid[]), CAST(:c_session AS uuid[]),
        CAST(:c_tenant AS text[]), CAST(:c_id AS uuid[]), CAST(:c_attempt AS int[])) AS c
    RETURNING claim_id
)"""
_HEAD = """head AS (
    UPDATE log_head SET position = log_head.position + :events, outbox_seq = log_head.outbox_seq + :notes
    FROM {before}
    WHERE id = 1
    RETURNING log_head.position - :events AS position, log_head.outbox_seq - :notes AS outbox_seq
)"""
_EVENTS = """events AS (
    INSERT INTO task_event (task_id, revision, position, tenant, type, state, wait_reason, attempt, detail,
        time)
    SELECT v.task_id, v.revision, head.position + v.ordinal, v.tenant, v.type, v.state, v.wait_reason,
        v.attempt, v.detail::jsonb, statement_timestamp()
    FROM head, unnest(CAST(:v_id AS uuid[]), CAST(:v_revision AS bigint[]), CAST(:v_tenant AS text[]),
        CAST(:v_type AS text[]), CAST(:v_state AS text[]), CAST(:v_wait AS text[]), CAST(:v_attempt AS int[]),
        CAST(:v_detail AS text[])) WITH ORDINALITY
        AS v (task_id, revision, tenant, type, state, wait_reason, attempt, detail, ordinal)
)"""
_NOTES = """notes AS (
    INSERT INTO outbox (seq, tenant, event_id, kind, body)
    SELECT head.outbox_seq + n.ordinal, n.tenant, n.event_id, n.kind, n.body::jsonb
    FROM head, unnest(CAST(:n_tenant AS text[]), CAST(:n_event AS uuid[]), CAST(:n_kind AS text[]),
        CAST(:n_body AS text[])) WITH ORDINALITY AS n (tenant, event_id, kind, body, ordinal)
)"""
_OPTIONAL = {"started": _STARTED, "ended": _ENDED, "steps": _STEPS, "claims": _CLAIMS, "notes": _NOTES}
_CHANGED_FIRST = "(SELECT count(*) FROM changed) AS written"
_CLAIMED_FIRST = "(SELECT count(*) FROM changed) AS written, (SELECT count(*) FROM claims) AS claimed"


async def write_changes(
    connection: AsyncConnection, accepted: Sequence[TaskChanges], claims: Sequence[NewClaim] = ()
) -> None:
    """Write the changes of a batch; the tasks are locked by this transaction, which commits next."""
    if not accepted:
        return
    # Several calls may have changed one task: its last form is what it has become.
    tasks = {changes.task.task_id: changes for changes in accepted}
    results = {c.task.task_id: c for c in accepted if c.result_json is not None or c.result_blob is not None}
    steps = {
        (step.task_id, step.step_key): (c.task.tenant, step) for c in accepted for step in c.steps.values()
    }
    events = [event for changes in accepted for event in changes.events]
    notes = [note for changes in accepted for note in changes.notes]
    optional = {
        "started": _started([(c.task, c.started_by) for c in accepted if c.started_by is not None]),
        "ended": _ended([(c.task, c.ending) for c in accepted if c.ending is not None]),
        "steps": _steps(list(steps.values())),
        "claims": _claims(claims),
        "notes": note_parameters(notes),
    }
    present = tuple(name for name, parameters in optional.items() if any(parameters.values()))
    parameters: dict[str, Any] = {"events": len(events), "notes": len(notes)}
    parameters |= _tasks([changes.task for changes in tasks.values()], results)
    parameters |= _events(events)
    for name in present:
        parameters |= optional[name]
    await connection.execute(_statement(present), parameters)


@lru_cache(maxsize=32)
def _statement(present: tuple[str, ...]) -> sa.TextClause:
    before = _CLAIMED_FIRST if "claims" in present else _CHANGED_FIRST
    before_head = [_TASK, *(_OPTIONAL[name] for name in present if name != "notes")]
    after_head = [_EVENTS, _NOTES] if "notes" in present else [_EVENTS]
    parts = ", ".join([*before_head, _HEAD.format(before=before), *after_head])
    return sa.text(f"WITH {parts} SELECT position FROM head")  # noqa: S608 - parts of our own


def note_parameters(notes: Sequence[AuditNote]) -> Parameters:
    """The outbox rows of audit notes."""
    return {
        "n_tenant": [note.tenant for note in notes],
        "n_event": [uuid7() for _ in notes],
        "n_kind": [str(note.kind) for note in notes],
        "n_body": [note_body(note) for note in notes],
    }


def note_body(note: AuditNote) -> str:
    """What an outbox row holds: where the immutable rows are, and who acted."""
    return json.dumps(
        {
            "task_id": str(note.task_id),
            "revision": note.revision,
            "actor": note.actor,
            **note.facts,
        }
    )


def _tasks(tasks: Sequence[LockedTask], results: Mapping[uuid.UUID, TaskChanges]) -> Parameters:
    # Only the completing change brings a result, and nothing changes a task after it.
    brought = [results.get(task.task_id) for task in tasks]
    return {
        "t_id": [task.task_id for task in tasks],
        "t_tenant": [task.tenant for task in tasks],
        "t_state": [str(task.status.state) for task in tasks],
        "t_wait": [str(task.status.wait_reason) if task.status.wait_reason else None for task in tasks],
        "t_run_after": [task.status.run_after for task in tasks],
        "t_attempt": [task.status.attempt for task in tasks],
        "t_failures": [task.status.failures for task in tasks],
        "t_crashes": [task.status.crashes for task in tasks],
        "t_error": [error_json(task.status.error) for task in tasks],
        "t_revision": [task.revision for task in tasks],
        "t_steps": [task.step_count for task in tasks],
        "t_session": [task.session_id for task in tasks],
        "t_outcome": [str(task.last_outcome) if task.last_outcome else None for task in tasks],
        "t_result": [changes.result_json if changes else None for changes in brought],
        "t_result_blob": [changes.result_blob if changes else None for changes in brought],
        "t_over": [task.status.state.terminal for task in tasks],
        "t_input_kind": [str(task.status.input_kind) if task.status.input_kind else None for task in tasks],
        "t_suspect": [task.status.suspect for task in tasks],
        "t_pausing": [task.status.pausing for task in tasks],
        "t_dead": [task.status.dead_lettered for task in tasks],
        "t_start_by": [task.status.start_by for task in tasks],
        "t_expires": [task.status.expires for task in tasks],
        "t_left": [task.status.left for task in tasks],
        "t_wind_up_by": [task.status.wind_up_by for task in tasks],
        "t_losses": [task.status.losses for task in tasks],
        "t_usage": [usage_json(task.usage) for task in tasks],
    }


def _started(started: Sequence[tuple[LockedTask, Session]]) -> Parameters:
    return {
        "s_id": [task.task_id for task, _ in started],
        "s_attempt": [task.status.attempt for task, _ in started],
        "s_tenant": [task.tenant for task, _ in started],
        "s_worker": [session.worker for _, session in started],
        "s_session": [session.session_id for _, session in started],
    }


def _ended(ended: Sequence[tuple[LockedTask, Ending]]) -> Parameters:
    return {
        "e_id": [task.task_id for task, _ in ended],
        "e_attempt": [task.status.attempt for task, _ in ended],
        "e_outcome": [str(ending.outcome) for _, ending in ended],
        "e_error": [error_json(ending.error) for _, ending in ended],
    }


def _steps(steps: Sequence[tuple[str, Step]]) -> Parameters:
    return {
        "j_id": [step.task_id for _, step in steps],
        "j_key": [step.step_key for _, step in steps],
        "j_tenant": [tenant for tenant, _ in steps],
        "j_ordinal": [step.ordinal for _, step in steps],
        "j_kind": [str(step.kind) for _, step in steps],
        "j_name": [step.name for _, step in steps],
        "j_status": [str(step.status) for _, step in steps],
        "j_call": [step.call_id for _, step in steps],
        "j_digest": [step.input_digest for _, step in steps],
        "j_input": [step.input_json for _, step in steps],
        "j_output": [step.output_json for _, step in steps],
        "j_error": [error_json(step.error) for _, step in steps],
        "j_attempt": [step.attempt for _, step in steps],
        "j_over": [step.status is not StepStatus.STARTED for _, step in steps],
    }


def _claims(claims: Sequence[NewClaim]) -> Parameters:
    return {
        "c_claim": [claim.claim_id for claim in claims],
        "c_session": [claim.session_id for claim in claims],
        "c_tenant": [claim.tenant for claim in claims],
        "c_id": [claim.task_id for claim in claims],
        "c_attempt": [claim.attempt for claim in claims],
    }


def _events(events: Sequence[Event]) -> Parameters:
    return {
        "v_id": [event.task_id for event in events],
        "v_revision": [event.revision for event in events],
        "v_tenant": [event.tenant for event in events],
        "v_type": [str(event.type) for event in events],
        "v_state": [str(event.state) for event in events],
        "v_wait": [str(event.wait_reason) if event.wait_reason else None for event in events],
        "v_attempt": [event.attempt for event in events],
        "v_detail": [detail_json(event) for event in events],
    }
