"""The journal of one attempt.

Each action is recorded before it is done, and answered from the record when it was.
"""

import asyncio
import contextlib
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

import structlog

from interlock.agent import AgentError, ChildFailed, ChildTask, ToolError, ToolRefused
from interlock.common.v1 import permit_pb2
from interlock.gateway.v1 import gateway_service_pb2
from interlock.orchestrator.v1 import task_pb2
from interlock.orchestrator.v1 import worker_service_pb2 as messages
from svc_kit.status import RemoteError
from worker_svc.attempts import Attempt
from worker_svc.errors import AttemptPaused, StaleAttempt
from worker_svc.gateway import Gateway, is_verdict, was_executed
from worker_svc.orchestrator import Orchestrator
from worker_svc.progress import Progress

# A permit may run out between the orchestrator and the gateway when this process was stopped in between.
_PERMITS = 3
_MAX_SAID = 4096
# An agent cannot fill the log of its worker.
_MAX_LOGGED = 200
# What an agent awaits side by side it awaits within this time; and a child that is about to end costs no new
# attempt.
_LINGER_SECONDS = 0.05
_LOG = structlog.get_logger(__name__)


class Journal:
    """Implements AgentContext for one attempt.

    The end of a step is told together with the beginning of the next, or with the end of the task: one
    commit for each step instead of two. Calls side by side are possible; each brings its own end.
    """

    def __init__(
        self, attempt: Attempt, orchestrator: Orchestrator, gateway: Gateway, progress: Progress
    ) -> None:
        self._attempt = attempt
        self._progress = progress
        self._orchestrator = orchestrator
        self._gateway = gateway
        self._calls: Counter[str] = Counter()
        # Ends of steps, in order, that the orchestrator has not been told yet.
        self._untold: deque[messages.FinishStep] = deque()
        # Steps between their beginning and their end; set while there are none.
        self._under_way = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        # Steps about which a person is asked; `_settled` is set while there are none.
        self._settling = 0
        self._settled = asyncio.Event()
        # Steps whose child tasks are awaited now; one call asks for all of them.
        self._awaited: set[str] = set()
        self._one_await = asyncio.Lock()
        # What ends the attempt, even if the agent caught it.
        self._fatal: AgentError | None = None

    @property
    def task_id(self) -> str:
        """UUID of the task."""
        return self._attempt.claimed.task_id

    @property
    def attempt(self) -> int:
        """Number of the attempt, from 1."""
        return self._attempt.claimed.attempt

    async def call_tool(self, tool: str, arguments: Mapping[str, Any], *, key: str = "") -> Any:
        """Call a bound tool; see AgentContext."""
        self._calls[tool] += 1
        step_key = key or f"{tool}-{self._calls[tool]}"
        begin = messages.BeginStep(
            step_key=step_key,
            kind=task_pb2.STEP_KIND_TOOL_CALL,
            name=tool,
            input_json=json.dumps(dict(arguments), ensure_ascii=False, allow_nan=False),
        )
        async with self._step():
            return await self._call_tool(begin)

    async def call_model(self, connection: str, asked: Mapping[str, Any], *, key: str) -> Any:
        """Send a request to a model through a connection; the response, and what it used up.

        For the llm runtime alone: other agents have no model. Raises AgentError; `retry_after` says how long
        the provider wants to be left alone.
        """
        begin = messages.BeginStep(
            step_key=key,
            kind=task_pb2.STEP_KIND_MODEL_CALL,
            name=connection,
            input_json=json.dumps(dict(asked), ensure_ascii=False, allow_nan=False),
        )
        async with self._step():
            return await self._call_model(begin)

    async def submit(
        self,
        agent: str,
        task_input: Mapping[str, Any],
        *,
        key: str = "",
        agent_version: str = "",
        task_type: str = "",
        labels: Mapping[str, str] | None = None,
        abandon: bool = False,
    ) -> ChildTask:
        """Give work to another agent; see AgentContext."""
        name = f"agent:{agent}"
        self._calls[name] += 1
        policy = task_pb2.CLOSE_POLICY_ABANDON if abandon else task_pb2.CLOSE_POLICY_CANCEL
        begin = messages.BeginStep(
            step_key=key or f"{agent}-{self._calls[name]}",
            kind=task_pb2.STEP_KIND_CHILD_TASK,
            name=agent,
            input_json=json.dumps(dict(task_input), ensure_ascii=False, allow_nan=False),
            child=messages.ChildTask(
                agent_version=agent_version, task_type=task_type, labels=labels or {}, close_policy=policy
            ),
        )
        async with self._step():
            answer = await self._begin(begin)
        recorded = answer.HasField("recorded")
        child_id = answer.recorded.step.call_id if recorded else answer.start.call_id
        return _Child(self, begin, child_id)

    async def ask_human(
        self, question: str, schema: Mapping[str, Any] | None = None, *, key: str = ""
    ) -> Any:
        """Ask a person; see AgentContext."""
        self._calls["a human"] += 1
        request = messages.RequestInputRequest(
            input_id=f"ask:{key or self._calls['a human']}",
            kind=task_pb2.INPUT_KIND_QUESTION,
            prompt=question,
            schema_json=json.dumps(schema) if schema is not None else "",
        )
        async with self._alone():
            request.attempt_token.CopyFrom(self._attempt.token)
            try:
                answer = await self._orchestrator.request_input(request)
            except RemoteError as problem:
                raise self._end(problem.message, error_class=problem.reason or problem.code.name) from problem
            if not answer.HasField("provided"):
                await self._over("a person is asked")
        return json.loads(answer.provided.answer_json)

    async def child_result(self, begin: messages.BeginStep) -> Any:
        """The result of the child task that a step began; or the attempt ends here, until there is one."""
        while True:
            async with self._step():
                answer = await self._begin(begin)
            if answer.HasField("recorded"):
                return _child_outcome(answer.recorded.step)
            await self._await_child(begin.step_key)

    def log(self, message: str, *, done: float | None = None) -> None:
        """To watchers and, for so many times, into the worker's log; see AgentContext."""
        self._progress.say(self._attempt, message, done)
        self._calls["log"] += 1
        if self._calls["log"] <= _MAX_LOGGED:
            _LOG.info("agent_said", task_id=self.task_id, attempt=self.attempt, text=message[:_MAX_SAID])

    def check(self) -> None:
        """Raise what should have ended the attempt, if the agent caught it."""
        if self._fatal is not None:
            raise self._fatal

    async def tell(self) -> messages.FinishStep | None:
        """Tell the ends of all steps but the last one, which is returned.

        It goes along with the attempt's end.
        """
        while len(self._untold) > 1:
            await self._record(None)
        return self._untold[0] if self._untold else None

    @contextlib.asynccontextmanager
    async def _step(self) -> AsyncIterator[None]:
        """Holds a step from its beginning to its end.

        None begins while the task is to be paused: once those under way have ended, the attempt ends.
        """
        while self._settling:
            self._settled.clear()
            await self._settled.wait()
        while self._attempt.pausing:
            await self._quiet.wait()
            if self._attempt.pausing:
                self._attempt.order(AttemptPaused("the task is to be paused"))
                await asyncio.Event().wait()  # the order cancels it
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def _enter(self) -> None:
        self._under_way += 1
        self._quiet.clear()

    def _leave(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._quiet.set()

    async def _call_tool(self, begin: messages.BeginStep) -> Any:
        permits = _PERMITS
        while True:
            answer = await self._begin(begin)
            if answer.HasField("recorded"):
                return self._recorded(answer.recorded.step)
            try:
                outcome = await self._gateway.execute(answer.start.permit, answer.start.input_json)
            except RemoteError as problem:
                permits -= 1
                if problem.reason == "PERMIT_EXPIRED" and permits:
                    continue
                if problem.reason == "OUTCOME_UNKNOWN":
                    await self._settle(begin, answer.start.call_id)
                    continue
                if problem.reason == "APPROVAL_REQUIRED":
                    await self._approved(begin, problem.metadata["approval_id"])
                    permits = _PERMITS
                    continue
                raise self._refused(begin.step_key, answer.start.call_id, problem) from problem
            return self._finished(begin.step_key, outcome)

    async def _call_model(self, begin: messages.BeginStep) -> Any:
        permits = _PERMITS
        while True:
            answer = await self._begin(begin)
            if answer.HasField("recorded"):
                return self._recorded(answer.recorded.step)
            try:
                outcome = await self._gateway.call_model(answer.start.permit, answer.start.input_json)
            except RemoteError as problem:
                permits -= 1
                if problem.reason == "PERMIT_EXPIRED" and permits:
                    continue
                raise self._refused(begin.step_key, answer.start.call_id, problem) from problem
            return self._completed(begin.step_key, outcome.result_json, outcome.receipt)

    async def _approved(self, begin: messages.BeginStep, approval_id: str) -> None:
        """Wait for a person's decision about a call; returns once there is one, or the attempt ends here.

        What was decided the gateway knows: it is asked again.
        """
        request = messages.RequestInputRequest(
            input_id=f"approval-{approval_id}",
            kind=task_pb2.INPUT_KIND_APPROVAL,
            step_key=begin.step_key,
            prompt=f"May this task call {begin.name}? interlock approvals show {approval_id}",
        )
        await self._asked(request, f"a person has to approve step {begin.step_key}")

    async def _settle(self, begin: messages.BeginStep, call_id: str) -> None:
        """Have a person say what became of a call; returns once the journal knows."""
        request = messages.RequestInputRequest(
            input_id=f"uncertain-{call_id}",
            kind=task_pb2.INPUT_KIND_UNCERTAIN_STEP,
            step_key=begin.step_key,
            prompt=f"{begin.name} may run only once and was lost while it ran. Did it have its effect?",
        )
        await self._asked(request, f"a person is asked what became of step {begin.step_key}")

    async def _asked(self, request: messages.RequestInputRequest, why: str) -> None:
        """Ask a person about a step under way; returns once there is an answer, or the attempt ends here.

        Steps beside it come to their ends first, and none begins: what an attempt leaves behind is lost.
        """
        self._leave()
        try:
            async with self._alone():
                request.attempt_token.CopyFrom(self._attempt.token)
                answer = await self._orchestrator.request_input(request)
                if not answer.HasField("provided"):
                    await self._over(why)
        finally:
            self._enter()

    async def _await_child(self, step_key: str) -> None:
        """Returns once a child task that is awaited has ended, or the attempt ends here."""
        self._awaited.add(step_key)
        try:
            async with self._one_await:
                await asyncio.sleep(_LINGER_SECONDS)
                async with self._alone():
                    request = messages.AwaitChildrenRequest(
                        attempt_token=self._attempt.token, step_keys=sorted(self._awaited)
                    )
                    try:
                        answer = await self._orchestrator.await_children(request)
                    except RemoteError as problem:
                        reason = problem.reason or problem.code.name
                        raise self._end(problem.message, error_class=reason) from problem
                    if not answer.ended:
                        await self._over("a child task has to end first")
        finally:
            self._awaited.discard(step_key)

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Steps under way end first, and none begins: what an attempt leaves behind is lost."""
        self._settling += 1
        try:
            await self._quiet.wait()
            await self._tell_all()
            yield
        finally:
            self._settling -= 1
            if not self._settling:
                self._settled.set()

    async def _over(self, why: str) -> None:
        """The orchestrator has ended the attempt; whoever waits is cancelled by the order."""
        self._attempt.order(StaleAttempt(why))
        await asyncio.Event().wait()

    async def _tell_all(self) -> None:
        try:
            while self._untold:
                await self._record(None)
        except RemoteError as problem:
            # The call is joined again by the next attempt.
            _LOG.warning("step_end_refused", task_id=self.task_id, error=str(problem))

    async def _begin(self, begin: messages.BeginStep) -> messages.RecordStepResponse:
        try:
            return await self._record(begin)
        except RemoteError as problem:
            reason = problem.reason or problem.code.name
            if reason == "TOOL_NOT_BOUND":
                raise ToolRefused(problem.message, reason=reason, call_id="") from problem
            raise self._end(problem.message, error_class=reason) from problem

    async def _record(self, begin: messages.BeginStep | None) -> messages.RecordStepResponse:
        """Tell the oldest untold end, begin a step, or both."""
        finish = self._untold.popleft() if self._untold else None
        request = messages.RecordStepRequest(attempt_token=self._attempt.token, finish=finish, begin=begin)
        try:
            return await self._orchestrator.record_step(request)
        except BaseException:
            # Not known to be told; telling it twice changes nothing.
            if finish is not None:
                self._untold.appendleft(finish)
            raise

    def _finished(self, step_key: str, outcome: gateway_service_pb2.ExecuteToolResponse) -> Any:
        if outcome.is_error:
            self._failed(step_key, outcome.error_class, outcome.error_message, outcome.receipt)
            raise ToolError(outcome.error_message, error_class=outcome.error_class)
        return self._completed(step_key, outcome.result_json, outcome.receipt)

    def _completed(self, step_key: str, result_json: str, receipt: permit_pb2.Signed) -> Any:
        self._untold.append(
            messages.FinishStep(
                step_key=step_key,
                status=task_pb2.STEP_STATUS_COMPLETED,
                output_json=result_json,
                receipt=receipt,
            )
        )
        return json.loads(result_json)

    def _failed(self, step_key: str, error_class: str, message: str, receipt: permit_pb2.Signed) -> None:
        self._untold.append(
            messages.FinishStep(
                step_key=step_key,
                status=task_pb2.STEP_STATUS_FAILED,
                error=task_pb2.TaskError(error_class=error_class, message=message, step_key=step_key),
                receipt=receipt,
            )
        )

    def _refused(self, step_key: str, call_id: str, problem: RemoteError) -> AgentError:
        reason = problem.reason or problem.code.name
        if is_verdict(problem):
            error = task_pb2.TaskError(error_class=reason, message=problem.message, step_key=step_key)
            self._untold.append(
                messages.FinishStep(step_key=step_key, status=task_pb2.STEP_STATUS_REFUSED, error=error)
            )
            return ToolRefused(problem.message, reason=reason, call_id=call_id)
        if was_executed(problem):
            receipt = problem.detail(permit_pb2.Signed)
            if receipt is not None:
                self._failed(step_key, reason, problem.message, receipt)
            return ToolError(problem.message, error_class=reason)
        # Nothing is known to have been decided: another attempt asks again under the same call id.
        return self._end(
            problem.message, error_class=reason, retryable=True, retry_after=problem.retry_after or 0.0
        )

    def _end(
        self, message: str, *, error_class: str, retryable: bool = False, retry_after: float = 0.0
    ) -> AgentError:
        """What ends the attempt; the first one stands."""
        error = AgentError(message, error_class=error_class, retryable=retryable, retry_after=retry_after)
        self._fatal = self._fatal or error
        return error

    def _recorded(self, step: task_pb2.Step) -> Any:
        if step.status == task_pb2.STEP_STATUS_COMPLETED:
            return json.loads(step.output_json)
        if step.status == task_pb2.STEP_STATUS_REFUSED:
            raise ToolRefused(step.error.message, reason=step.error.error_class, call_id=step.call_id)
        if step.error.error_class == "UNCERTAIN_STEP":
            raise self._end(step.error.message, error_class=step.error.error_class)
        raise ToolError(step.error.message, error_class=step.error.error_class)


class _Child:
    """Implements ChildTask."""

    def __init__(self, journal: Journal, begin: messages.BeginStep, task_id: str) -> None:
        self._journal = journal
        self._begin = begin
        self.task_id = task_id

    async def result(self) -> Any:
        """The child's result; see ChildTask."""
        return await self._journal.child_result(self._begin)


def _child_outcome(step: task_pb2.Step) -> Any:
    if step.status == task_pb2.STEP_STATUS_COMPLETED:
        return json.loads(step.output_json)
    raise ChildFailed(
        step.error.message,
        error_class=step.error.error_class,
        task_id=step.call_id,
        repeatable=step.error.retryable,
    )
