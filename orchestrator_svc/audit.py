"""From the outbox to the audit log: prompts, changes of state, results and errors of tasks."""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from interlock.audit.v1 import entry_pb2
from orchestrator_svc.changes import AuditKind
from orchestrator_svc.records import EventType, StepKind, StoredEvent, TaskSubject
from svc_kit.outbox import OutboxRow

_TYPES = {
    AuditKind.PROMPT: entry_pb2.ENTRY_TYPE_PROMPT,
    AuditKind.STATE_CHANGE: entry_pb2.ENTRY_TYPE_STATE_CHANGE,
    AuditKind.RESULT: entry_pb2.ENTRY_TYPE_RESULT,
    AuditKind.ERROR: entry_pb2.ENTRY_TYPE_ERROR,
    AuditKind.REFUSED_STEP: entry_pb2.ENTRY_TYPE_TOOL_CALL,
}
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_TRACEPARENT_PARTS = 4
_FACTS = (
    "outcome",
    "change",
    "input_id",
    "decision",
    "parent_task_id",
    "child_task_id",
    "child_state",
)


class AuditStore(Protocol):
    """What is asked of the store, which says what each does."""

    async def events(
        self, keys: Sequence[tuple[uuid.UUID, int]]
    ) -> dict[tuple[uuid.UUID, int], StoredEvent]: ...
    async def answers(self, keys: Sequence[tuple[uuid.UUID, str]]) -> dict[tuple[uuid.UUID, str], str]: ...
    async def subjects(
        self, task_ids: set[uuid.UUID], *, prompts: set[uuid.UUID], results: set[uuid.UUID]
    ) -> dict[uuid.UUID, TaskSubject]: ...


class AuditTrail:
    """Builds audit events; the same row always becomes the same event, for the log knows repeats by that."""

    def __init__(self, store: AuditStore) -> None:
        self._store = store

    async def build(self, rows: Sequence[OutboxRow]) -> list[entry_pb2.Event]:
        """One event a row, in order."""
        operations = {row.seq: _operation(row) for row in rows if row.kind == AuditKind.OPERATION}
        rows, everything = [row for row in rows if row.seq not in operations], rows
        keys = [(uuid.UUID(row.body["task_id"]), row.body["revision"]) for row in rows]
        events = await self._store.events(keys)
        subjects = await self._store.subjects(
            {task_id for task_id, _ in keys},
            prompts={key[0] for key, row in zip(keys, rows, strict=True) if row.kind == AuditKind.PROMPT},
            results={key[0] for key, row in zip(keys, rows, strict=True) if row.kind == AuditKind.RESULT},
        )
        told = {
            row.seq: _event(row, events[key], subjects[key[0]]) for key, row in zip(keys, rows, strict=True)
        }
        for key, text in (await self._store.answers(list(answered := _answered(rows)))).items():
            _add_part(told[answered[key]], "answer", text)
        told |= operations
        return [told[row.seq] for row in everything]


def _answered(rows: Sequence[OutboxRow]) -> dict[tuple[uuid.UUID, str], int]:
    """By (task id, input id), the row that says that a person has answered."""
    return {
        (uuid.UUID(row.body["task_id"]), row.body["input_id"]): row.seq
        for row in rows
        if row.body.get("change") == EventType.INPUT_PROVIDED
    }


def _operation(row: OutboxRow) -> entry_pb2.Event:
    """What somebody did to a queue or a worker: the row says everything."""
    event = entry_pb2.Event(
        event_id=str(row.event_id),
        tenant=row.tenant,
        type=entry_pb2.ENTRY_TYPE_STATE_CHANGE,
        producer_sequence=row.seq,
        actor=row.body["actor"],
        reason=row.body["action"],
        attributes={
            name: value for name, value in row.body.items() if name not in ("actor", "action", "time")
        },
    )
    event.event_time.FromDatetime(datetime.fromisoformat(row.body["time"]))
    return event


