"""A task's trace, gathered from the orchestrator and the gateway, as text and as JSON."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from interlock.cli.escaping import one_line
from interlock.cli.events import error_text, state_name, status_name, usage_text
from interlock.cli.message_json import message_json
from interlock.client.client import Client
from interlock.gateway.v1 import gateway_service_pb2, tool_call_pb2
from interlock.orchestrator.v1 import orchestrator_service_pb2, task_pb2

_SHOWN_CHARACTERS = 96
_STEPS_A_PAGE = 50
_CALLS_A_PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A task, its steps in order, the gateway's record of each call, and the child tasks, both by call id."""

    task: task_pb2.Task
    steps: tuple[task_pb2.Step, ...]
    calls: Mapping[str, tool_call_pb2.ToolCall]
    children: Mapping[str, "Trace"] = field(default_factory=dict)


async def read_trace(suite: Client, task_id: str) -> Trace:
    """Everything of one task and of those below it; raises InterlockError."""
    steps = tuple(await _steps(suite, task_id))
    below = [step.call_id for step in steps if step.kind == task_pb2.STEP_KIND_CHILD_TASK]
    return Trace(
        task=await suite.get(task_id),
        steps=steps,
        calls=await _calls(suite, task_id),
        children={child: await read_trace(suite, child) for child in below},
    )


def trace_json(trace: Trace) -> dict[str, Any]:
    """The trace as one JSON object."""
    return {
        "task": message_json(trace.task),
        "steps": [message_json(step) for step in trace.steps],
        "tool_calls": [message_json(call) for call in trace.calls.values()],
        "children": [trace_json(child) for child in trace.children.values()],
    }


def trace_lines(trace: Trace, *, full: bool = False, payloads: bool = True) -> Iterator[str]:
    """The trace as a tree; inputs, outputs and reasons are cut to a line's length unless `full`."""
    task = trace.task
    used = f"  used {usage_text(task.usage)}" if task.HasField("usage") else ""
    yield f"{task.agent} {task.agent_version}  {state_name(task)}  task {task.task_id}{used}"
    yield from _branch_lines(trace, "", full=full, payloads=payloads)


def _branch_lines(trace: Trace, indent: str, *, full: bool, payloads: bool) -> Iterator[str]:
    branches = [
        (*_step_branch(step, trace.calls.get(step.call_id)), trace.children.get(step.call_id))
        for step in trace.steps
    ]
    ending = _ending(trace.task)
    if ending:
        branches.append((ending, [], None))
    for index, (head, more, child) in enumerate(branches):
        last = index == len(branches) - 1
        yield _cut(f"{indent}{'└─' if last else '├─'} {head}", full=full)
        below = f"{indent}{'  ' if last else '│ '} "
        for line in more if payloads else ():
            yield _cut(f"{below}   {line}", full=full)
        if child is not None:
            yield from _branch_lines(child, below, full=full, payloads=payloads)


def _step_branch(step: task_pb2.Step, call: tool_call_pb2.ToolCall | None) -> tuple[str, list[str]]:
    facts = [f"{step.step_key} → {step.name}", status_name(step)]
    if step.status == task_pb2.STEP_STATUS_COMPLETED:
        facts.append(_took(step))
    if step.kind == task_pb2.STEP_KIND_CHILD_TASK:
        facts.append(f"task {step.call_id}")
    if call is not None and call.isolation:
        facts.append(f"isolation {call.isolation}")
    if call is not None and call.audit_index >= 0:
        facts.append(f"audit #{call.audit_index}")
    more = [f"in   {one_line(step.input_json)}"]
    if call is not None and call.approval_id:
        more += [f"by   {one_line(each.explanation)}" for each in call.verdicts if each.check == "approval"]
    if step.output_json:
        more.append(f"out  {one_line(step.output_json)}")
    if step.error.error_class:
        more.append(f"why  {error_text(step.error)}")
    if step.status == task_pb2.STEP_STATUS_REFUSED:
        more.append(f"     interlock why {step.call_id}")
    return "  ".join(facts), more


def _took(step: task_pb2.Step) -> str:
    seconds = (step.end_time.ToDatetime() - step.start_time.ToDatetime()).total_seconds()
    return f"{seconds * 1000:.0f} ms"


def _ending(task: task_pb2.Task) -> str:
    if task.state == task_pb2.TASK_STATE_COMPLETED:
        return f"result {one_line(task.result_json)}"
    if task.error.error_class:
        return f"{state_name(task)} {error_text(task.error)}"
    return ""


def _cut(line: str, *, full: bool) -> str:
    return line if full or len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 1]}…"


async def _steps(suite: Client, task_id: str) -> list[task_pb2.Step]:
    steps: list[task_pb2.Step] = []
    token = ""
    while True:
        page = await suite.call(
            suite.tasks.ListTaskSteps,
            orchestrator_service_pb2.ListTaskStepsRequest(
                task_id=task_id, page_size=_STEPS_A_PAGE, page_token=token, include_payloads=True
            ),
        )
        steps += page.steps
        token = page.next_page_token
        if not token:
            return steps


async def _calls(suite: Client, task_id: str) -> dict[str, tool_call_pb2.ToolCall]:
    calls: dict[str, tool_call_pb2.ToolCall] = {}
    token = ""
    while True:
        page = await suite.call(
            suite.gateway.ListToolCalls,
            gateway_service_pb2.ListToolCallsRequest(
                page_size=_CALLS_A_PAGE, page_token=token, filter=f'task_id = "{task_id}"'
            ),
        )
        calls.update({call.call_id: call for call in page.tool_calls})
        token = page.next_page_token
        if not token:
            return calls
