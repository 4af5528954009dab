"""WorkerService: protobuf in, one call, protobuf out."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

from google.protobuf.duration_pb2 import Duration

from interlock.common.v1 import permit_pb2
from interlock.gateway.v1 import tool_call_pb2
from interlock.orchestrator.v1 import task_pb2, worker_service_pb2_grpc
from interlock.orchestrator.v1 import worker_service_pb2 as messages
from orchestrator_svc import convert, metrics, worker_checks
from orchestrator_svc.announcements import session_topic
from orchestrator_svc.attempts import Attempts, AttemptWrite, Release
from orchestrator_svc.blobs import Blobs
from orchestrator_svc.claims import Claims, Drained
from orchestrator_svc.errors import pool_forbidden
from orchestrator_svc.field_checks import blob, step_key
from orchestrator_svc.journal import StepFinish
from orchestrator_svc.progress import ProgressFeed, Word
from orchestrator_svc.receipts import Receipts
from orchestrator_svc.records import AttemptRef, ClaimRequest, Runnable, Step, StepStatus, Usage
from orchestrator_svc.rights import HeldAttempt, Rights
from orchestrator_svc.sessions import Sessions
from orchestrator_svc.submissions import Submissions
from orchestrator_svc.tasks import Tasks
from orchestrator_svc.worker_stream import WorkerStream
from svc_kit.errors import DomainError, Violation, invalid
from svc_kit.identity import Role, principal
from svc_kit.wakeup import Wakeups

NAME = "interlock.orchestrator.v1.WorkerService"

_WORKERS = frozenset({Role.WORKER})
ROLES = {
    "WorkerSession": _WORKERS,
    "ClaimTask": _WORKERS,
    "RecordStep": _WORKERS,
    "GetStepOutput": _WORKERS,
    "CompleteTask": _WORKERS,
    "FailTask": _WORKERS,
    "ReleaseTask": _WORKERS,
    "RequestInput": _WORKERS,
    "AwaitChildren": _WORKERS,
    "GetInputBlob": _WORKERS,
    "PutResultBlob": _WORKERS,
    "EmitProgress": _WORKERS,
}


class WorkerServicer(worker_service_pb2_grpc.WorkerServiceServicer):
    """The worker's side of tasks."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        claims: Claims,
        attempts: Attempts,
        submissions: Submissions,
        tasks: Tasks,
        blobs: Blobs,
        rights: Rights,
        receipts: Receipts,
        progress: ProgressFeed,
        wakeups: Wakeups,
    ) -> None:
        self._sessions = sessions
        self._claims = claims
        self._attempts = attempts
        self._submissions = submissions
        self._tasks = tasks
        self._blobs = blobs
        self._rights = rights
        self._receipts = receipts
        self._progress = progress
        self._wakeups = wakeups

    async def WorkerSession(
        self, request_iterator: AsyncIterator[messages.WorkerSessionRequest], context: Any
    ) -> AsyncGenerator[messages.WorkerSessionResponse]:
        first = await anext(request_iterator, messages.WorkerSessionRequest())
        if not first.HasField("open"):
            raise invalid([Violation("open", "the first message of a stream must open a session")])
        session = worker_checks.session(first.open, subject=principal().subject)
        serves = sorted((tenant, pool) for pool in set(session.pools) for tenant in _tenants_of(pool))
        session = replace(session, serves=tuple(serves))
        with self._wakeups.subscribe(session_topic(session.session_id)) as woken:
            await self._sessions.open(session)
            stream = WorkerStream(
                session=session,
                sessions=self._sessions,
                attempts=self._attempts,
                rights=self._rights,
                woken=woken,
            )
            with metrics.SESSIONS.track_inprogress():
                async with aclosing(stream.run(request_iterator)) as answers:
                    async for answer in answers:
                        yield answer

    async def ClaimTask(self, request: messages.ClaimTaskRequest, context: Any) -> messages.ClaimTaskResponse:
        session_id, claim_id, pool = worker_checks.claim(request)
        subject = principal().subject
        claimed = await self._claims.claim(
            ClaimRequest(
                claim_id=claim_id,
                session_id=session_id,
                subject=subject,
                pool=pool,
                tenants=_tenants_of(pool),
            )
        )
        if claimed is None or isinstance(claimed, Drained):
            return messages.ClaimTaskResponse(draining=claimed is not None)
        ref = AttemptRef(tenant=claimed.task.tenant, task_id=claimed.task.task_id, attempt=claimed.attempt)
        token = self._rights.attempt_token(HeldAttempt(ref=ref, session_id=session_id, subject=subject))
        return messages.ClaimTaskResponse(claimed=_claimed_to_proto(claimed, token))

    async def RecordStep(
        self, request: messages.RecordStepRequest, context: Any
    ) -> messages.RecordStepResponse:
        held = self._held(request.attempt_token)
        finish, begin, asked = worker_checks.record_step(request)
        finish = await self._with_receipt(held, finish, request.finish)
        child = None
        if begin is not None and asked is not None:
            child = await self._submissions.prepare(held.ref.tenant, begin, asked)
        written = await self._attempts.write(AttemptWrite(held=held, finish=finish, begin=begin, child=child))
        if written.recorded is not None:
            recorded = messages.RecordedStep(step=_step(written.recorded))
            return messages.RecordStepResponse(recorded=recorded)
        if written.begun is None:
            return messages.RecordStepResponse()
        if written.bound is None:
            child_id = str(written.begun.call_id)
            return messages.RecordStepResponse(
                start=messages.StartStep(call_id=child_id, input_json=written.begun.input_json)
            )
        return messages.RecordStepResponse(
            start=messages.StartStep(
                call_id=str(written.begun.call_id),
                permit=self._rights.step_permit(written.task, written.begun, written.bound, held.subject),
                input_json=written.begun.input_json,
            )
        )

    async def GetStepOutput(
        self, request: messages.GetStepOutputRequest, context: Any
    ) -> messages.GetStepOutputResponse:
        held = self._held(request.attempt_token)
        key = step_key(request.step_key)
        await self._attempts.check_live(held)
        step = await self._tasks.finished_step(held.ref.tenant, held.ref.task_id, key)
        return messages.GetStepOutputResponse(step=_step(step))

    async def AwaitChildren(
        self, request: messages.AwaitChildrenRequest, context: Any
    ) -> messages.AwaitChildrenResponse:
        held = self._held(request.attempt_token)
        finish, end = worker_checks.awaiting(request)
        finish = await self._with_receipt(held, finish, request.finish)
        written = await self._attempts.write(AttemptWrite(held=held, finish=finish, end=end))
        return messages.AwaitChildrenResponse(ended=written.ended)

    async def CompleteTask(
        self, request: messages.CompleteTaskRequest, context: Any
    ) -> messages.CompleteTaskResponse:
        held = self._held(request.attempt_token)
        finish, end = worker_checks.completion(request)
        if end.result_blob is not None:
            await self._blobs.check(held.ref.tenant, end.result_blob)
        finish = await self._with_receipt(held, finish, request.finish)
        await self._attempts.write(AttemptWrite(held=held, finish=finish, end=end))
        return messages.CompleteTaskResponse()

    async def GetInputBlob(
        self, request: messages.GetInputBlobRequest, context: Any
    ) -> AsyncGenerator[messages.GetInputBlobResponse]:
        held = self._held(request.attempt_token)
        await self._attempts.check_live(held)
        named = await self._tasks.input_blob(held.ref.tenant, held.ref.task_id)
        async with aclosing(self._blobs.read(held.ref.tenant, named)) as parts:
            async for part in parts:
                yield messages.GetInputBlobResponse(chunk=part)

    async def PutResultBlob(
        self, request_iterator: AsyncIterator[messages.PutResultBlobRequest], context: Any
    ) -> messages.PutResultBlobResponse:
        first = await anext(request_iterator, messages.PutResultBlobRequest())
        held = self._held(first.attempt_token)
        await self._attempts.check_live(held)
        expected = blob(first.digest) if first.digest else ""
        await context.send_initial_metadata(())  # the sender may go on

        async def chunks() -> AsyncIterator[bytes]:
            yield first.chunk
            async for message in request_iterator:
                yield message.chunk

        stored = await self._blobs.put(held.ref.tenant, chunks(), expected=expected)
        return messages.PutResultBlobResponse(digest=stored.digest, size=stored.size)

    async def FailTask(self, request: messages.FailTaskRequest, context: Any) -> messages.FailTaskResponse:
        held = self._held(request.attempt_token)
        finish, end = worker_checks.failure(request)
        finish = await self._with_receipt(held, finish, request.finish)
        written = await self._attempts.write(AttemptWrite(held=held, finish=finish, end=end))
        return messages.FailTaskResponse(state=convert.state_to_proto(written.task.status.state))

    async def EmitProgress(
        self, request: messages.EmitProgressRequest, context: Any
    ) -> messages.EmitProgressResponse:
        worker_checks.progress(request)
        words: dict[int, Word] = {}
        for place, said in enumerate(request.progress):
            # One worker's attempts come together: what one of them may not say does not silence the others.
            with suppress(DomainError):
                words[place] = Word(
                    held=self._held(said.attempt_token),
                    number=said.number,
                    message=said.message,
                    done=said.done if said.HasField("done") else None,
                )
        shown = dict(zip(words, await self._progress.tell(list(words.values())), strict=True))
        refused = [place for place in range(len(request.progress)) if not shown.get(place)]
        return messages.EmitProgressResponse(refused=refused)

    async def ReleaseTask(
        self, request: messages.ReleaseTaskRequest, context: Any
    ) -> messages.ReleaseTaskResponse:
        held = self._held(request.attempt_token)
        finish = await self._with_receipt(held, worker_checks.release(request), request.finish)
        await self._attempts.write(AttemptWrite(held=held, finish=finish, end=Release()))
        return messages.ReleaseTaskResponse()

    async def RequestInput(
        self, request: messages.RequestInputRequest, context: Any
    ) -> messages.RequestInputResponse:
        held = self._held(request.attempt_token)
        finish, end = worker_checks.question(request)
        finish = await self._with_receipt(held, finish, request.finish)
        answer = (await self._attempts.write(AttemptWrite(held=held, finish=finish, end=end))).answer
        if answer is None:
            return messages.RequestInputResponse()
        provided = messages.ProvidedInput(answer_json=answer.json, subject=answer.subject)
        return messages.RequestInputResponse(provided=provided)

    def _held(self, token: permit_pb2.Signed) -> HeldAttempt:
        return self._rights.held(token, principal().subject)

    async def _with_receipt(
        self, held: HeldAttempt, finish: StepFinish | None, sent: messages.FinishStep
    ) -> StepFinish | None:
        """The step's end with what its receipt proves; a refused call has no receipt."""
        if finish is None or finish.status is StepStatus.REFUSED:
            return finish
        # The gateway signed the tool's own words, not what is kept of them.
        outcome = sent.output_json if finish.status is StepStatus.COMPLETED else sent.error.message
        receipt = await self._receipts.check(sent.receipt, held.ref, finish.step_key, finish.status, outcome)
        return replace(
            finish, argument_digest=receipt.argument_digest, call_id=receipt.call_id, usage=_usage(receipt)
        )


