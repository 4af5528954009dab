"""The journal of one attempt.

Each action is recorded before it is done, and answered from the record when it was.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from interlock.agent import AgentError, ToolError, ToolRefused
from interlock.common.v1 import permit_pb2
from interlock.gateway.v1 import gateway_service_pb2
from interlock.orchestrator.v1 import task_pb2
from interlock.orchestrator.v1 import worker_service_pb2 as messages
from worker_svc.attempts import Attempt
from worker_svc.gateway import Gateway, Refusal
from worker_svc.orchestrator import Orchestrator

# A permit may run out between the orchestrator and the gateway when this process was stopped in between.
_PERMITS = 3
# The call was executed, or at least started; what the gateway says of it is the tool's outcome.
_EXECUTED = frozenset({"STARTED", "COMPLETED"})


class Journal:
    """Implements AgentContext for one attempt.

    The end of a step is told together with the beginning of the next, or with the end of the task: one
    commit for each step instead of two.
    """

    def __init__(self, attempt: Attempt, orchestrator: Orchestrator, gateway: Gateway) -> None:
        self._attempt = attempt
        self._orchestrator = orchestrator
        self._gateway = gateway
        self._calls: Counter[str] = Counter()
        self._unfinished: messages.FinishStep | None = None

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
        for permits_left in reversed(range(_PERMITS)):
            answer = await self._begin(begin)
            if answer.HasField("recorded"):
                return _recorded(answer.recorded.step)
            try:
                outcome = await self._gateway.execute(answer.start.permit, answer.start.input_json)
            except Refusal as refusal:
                if refusal.remote.reason == "PERMIT_EXPIRED" and permits_left:
                    continue
                raise self._refused(step_key, answer.start.call_id, refusal) from refusal
            return self._finished(step_key, outcome)
        raise AssertionError("the last permit either answers or raises")

    def take_unfinished(self) -> messages.FinishStep | None:
        """The end of the last step, not yet told; it goes along with the end of the attempt."""
        unfinished, self._unfinished = self._unfinished, None
        return unfinished

    async def _begin(self, begin: messages.BeginStep) -> messages.RecordStepResponse:
        request = messages.RecordStepRequest(
            attempt_token=self._attempt.token, finish=self._unfinished, begin=begin
        )
        answer = await self._orchestrator.record_step(request)
        self._unfinished = None
        return answer

    def _finished(self, step_key: str, outcome: gateway_service_pb2.ExecuteToolResponse) -> Any:
        if outcome.is_error:
            self._failed(step_key, outcome.error_class, outcome.error_message, outcome.receipt)
            raise ToolError(outcome.error_message, error_class=outcome.error_class)
        self._unfinished = messages.FinishStep(
            step_key=step_key,
            status=task_pb2.STEP_STATUS_COMPLETED,
            output_json=outcome.result_json,
            receipt=outcome.receipt,
        )
        return json.loads(outcome.result_json)

    def _failed(self, step_key: str, error_class: str, message: str, receipt: permit_pb2.Signed) -> None:
        self._unfinished = messages.FinishStep(
            step_key=step_key,
            status=task_pb2.STEP_STATUS_FAILED,
            error=task_pb2.TaskError(error_class=error_class, message=message, step_key=step_key),
            receipt=receipt,
        )

    def _refused(self, step_key: str, call_id: str, refusal: Refusal) -> AgentError:
        remote = refusal.remote
        reason = remote.reason or remote.code.name
        if refusal.state == "NOT_STARTED" and remote.retry_after is None:
            self._unfinished = messages.FinishStep(
                step_key=step_key,
                status=task_pb2.STEP_STATUS_REFUSED,
                error=task_pb2.TaskError(error_class=reason, message=remote.message, step_key=step_key),
            )
            return ToolRefused(remote.message, reason=reason, call_id=call_id)
        if refusal.state in _EXECUTED:
            receipt = remote.detail(permit_pb2.Signed)
            if receipt is not None:
                self._failed(step_key, reason, remote.message, receipt)
            return ToolError(remote.message, error_class=reason)
        # Nothing is known to have been decided: another attempt asks again under the same call id.
        return AgentError(remote.message, error_class=reason, retryable=True)


def _recorded(step: task_pb2.Step) -> Any:
    if step.status == task_pb2.STEP_STATUS_COMPLETED:
        return json.loads(step.output_json)
    if step.status == task_pb2.STEP_STATUS_REFUSED:
        raise ToolRefused(step.error.message, reason=step.error.error_class, call_id=step.call_id)
    raise ToolError(step.error.message, error_class=step.error.error_class)
