"""Runs one attempt from its claim to its end."""

import asyncio
import json
import traceback
from typing import Any

import grpc
import structlog

from interlock.agent import AgentError
from interlock.client.registry_feed import RegistryFeed
from interlock.orchestrator.v1 import task_pb2
from interlock.orchestrator.v1 import worker_service_pb2 as messages
from interlock.registry.v1 import agent_pb2
from svc_kit import strict_json
from svc_kit.errors import InvalidArgument
from svc_kit.status import from_rpc_error
from worker_svc.attempts import Attempt
from worker_svc.errors import AgentMissing, AttemptCanceled, StaleAttempt
from worker_svc.gateway import Gateway
from worker_svc.orchestrator import Orchestrator
from worker_svc.runtimes.plan import run_plan
from worker_svc.runtimes.python import TrustedAgents
from worker_svc.steps import Journal

_LOG = structlog.get_logger(__name__)
_MAX_MESSAGE = 2000
_DEFAULT_ATTEMPT_SECONDS = 600.0


class Runner:
    """Runs attempts; each ends with exactly one word to the orchestrator, or none when it is stale."""

    def __init__(
        self, orchestrator: Orchestrator, gateway: Gateway, registry: RegistryFeed, agents: TrustedAgents
    ) -> None:
        self._orchestrator = orchestrator
        self._gateway = gateway
        self._registry = registry
        self._agents = agents

    async def run(self, attempt: Attempt) -> None:
        """Run to the end. Cancellation without an order means that the worker stops.

        The task is given back.
        """
        journal = Journal(attempt, self._orchestrator, self._gateway)
        log = _LOG.bind(task_id=attempt.claimed.task_id, attempt=attempt.claimed.attempt)
        try:
            await self._run(attempt, journal)
        except StaleAttempt as stale:
            log.info("attempt_stale", why=str(stale))
        except asyncio.CancelledError:
            await self._interrupted(attempt, journal)
            if attempt.ordered is None:
                raise
        except grpc.aio.AioRpcError as error:
            # The orchestrator refused the end itself; its reaper ends the attempt by the lease or the
            # time-out.
            log.warning("attempt_end_refused", error=str(from_rpc_error(error)))

    async def _run(self, attempt: Attempt, journal: Journal) -> None:
        claimed = attempt.claimed
        seconds = claimed.start_to_close_timeout.ToTimedelta().total_seconds() or _DEFAULT_ATTEMPT_SECONDS
        try:
            async with asyncio.timeout(seconds):
                result = await self._result(claimed, journal)
        except StaleAttempt:
            raise
        except TimeoutError:
            failure = _failure("START_TO_CLOSE_TIMEOUT", f"the attempt took longer than {seconds:g} s")
        except AgentMissing as missing:
            failure = _failure("AGENT_MISSING", str(missing))
        except AgentError as error:
            failure = _failure(error.error_class, str(error), retryable=error.retryable)
        except InvalidArgument as error:
            failure = _failure("RESULT_INVALID", error.message, retryable=False)
        except grpc.aio.AioRpcError as error:
            remote = from_rpc_error(error)
            failure = _failure(remote.reason or remote.code.name, remote.message, retryable=False)
        except Exception as error:  # noqa: BLE001 - an agent may raise anything
            _LOG.info("agent_raised", task_id=claimed.task_id, traceback=traceback.format_exc())
            failure = _failure(type(error).__name__, str(error))
        else:
            await self._orchestrator.complete(
                messages.CompleteTaskRequest(
                    attempt_token=attempt.token, result_json=result, finish=journal.take_unfinished()
                )
            )
            return
        await self._fail(attempt, journal, failure)

    async def _result(self, claimed: messages.ClaimedTask, journal: Journal) -> str:
        """The agent's result as canonical JSON text."""
        version = await self._version(claimed)
        task_input = json.loads(claimed.input_json)
        runtime = version.spec.WhichOneof("runtime")
        value: Any
        if runtime == "plan":
            value = await run_plan(version.spec.plan, journal, task_input)
        elif runtime == "python":
            agent = self._agents.find(version.spec.python.entry_point)
            value = await agent(journal, task_input)
        else:
            raise AgentMissing(f"this worker does not know the runtime of agent {claimed.agent!r}; update it")
        return _result_text(value)

    async def _version(self, claimed: messages.ClaimedTask) -> agent_pb2.AgentVersion:
        """The pinned version, exactly as the orchestrator pinned it."""
        key = (claimed.tenant, claimed.agent, claimed.agent_version)
        found = self._registry.agent_version(*key)
        if found is None:
            fetched = await self._registry.fetch_agent_version(*key)
            found = fetched[1] if fetched is not None else None
        if found is None or found.digest != claimed.agent_digest:
            raise AgentMissing(
                f"the registry does not hold agent {claimed.agent} {claimed.agent_version}"
                f" with digest {claimed.agent_digest}"
            )
        return found

    async def _interrupted(self, attempt: Attempt, journal: Journal) -> None:
        if isinstance(attempt.ordered, AttemptCanceled):
            failure = _failure("CANCELED", str(attempt.ordered), retryable=False)
            try:
                await self._fail(attempt, journal, failure)
            except StaleAttempt:
                return
        elif attempt.ordered is None:
            try:
                await self._orchestrator.release(attempt.token)
            except grpc.aio.AioRpcError as error:
                _LOG.warning("release_failed", task_id=attempt.claimed.task_id, error=str(error.details()))

    async def _fail(self, attempt: Attempt, journal: Journal, failure: task_pb2.TaskError) -> None:
        unfinished = journal.take_unfinished()
        if unfinished is not None:
            failure.step_key = unfinished.step_key
        await self._orchestrator.fail(
            messages.FailTaskRequest(attempt_token=attempt.token, error=failure, finish=unfinished)
        )


def _failure(error_class: str, message: str, *, retryable: bool = True) -> task_pb2.TaskError:
    shown = message if len(message) <= _MAX_MESSAGE else f"{message[: _MAX_MESSAGE - 1]}…"
    return task_pb2.TaskError(error_class=error_class, message=shown, retryable=retryable)


def _result_text(value: Any) -> str:
    """Canonical JSON of what an agent returned; raises AgentError or InvalidArgument when it is none."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise AgentError(
            f"the agent's result is not JSON: {error}", error_class="RESULT_INVALID", retryable=False
        ) from error
    return strict_json.canonical(strict_json.parse(text, field="result_json")).decode()
