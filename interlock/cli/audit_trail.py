"""What a task did by the audit log alone, as a tree, with the proof of each step."""

from collections.abc import Iterator, Mapping, Sequence

from interlock.audit.v1 import audit_service_pb2 as messages
from interlock.audit.v1 import entry_pb2
from interlock.cli.escaping import one_line
from interlock.client.client import Client

_MARKS = {
    messages.PROOF_STATE_PROVEN: "✓",
    messages.PROOF_STATE_CONTENT_REMOVED: "✓ content removed",
    messages.PROOF_STATE_BROKEN: "✗ BROKEN",
}


async def read_steps(suite: Client, task_id: str) -> messages.GetAuditTrailResponse:
    """The steps of a task as the service checked them. Raises InterlockError."""
    request = messages.GetAuditTrailRequest(task_id=task_id, as_steps=True)
    return await suite.call(suite.audit.GetAuditTrail, request)


def all_proven(answer: messages.GetAuditTrailResponse) -> bool:
    """Whether there is something, all of it was looked at, and all of it holds."""
    return bool(answer.steps) and answer.steps_complete and not answer.findings


def tree_lines(answer: messages.GetAuditTrailResponse) -> Iterator[str]:
    """A line a step, and one an entry below it."""
    below: dict[str, list[messages.TrailStep]] = {}
    for step in answer.steps:
        below.setdefault(step.parent_id, []).append(step)
    for root in below.get("", ()):
        yield f"{_told(root)}  of {answer.checkpoint.tree_size:,} entries of the log"
        yield from _branches(root, below, "")
    for each in answer.findings:
        kind = messages.LogFlaw.Name(each.flaw).removeprefix("LOG_FLAW_")
        yield f"✗ #{each.index}  {kind}  {one_line(each.message)}"
    if not answer.steps:
        yield "The log shows no entries of this task."
    elif not answer.steps_complete:
        yield "The task has more entries than were looked at: interlock audit verify looks at all."


def _branches(
    step: messages.TrailStep, below: Mapping[str, Sequence[messages.TrailStep]], indent: str
) -> Iterator[str]:
    branches: list[tuple[str, messages.TrailStep | None]] = [(_entry(each), None) for each in step.entries]
    branches += [(_told(each), each) for each in below.get(step.step_id, ())]
    for number, (line, lower) in enumerate(branches):
        last = number == len(branches) - 1
        yield f"{indent}{'└─' if last else '├─'} {line}"
        if lower is not None:
            yield from _branches(lower, below, f"{indent}{'  ' if last else '│ '}")


def _told(step: messages.TrailStep) -> str:
    name = {
        messages.TRAIL_STEP_KIND_TASK: "task",
        messages.TRAIL_STEP_KIND_ATTEMPT: f"attempt {step.attempt}",
    }.get(step.kind, " → ".join(each for each in (step.step_key, step.tool) if each))
    if step.kind == messages.TRAIL_STEP_KIND_CHILD_TASK:
        name = f"{name}  task {step.call_id}"
    took = ""
    if step.HasField("end_time"):
        seconds = (step.end_time.ToDatetime() - step.begin_time.ToDatetime()).total_seconds()
        took = f"{seconds * 1000:.0f} ms"
    facts = (name, step.status, step.reason, took, _MARKS.get(step.proof_state, ""))
    return one_line("  ".join(fact for fact in facts if fact))


def _entry(entry: messages.TrailStepEntry) -> str:
    kind = entry_pb2.EntryType.Name(entry.type).removeprefix("ENTRY_TYPE_")
    facts = (f"#{entry.index}", kind, entry.status, _MARKS.get(entry.proof_state, ""))
    return one_line("  ".join(fact for fact in facts if fact))
