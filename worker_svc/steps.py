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

from interlock.agent import AgentError, ToolError, ToolRefused
from interlock.common.v1 import permit_pb2
from interlock.gateway.v1 import gateway_service_pb2
from interlock.orchestrator.v1 import task_pb2
from interlock.orchestrator.v1 import worker_service_pb2 as messages
from svc_kit.status import RemoteError
from worker_svc.attempts import Attempt
from worker_svc.errors import AttemptPaused
from worker_svc.gateway import Gateway, is_verdict, was_executed
from worker_svc.orchestrator import Orchestrator

# A permit may run out between the orchestrator and the gateway when this process was stopped in between.
_PERMITS = 3
_MAX_SAID = 4096
_LOG = structlog.get_logger(__name__)


class Journal:
    """Implements AgentContext for one attempt.

    The end of a step is told together with the beginning of the next, or with the end of the task: one
    commit for each step instead of two. Calls side by side are possible; each brings its own end.
    """

    def __init__(self, attempt: Attempt, orchestrator: Orchestrator, gateway: Gateway) -> None:
        self._attempt = attempt
        self._orchestrator = orchestrator
        self._gateway = gateway
        self._calls: Counter[str] = Counter()
        # Ends of steps, in order, that the orchestrator has not been told yet.
        self._untold: deque[messages.FinishStep] = deque()
        # Steps between their beginning and their end; set while there are none.
        self._under_way = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

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

    def log(self, message: str) -> None:
        """Into the worker's log; see AgentContext."""
        _LOG.info("agent_said", task_id=self.task_id, attempt=self.attempt, text=message[:_MAX_SAID])

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
        while self._attempt.pausing:
            await self._quiet.wait()
            if self._attempt.pausing:
                self._attempt.order(AttemptPaused("the task is to be paused"))
                await asyncio.Event().wait()  # the order cancels it
        self._under_way += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._quiet.set()

    async def _call_tool(self, begin: messages.BeginStep) -> Any:
        for permits_left in reversed(range(_PERMITS)):
            answer = await self._begin(begin)
            if answer.HasField("recorded"):
                return _recorded(answer.recorded.step)
            try:
                outcome = await self._gateway.execute(answer.start.permit, answer.start.input_json)
            except RemoteError as problem:
                if problem.reason == "PERMIT_EXPIRED" and permits_left:
                    continue
                raise self._refused(begin.step_key, answer.start.call_id, problem) from problem
            return self._finished(begin.step_key, outcome)
        raise AssertionError("the last permit either answers or raises")

    async def _begin(self, begin: messages.BeginStep) -> messages.RecordStepResponse:
        try:
            return await self._record(begin)
        except RemoteError as problem:
            reason = problem.reason or problem.code.name
            if reason == "TOOL_NOT_BOUND":
                raise ToolRefused(problem.message, reason=reason, call_id="") from problem
            raise AgentError(problem.message, error_class=reason, retryable=False) from problem

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
        self._untold.append(
            messages.FinishStep(
                step_key=step_key,
                status=task_pb2.STEP_STATUS_COMPLETED,
                output_json=outcome.result_json,
                receipt=outcome.receipt,
            )
        )
        return json.loads(outcome.result_json)

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
        # Nothing is known to have been decided: another attempt asks again under the same call id. Whether an
        # unknown outcome may be tried again is for the gateway to say, by the tool's side effect.
        retryable = reason != "OUTCOME_UNKNOWN"
        return AgentError(problem.message, error_class=reason, retryable=retryable)


def _recorded(step: task_pb2.Step) -> Any:
    if step.status == task_pb2.STEP_STATUS_COMPLETED:
        return json.loads(step.output_json)
    if step.status == task_pb2.STEP_STATUS_REFUSED:
        raise ToolRefused(step.error.message, reason=step.error.error_class, call_id=step.call_id)
    raise ToolError(step.error.message, error_class=step.error.error_class)