def _event(row: OutboxRow, stored: StoredEvent, subject: TaskSubject) -> entry_pb2.Event:
    kind = AuditKind(row.kind)
    cause = stored.event
    event = entry_pb2.Event(
        event_id=str(row.event_id),
        tenant=row.tenant,
        type=_TYPES[kind],
        producer_sequence=row.seq,
        actor=row.body["actor"],
        agent=subject.agent,
        agent_version=subject.agent_version,
        task_id=row.body["task_id"],
        attempt=cause.attempt,
        status=str(cause.state),
        reason=_reason(stored),
        attributes={
            "revision": str(cause.revision),
            "agent_digest": subject.agent_digest,
            "isolation": subject.isolation,
        },
    )
    event.event_time.FromDatetime(stored.time)
    trace = subject.traceparent.split("-")
    if len(trace) == _TRACEPARENT_PARTS:
        event.trace_id, event.span_id = trace[1], trace[2]
    _add_facts(event, row.body)
    if cause.step is not None and ("decision" in row.body or "child_task_id" in row.body):
        event.step_key, event.call_id = cause.step.step_key, str(cause.step.call_id)
        if "decision" in row.body:
            event.tool = cause.step.name
        else:
            event.attributes["child_agent"] = cause.step.name
    if kind is AuditKind.PROMPT:
        _add_value(event, "input", subject.input_json, subject.input_blob)
    elif kind is AuditKind.RESULT:
        _add_value(event, "result", subject.result_json or "null", subject.result_blob)
    elif kind is AuditKind.ERROR and cause.error is not None:
        event.step_key = cause.error.step_key
        said = {"class": cause.error.error_class, "message": cause.error.message}
        _add_part(event, "error", json.dumps(said, ensure_ascii=False, sort_keys=True))
    elif kind is AuditKind.REFUSED_STEP:
        _tell_refusal(event, row.body)
    return event


def _add_facts(event: entry_pb2.Event, body: Mapping[str, str]) -> None:
    for fact in _FACTS:
        if fact in body:
            event.attributes[fact] = body[fact]
    if "output_digest" in body:
        _add_digest(event, "output_digest", body["output_digest"])


def _tell_refusal(event: entry_pb2.Event, body: Mapping[str, str]) -> None:
    """A step that never began has no event of its own: the row says everything."""
    event.status, event.reason = "REFUSED", body["reason"]
    event.step_key, event.call_id = body["step_key"], body["call_id"]
    if body.get("step_kind") == StepKind.MODEL_CALL:
        event.type = entry_pb2.ENTRY_TYPE_PROMPT
        event.attributes["connection"] = body["tool"]
    else:
        event.tool = body["tool"]
    _add_digest(event, "argument_digest", body["argument_digest"])
    event.event_time.FromDatetime(datetime.fromisoformat(body["time"]))


def _reason(stored: StoredEvent) -> str:
    """A word for why: of Interlock's own reasons, for an agent's exception classes are content."""
    error = stored.event.error
    if error is not None:
        return error.error_class if _REASON.fullmatch(error.error_class) else "AGENT_ERROR"
    return str(stored.event.wait_reason or "")


def _add_digest(event: entry_pb2.Event, part: str, digest: str) -> None:
    """As a content, because it tells of something that can be guessed: leaves hold salted digests alone."""
    event.payloads.add(part=part, content_type="text/plain", body=digest.encode())


def _add_value(event: entry_pb2.Event, part: str, text: str, blob: str | None) -> None:
    """The value itself, or the digest of the blob that holds it, under a name that says so."""
    if blob is None:
        _add_part(event, part, text)
    else:
        _add_part(event, f"{part}_blob", json.dumps({"digest": blob}))


def _add_part(event: entry_pb2.Event, part: str, text: str) -> None:
    event.payloads.add(part=part, content_type="application/json", body=text.encode())
