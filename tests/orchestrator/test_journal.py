"""The step journal's rules."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc import journal, lifecycle
from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.journal import Begun, Recorded, StepFinish
from orchestrator_svc.lifecycle import Status, TaskError, TaskState
from orchestrator_svc.records import (
    AgentPin,
    EventType,
    Isolation,
    LockedTask,
    Step,
    StepInput,
    StepKind,
    StepStatus,
    Usage,
)
from orchestrator_svc.retry import RetryPolicy
from svc_kit.errors import DomainError

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TASK = uuid.UUID("01900000-0000-7000-8000-000000000001")
ASKED = StepInput(
    step_key="read", kind=StepKind.TOOL_CALL, name="read_csv", input_json="{}", digest="sha256:1"
)


def task(attempt: int = 1, state: TaskState = TaskState.RUNNING, steps: int = 0) -> LockedTask:
    return LockedTask(
        task_id=TASK,
        tenant="default",
        pool="default",
        agent=AgentPin(
            name="a",
            version="1.0.0",
            digest="d",
            isolation=Isolation.PLAN,
            retry=RetryPolicy(),
            start_to_close=600,
        ),
        submitters=(),
        traceparent="",
        status=Status(state=state, run_after=NOW, attempt=attempt),
        revision=2,
        step_count=steps,
        session_id=uuid.uuid4(),
        last_outcome=None,
        now=NOW,
    )


def started(attempt: int = 1) -> Step:
    outcome = journal.begin(task(attempt), None, ASKED)
    assert isinstance(outcome, Begun)
    return outcome.step


def test_a_new_step_gets_the_next_ordinal_and_the_call_id_of_its_key() -> None:
    outcome = journal.begin(task(steps=4), None, ASKED)
    assert isinstance(outcome, Begun) and outcome.changed
    assert outcome.step.ordinal == 5
    assert outcome.step.call_id == uuid.uuid5(TASK, "read")


def test_beginning_again_in_the_same_attempt_changes_nothing() -> None:
    assert journal.begin(task(), started(), ASKED) == Begun(step=started(), changed=False)


def test_a_later_attempt_begins_an_unfinished_step_again_under_the_same_call_id() -> None:
    outcome = journal.begin(task(2, steps=1), started(), ASKED)
    assert isinstance(outcome, Begun) and outcome.changed
    assert (outcome.step.attempt, outcome.step.ordinal, outcome.step.call_id) == (2, 1, started().call_id)


@pytest.mark.parametrize("status", [StepStatus.COMPLETED, StepStatus.FAILED])
def test_a_finished_step_is_answered_from_the_journal_in_every_attempt(status: StepStatus) -> None:
    finished = replace(started(), status=status, output_json="[1]")
    assert journal.begin(task(2), finished, ASKED) == Recorded(step=finished)


def test_a_refused_call_had_no_effect_so_only_a_later_attempt_may_ask_again() -> None:
    refused = replace(started(), status=StepStatus.REFUSED, error=TaskError(error_class="P", message=""))
    assert isinstance(journal.begin(task(1), refused, ASKED), Recorded)
    again = journal.begin(task(2), refused, ASKED)
    assert isinstance(again, Begun) and again.step.status is StepStatus.STARTED and again.step.error is None


@pytest.mark.parametrize("other", [{"digest": "sha256:2"}, {"name": "write_csv"}])
def test_a_step_with_another_input_or_tool_is_nondeterminism(other: dict[str, str]) -> None:
    changed = StepInput(
        step_key=ASKED.step_key,
        kind=ASKED.kind,
        name=other.get("name", ASKED.name),
        input_json="{}",
        digest=other.get("digest", ASKED.digest),
    )
    with pytest.raises(DomainError) as caught:
        journal.begin(task(2), started(), changed)
    assert caught.value.reason_name == "NONDETERMINISM"


def test_no_step_begins_while_the_task_is_canceling_but_a_begun_one_may_end() -> None:
    canceling = task(state=TaskState.CANCELING)
    with pytest.raises(DomainError) as caught:
        journal.begin(canceling, None, ASKED)
    assert caught.value.reason_name == "TASK_STATE"
    end = StepFinish(step_key="read", status=StepStatus.COMPLETED, output_json="1")
    finished = journal.finish(canceling, started(), end)
    assert finished is not None and finished.status is StepStatus.COMPLETED


def test_finishing_twice_with_the_same_outcome_changes_nothing_and_with_another_is_refused() -> None:
    end = StepFinish(step_key="read", status=StepStatus.COMPLETED, output_json="1")
    finished = journal.finish(task(), started(), end)
    assert journal.finish(task(), finished, end) is None
    with pytest.raises(DomainError) as caught:
        journal.finish(task(), finished, replace(end, output_json="2"))
    assert caught.value.reason_name == "NONDETERMINISM"


def test_an_attempt_can_only_finish_what_it_began() -> None:
    end = StepFinish(step_key="read", status=StepStatus.COMPLETED, output_json="1")
    for known in (None, started(attempt=1)):
        with pytest.raises(DomainError) as caught:
            journal.finish(task(2), known, end)
        assert caught.value.reason_name == "STEP_NOT_FOUND"


def test_a_receipt_for_other_arguments_does_not_finish_the_step() -> None:
    end = StepFinish(
        step_key="read", status=StepStatus.COMPLETED, output_json="1", argument_digest="sha256:other"
    )
    with pytest.raises(DomainError) as caught:
        journal.finish(task(), started(), end)
    assert caught.value.reason_name == "SIGNATURE_INVALID"


def test_the_states_in_which_steps_may_be_written_are_those_with_a_live_attempt() -> None:
    assert {state for state in TaskState if state.live} == lifecycle.LIVE


@given(
    spent=st.lists(st.none() | st.tuples(*[st.integers(0, 2**40)] * 3), min_size=1, max_size=5),
    told=st.lists(st.integers(0, 4), max_size=15),
)
def test_however_often_the_ends_of_steps_are_told_each_usage_is_in_the_sum_once(
    spent: list[tuple[int, int, int] | None], told: list[int]
) -> None:
    usages = [
        Usage(model_calls=1, input_tokens=used[0], output_tokens=used[1], cost_micros=used[2])
        if used is not None
        else None
        for used in spent
    ]
    locked, steps = task(), [replace(started(), step_key=f"s{place}") for place in range(len(spent))]
    told = [place % len(spent) for place in told]
    for place in told:
        changes = TaskChanges(locked)
        asked = StepFinish(
            step_key=steps[place].step_key,
            status=StepStatus.COMPLETED,
            output_json="[]",
            usage=usages[place],
        )
        finished = journal.finish(locked, steps[place], asked)
        if finished is not None:
            changes.put_step(finished, EventType.STEP_FINISHED, usage=asked.usage)
            steps[place] = finished
            assert changes.events[-1].usage == changes.task.usage
        locked = changes.task
    counted = [usage for place in set(told) if (usage := usages[place]) is not None]
    assert locked.usage == (sum(counted, Usage()) if counted else None)