def _tenants_of(pool: str) -> frozenset[str]:
    """The tenants whose tasks the worker may claim from the pool; POOL_FORBIDDEN where there are none."""
    tenants = frozenset(tenant for tenant, name in principal().pools if name == pool)
    if not tenants:
        raise pool_forbidden(pool)
    return tenants


def _usage(receipt: tool_call_pb2.Receipt) -> Usage | None:
    if not receipt.HasField("usage"):
        return None
    used = receipt.usage
    return Usage(
        model_calls=1,
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cost_micros=used.cost_micros,
    )


def _step(step: Step) -> task_pb2.Step:
    return convert.step_to_proto(step, payloads=True)


def _claimed_to_proto(claimed: Runnable, token: permit_pb2.Signed) -> messages.ClaimedTask:
    task = claimed.task
    limit = Duration()
    limit.FromNanoseconds(round(task.agent.start_to_close * 1e9))
    return messages.ClaimedTask(
        tenant=task.tenant,
        task_id=str(task.task_id),
        attempt=claimed.attempt,
        agent=task.agent.name,
        agent_version=task.agent.version,
        agent_digest=task.agent.digest,
        input_json=claimed.input_json,
        input_blob=claimed.input_blob or "",
        finished_steps=claimed.finished_steps,
        attempt_token=token,
        start_to_close_timeout=limit,
        traceparent=task.traceparent,
    )
