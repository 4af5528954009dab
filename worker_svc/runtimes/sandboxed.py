"""The Python runtime, SANDBOXED: an agent's published source in a sandbox of its own, with one descriptor.

The descriptor speaks the AgentContext protocol to this process, which alone holds tokens. An agent can ask
for what the context offers and for nothing else: no network, no files of the host, no environment.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from functools import cache, partial
from importlib import resources
from typing import Any

import structlog

from interlock.agent import AgentContext, AgentError, ChildTask
from interlock.common import documents
from interlock.registry.v1 import agent_pb2
from interlock_sandbox import (
    Host,
    Limits,
    Outcome,
    OutcomeKind,
    Sandbox,
    SandboxClosed,
    SandboxUnavailable,
    ToolFailure,
    ToolProgram,
)

_LOG = structlog.get_logger(__name__)

DEFAULT_CPU_SECONDS = 60.0
DEFAULT_MEMORY_BYTES = 256 * 1024 * 1024
OPEN_CALLS = 32
# The driver puts a few bytes around a result, which is measured again without them.
_RESULT_BYTES = documents.MAX_BYTES + 1024
_OUTPUT_BYTES = 16 * 1024
_MODULES = ("interlock", "interlock.agent", "interlock.agent.context")

Method = Callable[[AgentContext, Mapping[str, Any]], Awaitable[Any]]

# Another attempt may end differently; what an agent does with its limits or its channel is its own doing.
_RETRYABLE = frozenset({OutcomeKind.CRASHED, OutcomeKind.KILLED, OutcomeKind.TIMEOUT})


class SandboxedAgents:
    """The sandbox of this worker, started with the first agent that needs it.

    Where a host cannot isolate code well enough no agent runs, ever: SANDBOX_UNAVAILABLE.
    """

    def __init__(self, *, capacity: int) -> None:
        self._capacity = capacity
        self._sandbox: Sandbox | None = None
        self._starting = asyncio.Lock()

    async def run(
        self, python: agent_pb2.PythonRuntime, context: AgentContext, task_input: Any, *, seconds: float
    ) -> Any:
        """The agent's result, as JSON values; raises AgentError, or what the context raises for good."""
        log = _LOG.bind(task_id=context.task_id, attempt=context.attempt)
        try:
            outcome = await (await self._started()).run(
                _program(python, context, task_input),
                limits=Limits(
                    wall_seconds=seconds,
                    cpu_seconds=python.limits.cpu.ToNanoseconds() / 1e9 or DEFAULT_CPU_SECONDS,
                    memory_bytes=python.limits.memory_bytes or DEFAULT_MEMORY_BYTES,
                    result_bytes=_RESULT_BYTES,
                    stdout_bytes=_OUTPUT_BYTES,
                    stderr_bytes=_OUTPUT_BYTES,
                ),
                host=Host(answer=partial(_answer, context), open_calls=OPEN_CALLS),
            )
        except (SandboxUnavailable, SandboxClosed) as error:
            log.warning("sandbox_unavailable", error=str(error))
            raise AgentError(
                f"this worker does not run agents' code: {error}", error_class="SANDBOX_UNAVAILABLE"
            ) from error
        for name, stream in (("stdout", outcome.stdout), ("stderr", outcome.stderr)):
            if stream.data:
                text = stream.data.decode(errors="backslashreplace")
                log.info("agent_output", stream=name, text=text, truncated=stream.truncated)
        return _result(outcome)

    async def close(self) -> None:
        """End every agent that still runs."""
        if self._sandbox is not None:
            await self._sandbox.close()

    async def _started(self) -> Sandbox:
        async with self._starting:
            if self._sandbox is None:
                sandbox = Sandbox(spares=1, max_concurrent=self._capacity)
                await sandbox.start()
                self._sandbox = sandbox
                _LOG.info("sandbox_started", level=sandbox.status().level.name)
            return self._sandbox


def _program(python: agent_pb2.PythonRuntime, context: AgentContext, task_input: Any) -> ToolProgram:
    driver, modules = _sources()
    given = {
        "modules": modules,
        "source": python.source,
        "entrypoint": python.entrypoint or "run",
        "task": task_input,
        "task_id": context.task_id,
        "attempt": context.attempt,
        "open_calls": OPEN_CALLS,
    }
    return ToolProgram(
        source=driver, entrypoint="drive", filename="driver.py", arguments_json=json.dumps(given).encode()
    )


