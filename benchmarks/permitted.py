"""Calls of the gateway with permits of the orchestrator's, as a worker makes them."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import grpc

from benchmarks.suite import Running
from interlock.common.channel import TokenFile, channel
from interlock.common.v1 import permit_pb2
from interlock.gateway.v1 import gateway_service_pb2, gateway_service_pb2_grpc
from interlock.orchestrator.v1 import task_pb2
from interlock.orchestrator.v1 import worker_service_pb2 as messages
from worker_svc.attempts import Attempt, Attempts
from worker_svc.config import WorkerSettings
from worker_svc.orchestrator import Orchestrator
from worker_svc.session import Session

_POOL = "default"
_CLAIM_SECONDS = 10.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step that has begun: its permit, and the input that the permit is for."""

    permit: permit_pb2.Signed
    input_json: str

    @property
    def tool_call(self) -> gateway_service_pb2.ExecuteToolRequest:
        """The request that executes it."""
        return gateway_service_pb2.ExecuteToolRequest(permit=self.permit, arguments_json=self.input_json)

    @property
    def model_call(self) -> gateway_service_pb2.CallModelRequest:
        """The request that asks the model."""
        return gateway_service_pb2.CallModelRequest(permit=self.permit, request_json=self.input_json)


class Working:
    """The suite's worker, played by this process: holds a session, and the attempts that it has claimed."""

    def __init__(
        self, session: Session, attempts: Attempts, orchestrator: Orchestrator, door: grpc.aio.Channel
    ):
        self._session = session
        self._attempts = attempts
        self._orchestrator = orchestrator
        self.gateway = gateway_service_pb2_grpc.GatewayServiceStub(door)

    async def attempt(self) -> Attempt:
        """The next task that waits."""
        async with asyncio.timeout(_CLAIM_SECONDS):
            while True:
                answer = await self._orchestrator.claim(
                    session_id=self._session.session_id or "", pool=_POOL, claim_id=str(uuid.uuid4())
                )
                if answer.HasField("claimed"):
                    break
                await asyncio.sleep(_POLL_SECONDS)
        claimed = answer.claimed
        attempt = Attempt(claimed=claimed, token=claimed.attempt_token, loop=asyncio.get_running_loop())
        self._attempts.add(attempt)
        return attempt

    async def steps(
        self, attempt: Attempt, name: str, inputs: Sequence[str], *, kind: "task_pb2.StepKind.ValueType"
    ) -> list[Step]:
        """Begin one step for each input, of a tool or a model connection."""
        begun = []
        for input_json in inputs:
            begin = messages.BeginStep(
                step_key=f"{name}-{uuid.uuid4()}", kind=kind, name=name, input_json=input_json
            )
            request = messages.RecordStepRequest(attempt_token=attempt.token, begin=begin)
            start = (await self._orchestrator.record_step(request)).start
            begun.append(Step(permit=start.permit, input_json=start.input_json))
        return begun


@contextlib.asynccontextmanager
async def in_place_of_the_worker(suite: Running) -> AsyncIterator[Working]:
    """The suite's own worker does nothing inside the block."""
    token = TokenFile(suite.token_file("worker"))
    settings = WorkerSettings(orchestrator_address=suite.door("orchestrator"), slot="bench", capacity=8)
    attempts = Attempts()
    session = Session(settings, attempts, token=token, loop_lag=lambda: 0.0)
    with suite.hanging("worker"):
        session.start()
        try:
            if not await asyncio.to_thread(session.wait_open):
                raise RuntimeError("the orchestrator opened no session")
            async with (
                channel(suite.door("orchestrator"), token) as orchestrator,
                channel(suite.door("gateway"), token) as gateway,
            ):
                yield Working(session, attempts, Orchestrator(orchestrator), gateway)
        finally:
            await asyncio.to_thread(session.close)
