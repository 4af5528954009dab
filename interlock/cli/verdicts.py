"""A tool call with the five verdicts on it, as lines of text."""

from collections.abc import Iterator

from interlock.cli.display import name_of
from interlock.cli.escaping import one_line
from interlock.gateway.v1 import tool_call_pb2


def call_lines(call: tool_call_pb2.ToolCall) -> Iterator[str]:
    """What became of the call, what each line of the permission model said, and where it is recorded."""
    reason = f" ({call.reason})" if call.reason else ""
    called = f"{call.connection} {call.model}" if call.connection else f"{call.tool} {call.tool_version}"
    what = f"{call.agent} {call.agent_version} → {called}".strip()
    yield f"{one_line(what)}: {status_name(call)}{reason}"
    yield from verdict_lines(call)
    if call.audit_index >= 0:
        yield f"  audit entry #{call.audit_index}, task {call.task_id}, step {call.step_key}"


def verdict_lines(call: tool_call_pb2.ToolCall) -> Iterator[str]:
    """The five verdicts, in the order of the permission model."""
    for verdict in call.verdicts:
        mark = "·" if verdict.skipped else "✓" if verdict.passed else "✗"
        yield f"  {mark} {verdict.check:<8}  {one_line(verdict.explanation)}"


def status_name(call: tool_call_pb2.ToolCall) -> str:
    """For example `REFUSED`."""
    return name_of(tool_call_pb2.ToolCallStatus.Name(call.status), "TOOL_CALL_STATUS_")