@cache
def _sources() -> tuple[str, dict[str, str]]:
    """The driver, and the SDK that agents import: the very files that trusted agents get."""
    modules = {}
    for name in _MODULES:
        package, _, module = name.rpartition(".")
        if name in ("interlock", "interlock.agent"):
            package, module = name, "__init__"
        modules[name] = resources.files(package).joinpath(f"{module}.py").read_text(encoding="utf-8")
    driver = resources.files("worker_svc.inside").joinpath("driver.py").read_text(encoding="utf-8")
    return driver, modules


async def _answer(context: AgentContext, method: str, params: Mapping[str, Any]) -> bytes:
    """One call's answer. An outcome that the agent may live with goes to it; all else ends the attempt."""
    serve = _METHODS.get(method)
    if serve is None:
        raise AgentError(
            f"the agent asked its worker for {method[:64]!r}, which there is not",
            error_class="AGENT_BAD_CALL",
            retryable=False,
        )
    try:
        said: dict[str, Any] = {"value": await serve(context, params)}
    except AgentError as error:
        if type(error) is AgentError:  # the errors of their own are outcomes of a step
            raise
        said = {"error": {"type": type(error).__name__, "message": str(error), "facts": vars(error)}}
    return json.dumps(said, ensure_ascii=False).encode()


async def _call_tool(context: AgentContext, params: Mapping[str, Any]) -> Any:
    match params:
        case {"tool": str(tool), "arguments": dict(arguments), "key": str(key), **more} if not more:
            return await context.call_tool(tool, arguments, key=key)
    raise AgentError(
        "call_tool takes a tool, arguments and a key", error_class="AGENT_BAD_CALL", retryable=False
    )


async def _submit(context: AgentContext, params: Mapping[str, Any]) -> Any:
    return (await _child(context, params)).task_id


async def _child_result(context: AgentContext, params: Mapping[str, Any]) -> Any:
    """Names the step in full, as `submit` did: the journal knows it by that, so nothing is kept here."""
    return await (await _child(context, params)).result()


async def _child(context: AgentContext, params: Mapping[str, Any]) -> ChildTask:
    match params:
        case {
            "agent": str(agent),
            "input": dict(task_input),
            "key": str(key),
            "agent_version": str(agent_version),
            "task_type": str(task_type),
            "labels": dict(labels),
            "abandon": bool(abandon),
            **more,
        } if not more and all(isinstance(each, str) for each in labels.values()):
            return await context.submit(
                agent,
                task_input,
                key=key,
                agent_version=agent_version,
                task_type=task_type,
                labels=labels,
                abandon=abandon,
            )
    raise AgentError(
        "submit takes an agent, its input, a key and options", error_class="AGENT_BAD_CALL", retryable=False
    )


async def _ask_human(context: AgentContext, params: Mapping[str, Any]) -> Any:
    match params:
        case {"question": str(question), "schema": dict() | None as schema, "key": str(key), **more} if (
            not more
        ):
            return await context.ask_human(question, schema, key=key)
    raise AgentError(
        "ask_human takes a question, a schema and a key", error_class="AGENT_BAD_CALL", retryable=False
    )


async def _log(context: AgentContext, params: Mapping[str, Any]) -> None:
    match params:
        case {"message": str(message), "done": int() | float() | None as done, **more} if not more:
            context.log(message, done=done)
            return
    raise AgentError("log takes a message and a share", error_class="AGENT_BAD_CALL", retryable=False)


_METHODS: Mapping[str, Method] = {
    "call_tool": _call_tool,
    "submit": _submit,
    "child_result": _child_result,
    "ask_human": _ask_human,
    "log": _log,
}


def _result(outcome: Outcome) -> Any:
    """What the agent returned; raises AgentError in its words or ours."""
    if outcome.kind is OutcomeKind.COMPLETED:
        said = json.loads(outcome.result_json or b"null")
        match said:
            case {"result": value, **more} if not more:
                return value
            case {"error": {"class": str(error_class), "message": str(message), "retryable": bool(again)}}:
                raise AgentError(message, error_class=error_class, retryable=again)
        raise AgentError(
            "the agent answered in its driver's place", error_class="AGENT_BAD_RESULT", retryable=False
        )
    failure = outcome.error or ToolFailure(type=outcome.kind.value, message="it ended without a word")
    if outcome.kind is OutcomeKind.TOOL_ERROR:  # only what is no Exception: SystemExit, KeyboardInterrupt
        raise AgentError(failure.message or failure.type, error_class=failure.type)
    late = outcome.kind is OutcomeKind.TIMEOUT
    raise AgentError(
        failure.message,
        error_class="START_TO_CLOSE_TIMEOUT" if late else f"AGENT_{outcome.kind.value}",
        retryable=outcome.kind in _RETRYABLE,
    )
