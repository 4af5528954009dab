"""Runs one attempt from its claim to its end."""

import asyncio
import json
import traceback
from typing import Any

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration

from interlock.agent import AgentError
from interlock.client.registry_feed import RegistryFeed
from interlock.common import documents
from interlock.orchestrator.v1 import task_pb2
from interlock.orchestrator.v1 import worker_service_pb2 as messages
from interlock.registry.v1 import agent_pb2
from svc_kit import strict_json
from svc_kit.errors import InvalidArgument
from svc_kit.status import RemoteError
from worker_svc.attempts import Attempt
from worker_svc.errors import AgentMissing, AttemptCanceled, AttemptPaused, StaleAttempt
from worker_svc.gateway import Gateway
from worker_svc.orchestrator import Orchestrator
from worker_svc.patience import until_answered
from worker_svc.progress import Progress
from worker_svc.runtimes.llm import run_llm
from worker_svc.runtimes.plan import run_plan
from worker_svc.runtimes.python import TrustedAgents
from worker_svc.runtimes.sandboxed import SandboxedAgents
from worker_svc.steps import Journal

_LOG = structlog.get_logger(__name__)
_MAX_MESSAGE = 2000
_MAX_CLASS = 128
_DEFAULT_ATTEMPT_SECONDS = 600.0


class Runner:
    """Runs attempts; each ends with exactly one word to the orchestrator, or none when it is stale."""

    def __init__(
        self,
        *,
        orchestrator: Orchestrator,
        progress: Progress,
        gateway: Gateway,
        registry: RegistryFeed,
        trusted: TrustedAgents,
        sandboxed: SandboxedAgents,
    ) -> None:
        self._orchestrator = orchestrator
        self._progress = progress
        self._gateway = gateway
        self._registry = registry
        self._trusted = trusted
        self._sandboxed = sandboxed

    async def run(self, attempt: Attempt) -> None:
        """Run to the end. Cancellation without an order means that the worker stops.

        The task is given back.
        """
        journal = Journal(attempt, self._orchestrator, self._gateway, self._progress)
        log = _LOG.bind(task_id=attempt.claimed.task_id, attempt=attempt.claimed.attempt)
        try:
            attempt.start()
            await self._run(attempt, journal)
        except StaleAttempt as stale:
            log.info("attempt_stale", why=str(stale))
        except asyncio.CancelledError:
            await self._interrupted(attempt, journal)
            if attempt.ordered is None:
                raise
        except RemoteError as problem:
            # Even the barest end was refused; the reaper ends the attempt by its lease or its time-out.
            log.warning("attempt_end_refused", error=str(problem))
        finally:
            self._progress.forget(attempt)

    async def _run(self, attempt: Attempt, journal: Journal) -> None:
        claimed = attempt.claimed
        seconds = _seconds(claimed)
        limit = asyncio.timeout(seconds)
        retry_after = 0.0
        try:
            async with limit:
                result = await self._result(attempt, journal)
                journal.check()
                blob = await self._stored(attempt, result)
                last = await journal.tell()
        except StaleAttempt:
            raise
        except Exception as error:  # noqa: BLE001 - an agent may raise anything
            # An agent may raise a TimeoutError of its own; only the limit knows whether it was the limit's.
            if limit.expired():
                failure = _failure("START_TO_CLOSE_TIMEOUT", f"the attempt took longer than {seconds:g} s")
                failure.timeout_kind = task_pb2.TIMEOUT_KIND_START_TO_CLOSE
            else:
                failure = _failure_of(error)
                _LOG.info("agent_failed", task_id=claimed.task_id, traceback=traceback.format_exc())
                retry_after = error.retry_after if isinstance(error, AgentError) else 0.0
        else:
            if await self._completed(attempt, result, blob, last):
                return
            failure = _failure("RESULT_REFUSED", "the orchestrator refused the result", retryable=False)
        await self._fail(attempt, journal, failure, retry_after=retry_after)

    async def _stored(self, attempt: Attempt, result: str) -> str:
        """The digest of a result that is too large for a message; empty for any other."""
        data = result.encode()
        if len(data) <= documents.INLINE_BYTES:
            return ""
        return await self._orchestrator.put_result(attempt.token, data)

    async def _completed(
        self, attempt: Attempt, result: str, blob: str, last: messages.FinishStep | None
    ) -> bool:
        """Whether the orchestrator took the result."""
        request = messages.CompleteTaskRequest(
            attempt_token=attempt.token,
            result_json="" if blob else result,
            result_blob=blob,
            finish=last,
        )
        try:
            await self._orchestrator.complete(request)
        except RemoteError as problem:
            _LOG.warning("result_refused", task_id=attempt.claimed.task_id, error=str(problem))
            return False
        return True

    async def _result(self, attempt: Attempt, journal: Journal) -> str:
        """The agent's result as canonical JSON text."""
        claimed = attempt.claimed
        version = await self._version(claimed)
        text = claimed.input_json
        if claimed.input_blob:
            text = await self._orchestrator.input_blob(attempt.token, claimed.input_blob)
        task_input = json.loads(text)
        runtime = version.spec.WhichOneof("runtime")
        value: Any
        if runtime == "plan":
            value = await run_plan(version.spec.plan, journal, task_input)
        elif runtime == "python" and version.spec.python.source:
            value = await self._sandboxed.run(
                version.spec.python, journal, task_input, seconds=_seconds(claimed)
            )
        elif runtime == "llm":
            value = await run_llm(
                version.spec, journal, self._registry, tenant=claimed.tenant, task_input=task_input
            )
        elif runtime == "python":
            agent = self._trusted.find(version.spec.python.entry_point)
            value = await agent(journal, task_input)
        else:
            raise AgentMissing(f"this worker does not know the runtime of agent {claimed.agent!r}; update it")
        return _result_text(value)

    async def _version(self, claimed: messages.ClaimedTask) -> agent_pb2.AgentVersion:
        """The pinned version, exactly as the orchestrator pinned it."""
        key = (claimed.tenant, claimed.agent, claimed.agent_version)
        found = self._registry.agent_version(*key)
        if found is None:
            # While the registry is away nothing is wrong with the task: it waits within its time.
            fetched = await until_answered(lambda: self._registry.fetch_agent_version(*key))
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
        elif isinstance(attempt.ordered, AttemptPaused):
            await self._give_back(attempt, journal)
        elif attempt.ordered is None:
            try:
                await self._orchestrator.release(attempt.token)
            except grpc.aio.AioRpcError as error:
                _LOG.warning("release_failed", task_id=attempt.claimed.task_id, error=str(error.details()))

    async def _give_back(self, attempt: Attempt, journal: Journal) -> None:
        """With what its steps brought, so that the next attempt goes on from there."""
        try:
            last = await journal.tell()
            request = messages.ReleaseTaskRequest(attempt_token=attempt.token, finish=last)
            await self._orchestrator.give_back(request)
        except StaleAttempt:
            return
        except RemoteError as problem:
            # What a step brought is not accepted; its call is joined again by the next attempt.
            _LOG.warning("step_end_refused", task_id=attempt.claimed.task_id, error=str(problem))
            await self._orchestrator.give_back(messages.ReleaseTaskRequest(attempt_token=attempt.token))

    async def _fail(
        self, attempt: Attempt, journal: Journal, failure: task_pb2.TaskError, *, retry_after: float = 0.0
    ) -> None:
        delay = Duration()
        delay.FromMicroseconds(round(retry_after * 1_000_000))
        try:
            last = await journal.tell()
            if last is not None and last.status != task_pb2.STEP_STATUS_COMPLETED:
                failure.step_key = last.step_key
            await self._orchestrator.fail(
                messages.FailTaskRequest(
                    attempt_token=attempt.token, error=failure, retry_delay=delay, finish=last
                )
            )
        except RemoteError as problem:
            # Something in what the steps brought is not accepted. The failure alone always is: an attempt
            # that could not be ended would be claimed again for ever.
            _LOG.warning("step_end_refused", task_id=attempt.claimed.task_id, error=str(problem))
            failure.step_key = ""
            await self._orchestrator.fail(
                messages.FailTaskRequest(attempt_token=attempt.token, error=failure, retry_delay=delay)
            )


