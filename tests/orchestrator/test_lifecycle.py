"""The state machine, against a model that knows nothing but the table of the contract."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc import lifecycle
from orchestrator_svc.lifecycle import (
    LEGAL,
    Ending,
    IllegalMoveError,
    InputKind,
    Move,
    Outcome,
    Status,
    TaskError,
    TaskState,
    Timeout,
    WaitReason,
)
from orchestrator_svc.retry import RetryPolicy

NOW = datetime(2026, 3, 1, tzinfo=UTC)
POLICY = RetryPolicy(max_failures=3, non_retryable=("Never",))
BROKEN = TaskError(error_class="ValueError", message="it broke", retryable=True)

FOR_GOOD = replace(BROKEN, retryable=False)

SECONDS = {Timeout.START_TO_CLOSE: 1.0}


def timed_out(status: Status) -> Status:
    """The attempt has taken too long."""
    end = lifecycle.end_overdue(status, close_by=NOW, seconds=SECONDS, policy=POLICY, now=NOW, chance=0.5)
    if end is None:
        raise IllegalMoveError(status.state, Move.EXPIRE)
    return end.status if isinstance(end, Ending) else end


ACT: dict[str, Callable[[Status], Status]] = {
    "claim": lifecycle.claim,
    "complete": lambda status: lifecycle.complete(status).status,
    "fail": lambda status: lifecycle.fail(status, BROKEN, policy=POLICY, now=NOW, chance=0.5).status,
    "fail for good": lambda status: (
        lifecycle.fail(status, FOR_GOOD, policy=POLICY, now=NOW, chance=0.5).status
    ),
    "release": lambda status: lifecycle.release(status, now=NOW).status,
    "lose": lambda status: lifecycle.lose(status, blamed=True, now=NOW).status,
    "time out": timed_out,
    "cancel": lambda status: lifecycle.cancel(status, now=NOW, grace=10),
    "pause": lambda status: lifecycle.pause(status, now=NOW, grace=10),
    "resume": lambda status: lifecycle.resume(status, now=NOW, start_within=5),
    "ask": lambda status: lifecycle.request_input(status, InputKind.QUESTION, now=NOW).status,
    "answer": lambda status: lifecycle.provide_input(status, now=NOW),
}
ACTIONS = st.sampled_from(sorted(ACT))


def tried(status: Status, action: str) -> Status | None:
    """The status after the action; None where it is not possible."""
    try:
        return ACT[action](status)
    except IllegalMoveError:
        return None


@given(st.lists(ACTIONS, max_size=40))
def test_no_sequence_of_actions_leaves_the_table_of_legal_moves_or_a_terminal_state(
    actions: list[str],
) -> None:
    status = lifecycle.submitted(NOW)
    edges = {(source, target) for (source, _), target in LEGAL.items()}
    for action in actions:
        after = tried(status, action)
        if after is None:
            continue
        assert after.state is status.state or (status.state, after.state) in edges
        assert not status.state.terminal or after == status
        assert (after.wait_reason is not None) == (after.state is TaskState.SUBMITTED)
        assert after.attempt == status.attempt + (1 if action == "claim" else 0)
        assert after.failures <= POLICY.max_failures and after.crashes <= lifecycle.MAX_CRASHES
        assert (after.error is None) or after.state is not TaskState.COMPLETED
        status = after


@given(st.lists(ACTIONS, max_size=40))
def test_a_task_that_is_claimed_and_failed_often_enough_always_ends(actions: list[str]) -> None:
    status = lifecycle.submitted(NOW)
    for action in actions:
        status = tried(status, action) or status
    let_go = {TaskState.PAUSED: "resume", TaskState.INPUT_REQUIRED: "answer"}
    for _ in range(2 * POLICY.max_failures):
        if status.state in let_go:
            status = ACT[let_go[status.state]](status)
        if status.state is TaskState.SUBMITTED:
            status = lifecycle.claim(status)
        if status.state.live:
            status = ACT["fail"](status)
    assert status.state.terminal


@given(st.lists(ACTIONS, max_size=40))
def test_whoever_waits_for_a_person_comes_back_ahead_of_its_class_and_its_clock_has_stood_still(
    actions: list[str],
) -> None:
    status = replace(lifecycle.submitted(NOW), expires=NOW + timedelta(seconds=60))
    for action in actions:
        before, status = status, tried(status, action) or status
        if status.state in lifecycle.PARKED:
            assert status.expires is None and status.left == 60
        if before.state in lifecycle.PARKED and status.state is TaskState.SUBMITTED:
            assert status.run_after == lifecycle.AHEAD and status.wait_reason is WaitReason.QUEUED
            assert status.expires == NOW + timedelta(seconds=60)
        assert status.state is not TaskState.RUNNING or before.state not in lifecycle.PARKED


def test_a_task_that_was_paused_before_its_time_still_waits_for_it() -> None:
    later = NOW + timedelta(hours=1)
    paused = lifecycle.pause(lifecycle.submitted(NOW, 5, run_after=later), now=NOW, grace=1)
    early = lifecycle.resume(paused, now=NOW, start_within=5)
    assert (early.wait_reason, early.run_after) == (WaitReason.SCHEDULED, later)
    assert early.start_by == later + timedelta(seconds=5)
    late = lifecycle.resume(paused, now=later, start_within=5)
    assert (late.wait_reason, late.run_after) == (WaitReason.QUEUED, lifecycle.AHEAD)
    assert late.start_by == later + timedelta(seconds=5)


def test_a_failure_whose_repeat_would_come_too_late_ends_the_task_as_a_dead_letter() -> None:
    status = replace(lifecycle.submitted(NOW), expires=NOW + timedelta(seconds=0.5))
    ending = lifecycle.fail(lifecycle.claim(status), BROKEN, policy=POLICY, now=NOW, chance=0.5)
    assert (ending.status.state, ending.status.dead_lettered) == (TaskState.FAILED, True)


def test_only_a_failure_that_a_repeat_might_have_mended_makes_a_dead_letter() -> None:
    once = replace(POLICY, max_failures=1)
    for error, expected in ((BROKEN, True), (FOR_GOOD, False), (replace(BROKEN, error_class="Never"), False)):
        ending = lifecycle.fail(
            lifecycle.claim(lifecycle.submitted(NOW)), error, policy=once, now=NOW, chance=0.5
        )
        assert (ending.status.state, ending.status.dead_lettered) == (TaskState.FAILED, expected)


def test_a_death_is_put_down_to_the_only_suspect_aboard_or_to_the_only_task() -> None:
    innocent = lifecycle.claim(lifecycle.submitted(NOW))
    suspect = replace(innocent, suspect=True)
    assert lifecycle.blamed([innocent]) == lifecycle.blamed([suspect]) == 0
    assert lifecycle.blamed([innocent, suspect, innocent]) == 1
    assert lifecycle.blamed([]) is lifecycle.blamed([innocent] * 2) is lifecycle.blamed([suspect] * 2) is None


def test_a_task_becomes_a_suspect_with_the_second_death_in_a_row_and_is_cleared_by_what_it_survives() -> None:
    status = lifecycle.claim(lifecycle.submitted(NOW))
    once = lifecycle.lose(status, blamed=False, now=NOW).status
    assert not once.suspect
    given_up = lifecycle.lose(lifecycle.claim(once), blamed=False, died=False, now=NOW).status
    assert not given_up.suspect
    twice = lifecycle.lose(lifecycle.claim(given_up), blamed=False, now=NOW).status
    assert twice.suspect and twice.crashes == 0
    survived = lifecycle.release(lifecycle.claim(twice), now=NOW).status
    assert (survived.suspect, survived.losses) == (False, 0)


def test_the_table_has_no_way_out_of_a_terminal_state() -> None:
    assert all(not source.terminal for source, _ in LEGAL)


@pytest.mark.parametrize("state", list(TaskState))
@pytest.mark.parametrize("move", list(Move))
def test_a_move_that_is_not_in_the_table_is_refused_with_state_and_move(state: TaskState, move: Move) -> None:
    status = Status(state=state, run_after=NOW)
    if (state, move) in LEGAL:
        assert lifecycle._moved(status, move).state is LEGAL[state, move]
        return
    with pytest.raises(IllegalMoveError) as caught:
        lifecycle._moved(status, move)
    assert (caught.value.state, caught.value.move) == (state, move)


def test_a_failure_waits_for_its_back_off_and_the_last_allowed_one_ends_the_task() -> None:
    status = lifecycle.claim(lifecycle.submitted(NOW))
    for failures in (1, 2):
        ending = lifecycle.fail(status, BROKEN, policy=POLICY, now=NOW, chance=0.5)
        assert (ending.outcome, ending.status.wait_reason) == (Outcome.FAILED, WaitReason.RETRY_BACKOFF)
        assert ending.status.failures == failures
        assert ending.status.run_after == NOW + timedelta(seconds=2 ** (failures - 1))
        status = lifecycle.claim(ending.status)
    ending = lifecycle.fail(status, BROKEN, policy=POLICY, now=NOW, chance=0.5)
    assert (ending.status.state, ending.status.error) == (TaskState.FAILED, BROKEN)


@pytest.mark.parametrize(
    "error",
    [FOR_GOOD, replace(BROKEN, error_class="Never")],
    ids=["told so by the worker", "by the policy of the agent"],
)
def test_a_failure_that_may_not_be_repeated_ends_the_task_at_once(error: TaskError) -> None:
    status = lifecycle.claim(lifecycle.submitted(NOW))
    assert lifecycle.fail(status, error, policy=POLICY, now=NOW, chance=0.5).status.state is TaskState.FAILED


def test_a_task_that_three_workers_died_of_is_poison_and_its_failures_are_not_counted() -> None:
    status = lifecycle.submitted(NOW)
    for _ in range(2):
        ending = lifecycle.lose(lifecycle.claim(status), blamed=True, now=NOW)
        assert (ending.outcome, ending.status.wait_reason) == (Outcome.LOST, WaitReason.QUEUED)
        status = ending.status
    ending = lifecycle.lose(lifecycle.claim(status), blamed=True, now=NOW)
    assert ending.status.state is TaskState.FAILED
    assert ending.status.error is not None and ending.status.error.error_class == lifecycle.POISON
    assert ending.status.failures == 0


@pytest.mark.parametrize("action", ["fail", "fail for good", "release", "lose", "time out"])
def test_however_the_attempt_of_a_canceling_task_ends_the_task_is_canceled(action: str) -> None:
    canceling = lifecycle.cancel(lifecycle.claim(lifecycle.submitted(NOW)), now=NOW, grace=10)
    assert canceling.state is TaskState.CANCELING
    assert ACT[action](canceling).state is TaskState.CANCELED


def test_a_canceling_task_that_was_done_all_the_same_is_completed() -> None:
    canceling = lifecycle.cancel(lifecycle.claim(lifecycle.submitted(NOW)), now=NOW, grace=10)
    assert lifecycle.complete(canceling).status.state is TaskState.COMPLETED
