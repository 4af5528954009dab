"""The demo's last act: the audit trail, verified with nothing but its bytes and the pinned key."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

from interlock.cli.audit import default_pins
from interlock.cli.connection import client
from interlock.cli.tracing import Trace
from interlock.cli.verification import Verified, fetch_trail, readable_leaves, verify
from interlock.client.client import Client
from interlock.orchestrator.v1 import task_pb2
from interlock.verify import Trail
from interlock_suite.demo.claims import Claims
from interlock_suite.demo.screen import Screen

_COMPLETE_SECONDS = 10.0
_POLL_SECONDS = 0.1
# What of the log must stand in a trail: type, status or call id.
Mark = tuple[str, str]


async def prove(data_dir: Path, traces: Mapping[str, Trace], screen: Screen, claims: Claims) -> None:
    """Verify the trail of each task, named by how it ended, the last one first in the reader's mind."""
    *_, last = traces.values()
    pins = default_pins(data_dir)
    whose = "both tasks" if len(traces) > 1 else "the task"
    screen.act(f"The audit trail of {whose}, verified on this machine with the pinned key alone")
    screen.command(f"audit verify {last.task.task_id}")
    async with client(data_dir, "AUDITOR") as suite:
        found = {name: await _verified(suite, trace, pins, claims) for name, trace in traces.items()}
    for name, verified in found.items():
        screen.line(_line(name, verified))
        for finding in verified.report.findings:
            screen.line(f"✗ {finding.problem}: {finding.message}", style="red")
    first, *_ = found.values()
    before = first.report.consistent_from
    seen = f"; the {before} entries seen before still stand" if before else " on this first look"
    screen.line(f"✓ signed by key {first.key.key_hash.hex()}, pinned in {pins.name}{seen}")


async def _verified(suite: Client, trace: Trace, pins: Path, claims: Claims) -> Verified:
    trail, missing = await _complete_trail(suite, trace)
    verified = await verify(suite, trail, pins)
    state = task_pb2.TaskState.Name(trace.task.state).removeprefix("TASK_STATE_")
    claims.check(
        f"the log holds everything of the {state} task",
        not missing,
        f"{', '.join(' '.join(mark) for mark in sorted(missing))} is missing",
    )
    claims.check(
        f"the trail of the {state} task is verified: entries, inclusion, payloads, pinned key",
        verified.ok,
        "; ".join([*(each.message for each in verified.report.findings), verified.refused_pin]).strip("; "),
    )
    return verified


async def _complete_trail(suite: Client, trace: Trace) -> tuple[Trail, set[Mark]]:
    """The trail once the services' relays have delivered all of it, and what had not come in the end."""
    expected = _expected(trace)
    deadline = time.monotonic() + _COMPLETE_SECONDS
    while True:
        trail = await fetch_trail(suite, trace.task.task_id)
        missing = expected - _marks(trail)
        if not missing or time.monotonic() > deadline:
            return trail, missing
        await asyncio.sleep(_POLL_SECONDS)


def _expected(trace: Trace) -> set[Mark]:
    state = task_pb2.TaskState.Name(trace.task.state).removeprefix("TASK_STATE_")
    marks = {("PROMPT", "SUBMITTED"), ("STATE_CHANGE", "RUNNING"), ("STATE_CHANGE", state)}
    marks.add(("RESULT" if trace.task.state == task_pb2.TASK_STATE_COMPLETED else "ERROR", state))
    for step in trace.steps:
        if step.kind == task_pb2.STEP_KIND_MODEL_CALL:
            marks |= {("PROMPT", step.call_id), ("MODEL_OUTPUT", step.call_id)}
            continue
        marks.add(("TOOL_CALL", step.call_id))
        if step.status != task_pb2.STEP_STATUS_REFUSED:
            marks.add(("TOOL_RESULT", step.call_id))
    return marks


def _marks(trail: Trail) -> set[Mark]:
    marks = set()
    for leaf in readable_leaves(trail):
        marks.add((leaf.type, str(leaf.fields.get("status", ""))))
        marks.add((leaf.type, str(leaf.fields.get("call", ""))))
    return marks


def _line(whose: str, verified: Verified) -> str:
    """What the verification showed, short enough for a screen."""
    report = verified.report
    size = report.checkpoint.size if report.checkpoint is not None else 0
    what = f"{report.entries_included} entries of the {whose} task and {report.parts_matched} payloads"
    return f"{'✓' if verified.ok else '✗'} {what}: unchanged, at their places in the signed log of {size}"
