"""What the audit log is told of calls and policies."""

import json
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway_svc.approval import Approval
from gateway_svc.call_store import CallStore
from gateway_svc.tool_call import Asked, CallKey, CallKind, CallStatus, Outcome, ToolCall
from interlock.audit.v1 import entry_pb2
from svc_kit.call_context import current_call
from svc_kit.outbox import Message, OutboxRow

TOOL_CALL = "tool_call"
TOOL_RESULT = "tool_result"
POLICY_CHANGE = "policy_change"
APPROVAL = "approval"

_MAX_ATTRIBUTE = 512


def call_event(call: ToolCall, *, event_id: uuid.UUID, time: datetime, actor: str) -> entry_pb2.Event:
    """A call that is about to start, or was refused; without its arguments."""
    kind = entry_pb2.ENTRY_TYPE_PROMPT if _is_model(call) else entry_pb2.ENTRY_TYPE_TOOL_CALL
    event = _event(call, kind, event_id, time, actor)
    event.status, event.reason = call.status, call.reason
    for name, policy_ids in (("policy_ids", call.policy_ids), ("shadow_policy_ids", call.shadow_policy_ids)):
        if policy_ids:
            event.attributes[name] = _listed(policy_ids)
    if call.approval_id is not None:
        event.attributes["approval_id"] = str(call.approval_id)
    return event


def query_event(
    call: ToolCall, *, connection_id: str, statement: str, event_id: uuid.UUID, time: datetime
) -> entry_pb2.Event:
    """A running tool is about to have a statement of a connection run; without its parameters."""
    event = _event(call, entry_pb2.ENTRY_TYPE_TOOL_CALL, event_id, time, call.asked.worker)
    event.status = "QUERY"
    event.attributes["connection"], event.attributes["statement"] = connection_id, statement
    return event


def request_event(
    call: ToolCall, *, event_id: uuid.UUID, time: datetime, status: str, reason: str
) -> entry_pb2.Event:
    """A running tool sends a request through a connection, or what became of that; without its content."""
    event = _event(call, entry_pb2.ENTRY_TYPE_REQUEST, event_id, time, call.asked.worker)
    event.status, event.reason = status, reason
    return event


def result_event(
    call: ToolCall, outcome: Outcome, *, event_id: uuid.UUID, audit_index: int | None
) -> entry_pb2.Event:
    """How a started call ended; without its result or error."""
    kind = entry_pb2.ENTRY_TYPE_MODEL_OUTPUT if _is_model(call) else entry_pb2.ENTRY_TYPE_TOOL_RESULT
    event = _event(call, kind, event_id, outcome.end_time, call.asked.worker)
    event.status, event.reason = outcome.status, outcome.reason
    if audit_index is not None:
        event.attributes["call_index"] = str(audit_index)
    for name, value in (("isolation", outcome.isolation), ("limit", outcome.limit)):
        if value:
            event.attributes[name] = value
    if outcome.usage is not None:
        event.attributes["input_tokens"] = str(outcome.usage.input_tokens)
        event.attributes["output_tokens"] = str(outcome.usage.output_tokens)
        event.attributes["cost_micros"] = str(outcome.usage.cost_micros)
    return event


def approval_event(
    approval: Approval, *, action: str, event_id: uuid.UUID, time: datetime, actor: str
) -> entry_pb2.Event:
    """An approval was asked for, decided, or ended by itself; without the arguments and the reason."""
    event = entry_pb2.Event(
        event_id=str(event_id),
        tenant=approval.tenant,
        type=entry_pb2.ENTRY_TYPE_APPROVAL,
        actor=actor,
        status=action,
        agent=approval.agent,
        agent_version=approval.agent_version,
        tool=approval.tool,
        task_id=str(approval.task_id),
        step_key=approval.step_key,
        call_id=str(approval.call_id),
    )
    event.event_time.FromDatetime(time)
    event.attributes["approval_id"] = str(approval.approval_id)
    event.attributes["tool_digest"] = approval.tool_digest
    event.attributes["decider_role"] = approval.decider_role
    # A content, because it tells of arguments that can be guessed: leaves hold salted digests alone.
    event.payloads.add(
        part="argument_digest", content_type="text/plain", body=approval.argument_digest.encode()
    )
    return event


def policy_event(
    *,
    tenant: str,
    policy_id: str,
    version: int,
    action: str,
    event_id: uuid.UUID,
    time: datetime,
    actor: str,
) -> entry_pb2.Event:
    """A policy was stored, changed or deleted; without its text."""
    event = entry_pb2.Event(
        event_id=str(event_id),
        tenant=tenant,
        type=entry_pb2.ENTRY_TYPE_POLICY_CHANGE,
        actor=actor,
        status=action,
    )
    event.event_time.FromDatetime(time)
    event.attributes["policy_id"], event.attributes["policy_version"] = policy_id, str(version)
    return event


