"""What becomes of approvals by themselves: they expire, end with their task, and let it go on."""

import json
import uuid
from collections.abc import Collection

import grpc
import structlog

from gateway_svc.approval import Approval, ApprovalStatus
from gateway_svc.approval_store import ApprovalStore
from gateway_svc.approvals import Approvals
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import orchestrator_service_pb2_grpc
from svc_kit.errors import Unavailable
from svc_kit.wakeup import Subscription

log = structlog.get_logger(__name__)

_BEAT_SECONDS = 1.0
_SLICE = 100
_CALL_SECONDS = 5.0
# The orchestrator has its reasons not to take it, and will have them again.
_FINAL = frozenset(
    {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.INVALID_ARGUMENT,
    }
)


def input_id(approval_id: uuid.UUID) -> str:
    """Under which id a task asks for this approval."""
    return f"approval-{approval_id}"


class ApprovalDelivery:
    """Any replica does all of it: each change is a compare-and-swap, and the orchestrator knows repeats."""

    def __init__(self, store: ApprovalStore, approvals: Approvals, orchestrator: grpc.aio.Channel) -> None:
        self._store = store
        self._approvals = approvals
        self._stub = orchestrator_service_pb2_grpc.OrchestratorServiceStub(orchestrator)
        self._waiting: set[tuple[str, uuid.UUID]] = set()
        self._ended: set[tuple[str, uuid.UUID]] = set()
        self._woken = Subscription()

    def tasks(self) -> Collection[uuid.UUID]:
        """Tasks that wait for a decision, as far as this process knows."""
        return {task_id for _, task_id in self._waiting}

    def expect(self, tenant: str, task_id: uuid.UUID) -> None:
        """A call of this task has asked here."""
        self._waiting.add((tenant, task_id))

    def task_over(self, tenant: str, task_id: uuid.UUID) -> None:
        """A task is over, or was asked to end: nobody has to decide any more."""
        if (tenant, task_id) in self._waiting:
            self._ended.add((tenant, task_id))
            self._woken.wake()

    async def run(self, changed: Subscription) -> None:
        """For ever; ends only by cancellation."""
        self._woken = changed
        while True:
            try:
                await self._cancel()
                await self._expire()
                await self._deliver()
                # Those of other replicas, and of a process that was here before.
                self._waiting = await self._store.pending_tasks()
            except Unavailable:
                pass  # the database says so itself, once
            except Exception:
                log.exception("approvals_failed")
            await self._woken.wait(_BEAT_SECONDS)

    async def _cancel(self) -> None:
        ended, self._ended = self._ended, set()
        for tenant, task_id in ended:
            try:
                for each in await self._store.pending_of_task(tenant, task_id):
                    await self._approvals.close(each, ApprovalStatus.CANCELED)
            except Unavailable:
                self._ended |= ended
                raise

    async def _expire(self) -> None:
        for each in await self._store.overdue(limit=_SLICE):
            await self._approvals.close(each, ApprovalStatus.EXPIRED)

    async def _deliver(self) -> None:
        for each in await self._store.untold(limit=_SLICE):
            if not await self._provide(each):
                return
            await self._store.tell(each)

    async def _provide(self, ended: Approval) -> bool:
        """Whether the orchestrator knows now, or does not want to."""
        answer = {"decision": ended.status, "by": ended.decider, "reason": ended.decision_reason}
        request = messages.ProvideInputRequest(
            task_id=str(ended.task_id),
            input_id=input_id(ended.approval_id),
            answer_json=json.dumps(answer, ensure_ascii=False),
        )
        try:
            await self._stub.ProvideInput(
                request, metadata=(("x-interlock-tenant", ended.tenant),), timeout=_CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            if error.code() not in _FINAL:
                log.warning(
                    "approval_not_told_yet", approval_id=str(ended.approval_id), error=error.details()
                )
                return False
            log.info("approval_not_wanted", approval_id=str(ended.approval_id), why=error.details())
        return True
