"""One attempt against peers that are away, refuse, or overtake it."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from interlock.agent import AgentContext, ToolRefused
from interlock.common import documents
from interlock.common.time_limits import MODEL_SECONDS, TOOL_SECONDS
from interlock.common.v1 import errors_pb2
from interlock.orchestrator.v1 import task_pb2
from interlock.orchestrator.v1 import worker_service_pb2 as messages
from svc_kit.errors import FailedPrecondition, PermissionDenied
from tests.worker.scripted import (
    AWAY,
    CHANGED,
    DENIED,
    FULL,
    LOST,
    NOT_ACCEPTED,
    STALE,
    Worker,
    attempt_of,
    scripted_worker,
    task,
)
from worker_svc.attempts import Attempt, Attempts

_SECONDS = 20.0


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    with tempfile.TemporaryDirectory(prefix="il-") as folder:
        async with asyncio.timeout(_SECONDS), scripted_worker(Path(folder)) as made:
            yield made


async def one_call(context: AgentContext, _: dict[str, Any]) -> Any:
    return await context.call_tool("tool", {"n": 1})


async def test_a_step_is_begun_executed_and_its_end_goes_along_with_the_result(worker: Worker) -> None:
    await worker.run(one_call)
    (done,) = worker.script.completed
    assert (done.result_json, done.finish.step_key, done.finish.output_json) == (
        '{"n":1}',
        "tool-1",
        '{"n": 1}',
    )
    assert len(worker.script.steps) == 1


async def test_a_call_is_waited_for_as_long_as_the_gateway_may_take_for_it(worker: Worker) -> None:
    async def both(context: Any, _: dict[str, Any]) -> Any:
        await context.call_tool("text.echo", {"value": 1})
        return await context.call_model("local", {"messages": []}, key="ask")

    await worker.run(both)
    patience = worker.script.patience
    assert patience["ExecuteTool"] > TOOL_SECONDS
    assert patience["CallModel"] > MODEL_SECONDS


async def test_calls_side_by_side_each_have_their_end_told(worker: Worker) -> None:
    async def three(context: AgentContext, _: dict[str, Any]) -> Any:
        return await asyncio.gather(*(context.call_tool("tool", {"n": n}) for n in range(3)))

    await worker.run(three)
    assert worker.script.finished() == ["tool-1", "tool-2", "tool-3"]
    assert worker.script.completed[0].result_json == '[{"n":0},{"n":1},{"n":2}]'


async def test_peers_that_are_away_for_a_while_cost_the_task_nothing(worker: Worker) -> None:
    for method in ("GetAgent", "RecordStep", "ExecuteTool", "CompleteTask"):
        worker.script.will_fail(method, *[AWAY] * 3)
    await worker.run(one_call)
    assert len(worker.script.completed) == 1
    assert worker.script.failed == []


async def test_a_refused_call_ends_the_task_with_the_refusal_as_its_step(worker: Worker) -> None:
    worker.script.will_fail("ExecuteTool", DENIED)
    await worker.run(one_call)
    (failed,) = worker.script.failed
    assert failed.finish.status == task_pb2.STEP_STATUS_REFUSED
    assert (failed.error.error_class, failed.error.step_key, failed.error.retryable) == (
        "POLICY_DENIED",
        "tool-1",
        False,
    )


async def paused_while(worker: Worker, agent: Any, attempt: Attempt, begun: asyncio.Event) -> None:
    running = asyncio.create_task(worker.runner(agent).run(attempt))
    await begun.wait()
    attempt.pausing = True
    await running


async def test_a_task_to_be_paused_is_given_back_at_its_next_step_with_the_ends_of_the_ones_before(
    worker: Worker,
) -> None:
    begun = asyncio.Event()

    async def two(context: AgentContext, _: dict[str, Any]) -> Any:
        await context.call_tool("tool", {"n": 1})
        begun.set()
        await asyncio.sleep(0)
        return await context.call_tool("tool", {"n": 2})

    await paused_while(worker, two, attempt_of(task()), begun)
    assert worker.script.executed == ["tool-1"]
    assert len(worker.script.released) == 1 and worker.script.finished() == ["tool-1"]
    assert worker.script.completed == [] and worker.script.failed == []


async def test_steps_that_are_under_way_end_before_a_task_is_given_back_to_be_paused(worker: Worker) -> None:
    begun = asyncio.Event()
    worker.script.will_fail("ExecuteTool", *[AWAY] * 4)

    async def side_by_side(context: AgentContext, _: dict[str, Any]) -> Any:
        async def late() -> Any:
            begun.set()
            await asyncio.sleep(0)
            return await context.call_tool("late", {})

        return await asyncio.gather(context.call_tool("tool", {"n": 1}), late())

    await paused_while(worker, side_by_side, attempt_of(task()), begun)
    assert worker.script.executed == ["tool-1"]
    assert worker.script.finished() == ["tool-1"] and len(worker.script.released) == 1


async def test_a_directive_that_outruns_the_answer_to_its_claim_is_kept_for_the_attempt(
    worker: Worker,
) -> None:
    attempts = Attempts()
    ref = messages.AttemptRef(task_id="a", attempt=1)
    attempts.obey([messages.AttemptDirective(attempt=ref, directive=messages.DIRECTIVE_CANCEL)])
    attempt = attempt_of(task())

    async def for_ever(context: AgentContext, _: dict[str, Any]) -> Any:
        await asyncio.Event().wait()

    attempts.add(attempt)
    await worker.runner(for_ever).run(attempt)
    assert [each.error.error_class for each in worker.script.failed] == ["CANCELED"]


async def test_an_agent_may_catch_a_refusal_and_go_on(worker: Worker) -> None:
    async def careful(context: AgentContext, _: dict[str, Any]) -> Any:
        try:
            await context.call_tool("forbidden", {})
        except ToolRefused as refused:
            return {"refused": refused.error_class, "then": await context.call_tool("tool", {"n": 1})}

    worker.script.will_fail("ExecuteTool", DENIED)
    await worker.run(careful)
    assert worker.script.completed[0].result_json == '{"refused":"POLICY_DENIED","then":{"n":1}}'
    assert worker.script.finished() == ["forbidden-1", "tool-1"]


async def test_a_tool_that_is_not_bound_is_refused_as_agents_are_told(worker: Worker) -> None:
    not_bound = PermissionDenied(errors_pb2.ERROR_REASON_TOOL_NOT_BOUND, "not listed")
    worker.script.will_fail("RecordStep", not_bound)
    await worker.run(one_call)
    assert worker.script.failed[0].error.error_class == "TOOL_NOT_BOUND"
    assert worker.script.executed == []


async def test_an_expired_permit_is_asked_for_again(worker: Worker) -> None:
    expired = FailedPrecondition(errors_pb2.ERROR_REASON_PERMIT_EXPIRED, "expired")
    worker.script.will_fail("ExecuteTool", expired, expired)
    await worker.run(one_call)
    assert len(worker.script.steps) == 3
    assert len(worker.script.completed) == 1


@pytest.mark.parametrize("method", ["RecordStep", "CompleteTask"])
async def test_a_stale_attempt_writes_nothing_more(worker: Worker, method: str) -> None:
    worker.script.will_fail(method, STALE)
    await worker.run(one_call)
    assert (worker.script.completed, worker.script.failed, worker.script.released) == ([], [], [])


async def test_an_end_whose_step_is_not_accepted_is_told_without_it(worker: Worker) -> None:
    worker.script.will_fail("ExecuteTool", DENIED)
    worker.script.will_fail("FailTask", NOT_ACCEPTED)
    await worker.run(one_call)
    (failed,) = worker.script.failed
    assert not failed.HasField("finish")
    assert failed.error.error_class == "POLICY_DENIED"


async def test_a_result_that_is_not_accepted_fails_the_task(worker: Worker) -> None:
    worker.script.will_fail("CompleteTask", NOT_ACCEPTED)
    await worker.run(one_call)
    (failed,) = worker.script.failed
    assert (failed.error.error_class, failed.error.retryable) == ("RESULT_REFUSED", False)


async def test_whatever_an_agent_raises_becomes_text_that_can_be_stored(worker: Worker) -> None:
    async def raises(_context: AgentContext, _: dict[str, Any]) -> Any:
        raise type("E" * 300, (Exception,), {})("nul \0, escape \x1b, lone \ud800")

    await worker.run(raises)
    (failed,) = worker.script.failed
    assert failed.error.error_class == "E" * 128
    assert failed.error.message == "nul \\x00, escape \\x1b, lone \\ud800"


async def test_an_agents_own_time_out_is_not_the_attempts(worker: Worker) -> None:
    async def raises(_context: AgentContext, _: dict[str, Any]) -> Any:
        raise TimeoutError("a page did not load")

    async def sleeps(_context: AgentContext, _: dict[str, Any]) -> Any:
        await asyncio.Event().wait()

    await worker.run(raises)
    short = task()
    short.start_to_close_timeout.FromMilliseconds(20)
    await worker.run(sleeps, short)
    assert [each.error.error_class for each in worker.script.failed] == [
        "TimeoutError",
        "START_TO_CLOSE_TIMEOUT",
    ]


async def test_a_draining_worker_gives_back_what_it_runs_and_what_a_late_claim_brings(
    worker: Worker,
) -> None:
    started = asyncio.Event()

    async def waits(_context: AgentContext, _: dict[str, Any]) -> Any:
        started.set()
        await asyncio.Event().wait()

    claims = worker.claims(waits)
    worker.script.claimable.append(task("running"))
    await claims.claim_all("default")
    await started.wait()
    worker.script.claims_answered.clear()
    worker.script.claim_asked.clear()
    late = asyncio.create_task(claims.claim_all("default"))
    await worker.script.claim_asked.wait()
    draining = asyncio.create_task(claims.drain(0.05))
    await asyncio.sleep(0)
    worker.script.claimable.append(task("late"))
    worker.script.claims_answered.set()
    await asyncio.gather(draining, late)
    assert len(worker.script.released) == 2
    assert worker.script.failed == []
    assert not await claims.claim_all("default")


async def test_a_drained_worker_says_that_nudges_are_for_others_until_it_is_resumed(worker: Worker) -> None:
    claims = worker.claims(one_call)
    assert await claims.claim_all("default")
    worker.script.drained = True
    assert not await claims.claim_all("default")
    worker.script.drained = False
    assert await claims.claim_all("default")


async def test_a_draining_worker_gives_back_what_an_idle_claim_under_way_brings(worker: Worker) -> None:
    claims = worker.claims(one_call)
    worker.script.claims_answered.clear()
    idle = asyncio.create_task(claims.claim_idly(("default",), taking=lambda: None))
    await worker.script.claim_asked.wait()
    draining = asyncio.create_task(claims.drain(0.05))
    await asyncio.sleep(0)
    worker.script.claimable.append(task("late"))
    worker.script.claims_answered.set()
    async with asyncio.timeout(10):
        await asyncio.gather(draining, idle)
    assert len(worker.script.released) == 1


async def test_a_draining_worker_gives_back_what_a_claim_took_whose_answer_was_lost(worker: Worker) -> None:
    claims = worker.claims(one_call)
    worker.script.will_fail("ClaimTask", AWAY)
    await claims.claim_all("default")
    worker.script.claimable.append(task("taken"))
    await claims.drain(0.05)
    assert len(worker.script.released) == 1
    assert len(set(worker.script.claim_ids)) == 1


async def test_an_unknown_outcome_parks_the_task_once_the_steps_beside_it_have_ended(worker: Worker) -> None:
    worker.script.will_fail("ExecuteTool", LOST, *[AWAY] * 4)
    went_on = False

    async def side_by_side(context: AgentContext, _: dict[str, Any]) -> Any:
        nonlocal went_on
        await asyncio.gather(*(context.call_tool("tool", {"n": n}) for n in range(2)))
        went_on = True

    await worker.run(side_by_side)
    (asked,) = worker.script.asked
    assert (asked.kind, asked.input_id) == (
        task_pb2.INPUT_KIND_UNCERTAIN_STEP,
        f"uncertain-{asked.step_key}",
    )
    # The other call was waited for, and its end is told before the attempt is over.
    assert len(worker.script.executed) == 1 and worker.script.finished() == worker.script.executed
    assert not went_on
    assert (worker.script.completed, worker.script.failed, worker.script.released) == ([], [], [])


async def test_what_ends_an_attempt_ends_it_though_the_agent_has_caught_it(worker: Worker) -> None:
    worker.script.will_fail("RecordStep", CHANGED)

    async def deaf(context: AgentContext, _: dict[str, Any]) -> Any:
        with contextlib.suppress(Exception):
            await context.call_tool("tool", {})
        return "went on"

    await worker.run(deaf)
    (failed,) = worker.script.failed
    assert (failed.error.error_class, failed.error.retryable) == ("NONDETERMINISM", False)
    assert worker.script.completed == []


async def test_a_large_result_is_sent_ahead_and_referred_to(worker: Worker) -> None:
    async def wordy(context: AgentContext, _: dict[str, Any]) -> Any:
        return "ä" * 1_500_000

    worker.script.will_fail("PutResultBlob", *[AWAY] * 2)
    await worker.run(wordy)
    (completed,) = worker.script.completed
    (stored,) = worker.script.blobs
    assert stored == f'"{"ä" * 1_500_000}"'.encode()
    assert (completed.result_blob, completed.result_json) == (documents.digest(stored), "")


async def test_an_input_that_is_a_blob_is_fetched_and_checked_against_its_digest(worker: Worker) -> None:
    async def echo(context: AgentContext, given: dict[str, Any]) -> Any:
        return given["n"]

    claimed = task()
    claimed.input_json, claimed.input_blob = "", documents.digest(b'{"n": 7}')
    worker.script.input_chunks = [b'{"n"', b": 7}"]
    await worker.run(echo, claimed)
    assert worker.script.completed[0].result_json == "7"
    worker.script.input_chunks = [b'{"n"', b": 8}"]
    await worker.run(echo, claimed)
    assert worker.script.failed[0].error.error_class == "DocumentDamaged"


async def test_a_tenant_whose_blobs_are_too_many_has_its_task_fail_at_once(worker: Worker) -> None:
    async def wordy(context: AgentContext, _: dict[str, Any]) -> Any:
        return "x" * 300_000

    # However often it is asked: a refusal can reach the sender as a cut, after which it asks again.
    worker.script.will_fail("PutResultBlob", *[FULL] * 20)
    await worker.run(wordy)
    (failed,) = worker.script.failed
    assert (failed.error.error_class, failed.error.retryable) == ("BLOB_QUOTA", False)