def connection_event(
    *, tenant: str, connection_id: str, action: str, event_id: uuid.UUID, time: datetime, actor: str
) -> entry_pb2.Event:
    """A connection was stored, changed or deleted: who may use what. Without its content."""
    event = entry_pb2.Event(
        event_id=str(event_id),
        tenant=tenant,
        type=entry_pb2.ENTRY_TYPE_POLICY_CHANGE,
        actor=actor,
        status=action,
    )
    event.event_time.FromDatetime(time)
    event.attributes["connection_id"] = connection_id
    return event


def limit_event(
    *, tenant: str, tool: str, action: str, event_id: uuid.UUID, time: datetime, actor: str
) -> entry_pb2.Event:
    """A limit of a tool, or (no tool) of all tools of a tenant, was set or removed; without its numbers."""
    event = entry_pb2.Event(
        event_id=str(event_id),
        tenant=tenant,
        type=entry_pb2.ENTRY_TYPE_POLICY_CHANGE,
        actor=actor,
        tool=tool,
        status=action,
    )
    event.event_time.FromDatetime(time)
    return event


def to_message(kind: str, event: entry_pb2.Event, *, call_id: uuid.UUID | None = None) -> Message:
    """An event as an outbox message; its content stays where it is until the relay fetches it."""
    return Message(
        tenant=event.tenant,
        event_id=uuid.UUID(event.event_id),
        kind=kind,
        body={"event": MessageToDict(event), "call_id": str(call_id) if call_id else ""},
    )


def asked_part(asked: Asked) -> str:
    """Under which name the log keeps what a call was asked with."""
    return "request" if asked.kind is CallKind.MODEL else "arguments"


def add_json(event: entry_pb2.Event, part: str, body: bytes) -> entry_pb2.Event:
    """The event with one more content."""
    event.payloads.add(part=part, content_type="application/json", body=body)
    return event


class AuditTrail:
    """Builds audit events from outbox rows, each with its content."""

    def __init__(self, calls: CallStore) -> None:
        self._calls = calls

    async def build(self, rows: Sequence[OutboxRow]) -> list[entry_pb2.Event]:
        """One event a row, in order."""
        keys = [_call_key(row) for row in rows if row.kind == TOOL_RESULT]
        calls = await self._calls.contents(keys)
        kept = await self._calls.payloads([row.event_id for row in rows if row.kind != TOOL_RESULT])
        events = []
        for row in rows:
            event = ParseDict(row.body["event"], entry_pb2.Event())
            event.producer_sequence = row.seq
            if row.kind == TOOL_RESULT:
                _add_outcome(event, calls.get(_call_key(row)))
            elif row.event_id in kept:
                content = kept[row.event_id]
                event.payloads.add(part=content.part, content_type=content.content_type, body=content.body)
            events.append(event)
        return events

    async def forget(self, connection: AsyncConnection, rows: Sequence[OutboxRow]) -> None:
        """The log has them: what was kept for it alone goes, with the rows or not at all."""
        event_ids = [row.event_id for row in rows if row.kind != TOOL_RESULT]
        if event_ids:
            await self._calls.forget_payloads(connection, event_ids)


def _is_model(call: ToolCall) -> bool:
    return call.asked.kind is CallKind.MODEL


def _event(
    call: ToolCall, kind: entry_pb2.EntryType.ValueType, event_id: uuid.UUID, time: datetime, actor: str
) -> entry_pb2.Event:
    asked = call.asked
    event = entry_pb2.Event(
        event_id=str(event_id),
        tenant=asked.tenant,
        type=kind,
        actor=actor,
        agent=asked.agent,
        agent_version=asked.agent_version,
        task_id=str(asked.task_id),
        attempt=asked.attempt,
        step_key=asked.step_key,
        call_id=str(asked.call_id),
    )
    event.event_time.FromDatetime(time)
    running = current_call()
    if running is not None:
        event.trace_id, event.span_id = running.trace_id, running.span_id
    if asked.kind is CallKind.MODEL:
        event.attributes["connection"] = asked.tool
        if asked.tool_version:
            event.attributes["model"] = asked.tool_version
    else:
        event.tool = asked.tool
        event.attributes["tool_version"] = asked.tool_version
        event.attributes["tool_digest"] = asked.tool_digest
    event.attributes["agent_digest"] = asked.agent_digest
    return event


def _listed(policy_ids: Sequence[str]) -> str:
    """As many as an attribute holds, and how many more there are; the receipt names all."""
    shown = list(policy_ids)
    while True:
        more = len(policy_ids) - len(shown)
        text = ",".join([*shown, *([f"+{more}"] if more else [])])
        if len(text) <= _MAX_ATTRIBUTE:
            return text
        shown.pop()


def _add_outcome(event: entry_pb2.Event, left: Any) -> None:
    """The result or error, unless the event tells of a call that was given up for lost."""
    if left is None or event.status == CallStatus.UNKNOWN:
        return
    if left.result_json:
        add_json(event, "result", left.result_json.encode())
    else:
        error = {
            "class": left.error_class or left.reason,
            "message": left.error_message or left.message,
        }
        add_json(event, "error", json.dumps(error, ensure_ascii=False).encode())


def _call_key(row: OutboxRow) -> CallKey:
    return CallKey(row.tenant, uuid.UUID(row.body["call_id"]))
