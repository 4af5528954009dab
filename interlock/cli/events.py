"""Tasks and their events as lines of text."""

from collections.abc import Iterator

from google.protobuf.timestamp_pb2 import Timestamp

from interlock.cli import display
from interlock.cli.escaping import one_line
from interlock.orchestrator.v1 import orchestrator_service_pb2, task_pb2

_WHAT_WIDTH = 24
_SAID = {
    task_pb2.EVENT_TYPE_PAUSE_REQUESTED: "  pause requested",
    task_pb2.EVENT_TYPE_PAUSE_WITHDRAWN: "  pause withdrawn",
    task_pb2.EVENT_TYPE_INPUT_PROVIDED: "  input provided",
}


def event_line(update: orchestrator_service_pb2.WatchTaskResponse) -> str:
    """One update of a watch as a line: time, revision, what happened."""
    if update.HasField("snapshot"):
        task = update.snapshot
        return _line(
            display.clock_time(_last_time(task)), task.revision, state_name(task), error_text(task.error)
        )
    if update.HasField("progress"):
        return "\n".join(_progress_lines(update.progress))
    event = update.event
    if event.type in _SAID:
        return _line(display.clock_time(event.time), event.revision, _SAID[event.type], "")
    time = display.clock_time(event.time)
    if event.type == task_pb2.EVENT_TYPE_STATE_CHANGED:
        attempt = f"attempt {event.attempt}" if event.attempt else ""
        said = error_text(event.error)
        return _line(time, event.revision, state_name(event), "  ".join(filter(None, (attempt, said))))
    step = event.step
    said = error_text(step.error)
    if event.type == task_pb2.EVENT_TYPE_STEP_FINISHED and step.kind == task_pb2.STEP_KIND_MODEL_CALL:
        said = said or f"so far {usage_text(event.usage)}"
    return _line(
        time,
        event.revision,
        f"  step {status_name(step)}",
        f"{step.step_key} → {step.name}{f'  {said}' if said else ''}",
    )


def _progress_lines(said: task_pb2.Progress) -> Iterator[str]:
    share = f" {said.done:.0%}" if said.HasField("done") else ""
    what = f"  says{share}"
    for line in said.message.splitlines() or [""]:
        yield f"{display.clock_time(said.time)}       {what:<{_WHAT_WIDTH}} {one_line(line)}".rstrip()


def state_name(holder: task_pb2.Task | task_pb2.TaskEvent) -> str:
    """The state, and why the task waits, if it does: `SUBMITTED (RETRY_BACKOFF)`."""
    state = display.name_of(task_pb2.TaskState.Name(holder.state), "TASK_STATE_")
    if holder.state == task_pb2.TASK_STATE_SUBMITTED and holder.wait_reason:
        return f"{state} ({display.name_of(task_pb2.WaitReason.Name(holder.wait_reason), 'WAIT_REASON_')})"
    if holder.input_kind:
        return f"{state} ({display.name_of(task_pb2.InputKind.Name(holder.input_kind), 'INPUT_KIND_')})"
    return state


def status_name(step: task_pb2.Step) -> str:
    """For example `REFUSED`."""
    return display.name_of(task_pb2.StepStatus.Name(step.status), "STEP_STATUS_")


def error_text(error: task_pb2.TaskError) -> str:
    """Class and message in one line; empty when nothing failed."""
    return one_line(f"{error.error_class}: {error.message}") if error.error_class else ""


def usage_text(usage: task_pb2.TaskUsage) -> str:
    """For example `2 model calls, 310 tokens in, 42 out, cost 0.000352`."""
    calls = f"{usage.model_calls} model call{'' if usage.model_calls == 1 else 's'}"
    cost = f", cost {usage.cost_micros / 1e6:.6f}" if usage.cost_micros else ""
    return f"{calls}, {usage.input_tokens} tokens in, {usage.output_tokens} out{cost}"


def task_text(task: task_pb2.Task) -> str:
    """A task for people."""
    lines = [
        ("task", task.task_id),
        ("state", state_name(task)),
        ("agent", f"{task.agent} {task.agent_version}{f' ({task.isolation})' if task.isolation else ''}"),
        ("submitted", f"{display.short_time(task.create_time)} by {one_line(task.submitter)}"),
    ]
    place = f"{task.queue}, priority {task.priority}"
    keys = (("turns with", task.fairness_key), ("at most so many of", task.concurrency_key))
    lines.append(("queue", ", ".join([place, *(f"{what} {one_line(key)}" for what, key in keys if key)])))
    if task.task_type:
        lines.append(("type", task.task_type))
    lines += [(f"label {key}", one_line(value)) for key, value in sorted(task.labels.items())]
    if task.parent_task_id:
        lines.append(("child of", f"{task.parent_task_id}, {task.depth} below {task.root_task_id}"))
    if task.child_count:
        lines.append(("children", f"{task.child_count}, {task.open_child_count} of them open"))
    if task.retried_from:
        lines.append(("repeats", task.retried_from))
    lines += _times(task)
    lines += [line for each in task.attempts for line in _attempt_lines(each)]
    lines += _what_it_waits_for(task)
    if task.HasField("usage"):
        lines.append(("used", usage_text(task.usage)))
    if task.HasField("error"):
        lines.append(("error", error_text(task.error)))
    if task.input_json:
        lines.append(("input", one_line(task.input_json)))
    if task.result_json:
        lines.append(("result", one_line(task.result_json)))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def _times(task: task_pb2.Task) -> list[tuple[str, str]]:
    lines = []
    if task.HasField("start_time"):
        lines.append(("started", display.short_time(task.start_time)))
    if task.HasField("end_time"):
        lines.append(("ended", display.short_time(task.end_time)))
    return lines


def _what_it_waits_for(task: task_pb2.Task) -> list[tuple[str, str]]:
    """What somebody has to do, or has been asked to."""
    lines = [(f"asks {one_line(each.input_id)}", one_line(each.prompt)) for each in task.input_requests]
    if task.pause_requested:
        lines.append(("pause", "requested; the attempt winds up"))
    if task.dead_lettered:
        lines.append(("given up", "a dead letter: interlock redrive, or interlock retry TASK"))
    return lines


def _last_time(task: task_pb2.Task) -> Timestamp:
    if task.HasField("end_time"):
        return task.end_time
    return task.start_time if task.HasField("start_time") else task.create_time


def _attempt_lines(attempt: task_pb2.Attempt) -> Iterator[tuple[str, str]]:
    said = error_text(attempt.error)
    how = f"{attempt.outcome or 'RUNNING'} on {one_line(attempt.worker)}"
    yield f"attempt {attempt.attempt}", f"{how}{f'  {said}' if said else ''}"
    if attempt.HasField("progress"):
        yield "  last said", _last_word(attempt.progress)


def _last_word(said: task_pb2.Progress) -> str:
    share = f"{said.done:.0%}  " if said.HasField("done") else ""
    return f"{share}{one_line(said.message)}"


def _line(time: str, revision: int, what: str, more: str) -> str:
    return f"{time}  {revision:>3}  {what:<{_WHAT_WIDTH}} {more}".rstrip()