def _seconds(claimed: messages.ClaimedTask) -> float:
    """The longest time of the attempt."""
    return claimed.start_to_close_timeout.ToTimedelta().total_seconds() or _DEFAULT_ATTEMPT_SECONDS


def _failure_of(error: Exception) -> task_pb2.TaskError:
    """What ended an agent, as its task's failure."""
    match error:
        case AgentMissing():
            return _failure("AGENT_MISSING", str(error))
        case AgentError():
            return _failure(error.error_class, str(error), retryable=error.retryable)
        case InvalidArgument():
            return _failure("RESULT_INVALID", error.message, retryable=False)
        case RemoteError():
            return _failure(error.reason or error.code.name, error.message, retryable=False)
        case _:
            return _failure(type(error).__name__, str(error))


def _failure(error_class: str, message: str, *, retryable: bool = True) -> task_pb2.TaskError:
    """A failure as the contract takes it, whatever an agent put into its exception."""
    shown = _plain(message)
    return task_pb2.TaskError(
        error_class=_plain(error_class)[:_MAX_CLASS] or "UNKNOWN",
        message=shown if len(shown) <= _MAX_MESSAGE else f"{shown[: _MAX_MESSAGE - 1]}…",
        retryable=retryable,
    )


def _plain(text: str) -> str:
    """Printable text: control characters and lone surrogates are written out."""
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )


def _result_text(value: Any) -> str:
    """Canonical JSON of what an agent returned; raises AgentError or InvalidArgument when it is none."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise AgentError(
            f"the agent's result is not JSON: {error}", error_class="RESULT_INVALID", retryable=False
        ) from error
    parsed = strict_json.parse(text, field="result", max_bytes=documents.MAX_BYTES)
    return strict_json.canonical(parsed).decode()
