"""What a task did, read from its leaves: the shape of the tree, and how each step stands."""

import random
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_svc.task_steps import ProofState, Step, StepKind, TrailEntry, steps_of
from interlock.verify.entry import Leaf


def told(
    index: int, kind: str, second: int, state: ProofState = ProofState.PROVEN, **fields: Any
) -> TrailEntry:
    stands = {"event_time": f"2026-11-24T00:00:{second:02}.000000000Z", "type": kind, **fields}
    leaf = Leaf(
        event_id=str(uuid.UUID(int=index)),
        origin="o",
        producer="p",
        type=kind,
        task_id="t",
        parts=(),
        fields=stands,
    )
    return TrailEntry(index=index, leaf=leaf, state=state)


def changed(index: int, second: int, revision: int, status: str, **fields: Any) -> TrailEntry:
    attributes = {"revision": str(revision), **fields.pop("attributes", {})}
    return told(index, "STATE_CHANGE", second, status=status, attributes=attributes, **fields)


CALL: dict[str, Any] = {"call": "c1", "step": "profile", "tool": "csv"}
# As the log takes it in: a call is there before the task that makes it, results come late.
TRAIL = [
    told(3, "TOOL_CALL", 3, status="RUNNING", attempt=1, **CALL),
    told(4, "PROMPT", 1, status="SUBMITTED"),
    changed(5, 1, 1, "SUBMITTED"),
    changed(6, 2, 2, "RUNNING", attempt=1),
    told(7, "REQUEST", 4, status="SENT", attempt=1, **CALL),
    told(8, "REQUEST", 4, status="ANSWERED", attempt=1, **CALL),
    changed(9, 6, 3, "SUBMITTED", attempt=1, reason="BACKOFF", attributes={"outcome": "FAILED"}),
    told(10, "TOOL_RESULT", 5, status="FAILED", reason="TOOL_ERROR", attempt=1, **CALL),
    told(12, "APPROVAL", 8, status="REQUESTED", call="c2", step="pay", tool="pay"),
    changed(13, 7, 4, "RUNNING", attempt=2),
    told(14, "APPROVAL", 9, status="APPROVED", call="c2", step="pay", tool="pay"),
    told(15, "TOOL_CALL", 10, status="RUNNING", attempt=2, call="c2", step="pay", tool="pay"),
    told(16, "PROMPT", 11, status="RUNNING", attempt=2, call="c3", attributes={"connection": "local"}),
    told(17, "MODEL_OUTPUT", 12, status="COMPLETED", attempt=2, call="c3"),
    told(18, "TOOL_CALL", 13, status="REFUSED", reason="NO_POLICY", attempt=2, call="c4", tool="rm"),
    changed(20, 15, 5, "RUNNING", attempt=2, call="t2", step="ask", attributes={"child_task_id": "t2"}),
    changed(
        21,
        16,
        6,
        "RUNNING",
        attempt=2,
        call="t2",
        step="ask",
        attributes={"child_task_id": "t2", "child_state": "COMPLETED", "child_agent": "clerk"},
    ),
    told(19, "ERROR", 14, attempt=2, step="sum", status="RUNNING"),
]


def brief(step: Step) -> tuple[str, str, str, str, bool, list[int]]:
    entries = [each.index for each in step.entries]
    return step.step_id, step.parent_id, step.status, step.reason, bool(step.end_time), entries


def test_a_trail_becomes_attempts_and_calls_in_the_order_of_time() -> None:
    assert [brief(step) for step in steps_of(TRAIL)] == [
        ("task", "", "RUNNING", "", False, [4, 5]),
        ("attempt:1", "task", "FAILED", "BACKOFF", True, [6, 9]),
        ("call:c1", "attempt:1", "FAILED", "TOOL_ERROR", True, [3, 7, 8, 10]),
        ("attempt:2", "task", "RUNNING", "", False, [13]),
        ("call:c2", "attempt:2", "RUNNING", "", False, [12, 14, 15]),
        ("call:c3", "attempt:2", "COMPLETED", "", True, [16, 17]),
        ("call:c4", "attempt:2", "REFUSED", "NO_POLICY", True, [18]),
        ("step:2:sum", "attempt:2", "RUNNING", "", True, [19]),
        ("call:t2", "attempt:2", "COMPLETED", "", True, [20, 21]),
    ]
    kinds = {step.step_id: step.kind for step in steps_of(TRAIL)}
    assert (kinds["call:c1"], kinds["call:c3"]) == (StepKind.TOOL_CALL, StepKind.MODEL_CALL)
    tools = {step.step_id: step.tool for step in steps_of(TRAIL)}
    assert [tools[name] for name in ("call:c1", "call:c3", "call:t2", "task")] == [
        "csv",
        "local",
        "clerk",
        "",
    ]


def test_what_is_broken_below_breaks_everything_above_and_nothing_beside() -> None:
    trail = [*TRAIL]
    trail[4] = told(7, "REQUEST", 4, ProofState.BROKEN, status="SENT", attempt=1, **CALL)
    trail[13] = told(17, "MODEL_OUTPUT", 12, ProofState.CONTENT_REMOVED, attempt=2, call="c3")
    states = {step.step_id: step.state for step in steps_of(trail)}
    assert {name for name, state in states.items() if state is ProofState.BROKEN} == {
        "task",
        "attempt:1",
        "call:c1",
    }
    assert {name for name, state in states.items() if state is ProofState.CONTENT_REMOVED} == {
        "attempt:2",
        "call:c3",
    }


def test_a_task_is_over_by_its_last_change_whenever_that_was_delivered() -> None:
    ended = changed(2, 30, 9, "COMPLETED", attempt=2, attributes={"outcome": "COMPLETED"})
    task = steps_of([ended, *TRAIL])[0]
    assert (task.status, task.end_time[17:19]) == ("COMPLETED", "30")


@given(st.randoms(use_true_random=False), st.integers(0, len(TRAIL)))
def test_every_entry_stands_in_one_step_and_parents_come_first(chance: random.Random, size: int) -> None:
    trail = chance.sample(TRAIL, size)
    steps = steps_of(trail)
    assert sorted(e.index for step in steps for e in step.entries) == sorted(e.index for e in trail)
    seen = {""}
    for step in steps:
        assert step.parent_id in seen
        seen.add(step.step_id)


@pytest.mark.parametrize("value", [None, 7, "x", ["x"], {"revision": 5}, {"revision": "9" * 5000}])
def test_leaves_of_any_form_are_told_as_far_as_they_go(value: Any) -> None:
    fields: dict[str, Any] = dict.fromkeys(("attempt", "step", "call", "tool", "status", "attributes"), value)
    leaf = told(1, "STATE_CHANGE", 1, **fields)
    assert sum(len(step.entries) for step in steps_of([leaf])) == 1
