"""The AgentContext protocol as a sandboxed agent sees it: frames on one descriptor, and nothing else.

This file is the program that a sandbox is given, so it uses the standard library alone. The agent's code runs
in the same process and may do with all of this as it likes: whatever it sends, the worker counts the calls,
holds every token, and believes nothing.
"""

import asyncio
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import json
import linecache
import os
import struct
import sys
import traceback
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_CHANNEL = 3
_HEADER = struct.Struct("!IB")
_ORDINAL = struct.Struct("!I")
_CALL = 8
_READ_BYTES = 65536
_MAX_SAID = 2048
_MAX_LINES = 20
_FILE = "agent.py"
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


async def drive(
    *,
    modules: dict[str, str],
    source: str,
    entrypoint: str,
    task: Any,
    task_id: str,
    attempt: int,
    open_calls: int,
) -> dict[str, Any]:
    """Run the agent to its end: `{"result": …}`, or `{"error": …}` with what it raised."""
    sys.meta_path.insert(0, _Sources(modules))
    channel = _Channel(open_calls)
    try:
        agent = _load(source, entrypoint)
        result = await agent(_Context(channel, task_id, attempt), task)
        await channel.told()
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  whatever an agent raises is how it ended
        return {"error": _described(error)}
    else:
        return {"result": result}
    finally:
        channel.close()


class _Sources(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports the modules that came with the program."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = modules

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._modules:
            return None
        package = any(name.startswith(f"{fullname}.") for name in self._modules)
        return importlib.util.spec_from_loader(fullname, self, is_package=package)

    def get_source(self, fullname: str) -> str:
        return self._modules[fullname]


def _load(source: str, entrypoint: str) -> Any:
    # Tracebacks can then show the agent's own lines.
    linecache.cache[_FILE] = (len(source), None, source.splitlines(keepends=True), _FILE)
    module = types.ModuleType("agent")
    module.__file__ = _FILE
    sys.modules["agent"] = module
    exec(compile(source, _FILE, "exec", dont_inherit=True), module.__dict__)  # noqa: S102  this is the purpose
    agent = module.__dict__.get(entrypoint)
    if not inspect.iscoroutinefunction(agent):
        raise LookupError(f"the agent's source defines no coroutine function {entrypoint!r}")
    return agent


class _Context:
    """Implements interlock.agent.AgentContext."""

    def __init__(self, channel: "_Channel", task_id: str, attempt: int) -> None:
        self._channel = channel
        self._calls: Counter[str] = Counter()
        self.task_id = task_id
        self.attempt = attempt

    async def call_tool(self, tool: str, arguments: Mapping[str, Any], *, key: str = "") -> Any:
        # Counted here: the order in which an agent makes its calls is its own, and the same in every attempt.
        self._calls[tool] += 1
        step_key = key or f"{tool}-{self._calls[tool]}"
        return await self._channel.ask(
            "call_tool", {"tool": tool, "arguments": dict(arguments), "key": step_key}
        )

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
    ) -> "_Child":
        name = f"agent:{agent}"
        self._calls[name] += 1
        asked = {
            "agent": agent,
            "input": dict(task_input),
            "key": key or f"{agent}-{self._calls[name]}",
            "agent_version": agent_version,
            "task_type": task_type,
            "labels": dict(labels or {}),
            "abandon": abandon,
        }
        return _Child(self._channel, asked, await self._channel.ask("submit", asked))

    async def ask_human(
        self, question: str, schema: Mapping[str, Any] | None = None, *, key: str = ""
    ) -> Any:
        self._calls["a human"] += 1
        asked = {
            "question": question,
            "schema": dict(schema) if schema is not None else None,
            "key": key or str(self._calls["a human"]),
        }
        return await self._channel.ask("ask_human", asked)

    def log(self, message: str, *, done: float | None = None) -> None:
        self._channel.say(str(message), done)


class _Child:
    """Implements interlock.agent.ChildTask."""

    def __init__(self, channel: "_Channel", asked: Mapping[str, Any], task_id: str) -> None:
        self._channel = channel
        self._asked = asked
        self.task_id = task_id

    async def result(self) -> Any:
        return await self._channel.ask("child_result", self._asked)


class _Channel:
    """Calls to the worker, several at a time; their answers come in any order."""

    def __init__(self, open_calls: int) -> None:
        self._loop = asyncio.get_running_loop()
        # Taken until the answer is here, whoever still waits for it: so long does the worker count the call.
        self._slots = asyncio.Semaphore(open_calls)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._said: list[str] = []
        self._done: float | None = None
        self._saying: asyncio.Task[None] | None = None
        self._sent = 0
        self._unsent = bytearray()
        self._received = bytearray()
        os.set_blocking(_CHANNEL, False)
        self._loop.add_reader(_CHANNEL, self._read)

    async def ask(self, method: str, params: Mapping[str, Any]) -> Any:
        """What the worker answers; raises the error of `interlock.agent` that it names."""
        payload = _encode({"method": method, "params": params}).encode()
        await self._slots.acquire()
        self._sent += 1
        answer = self._answers[self._sent] = self._loop.create_future()
        self._unsent += _HEADER.pack(len(payload), _CALL) + payload
        self._write()
        said = await answer
        if "error" in said:
            raise _error(said["error"])
        return said["value"]

    def say(self, message: str, done: float | None) -> None:
        """Have the worker show this; what is said while it is busy goes together."""
        self._said.append(message[:_MAX_SAID])
        del self._said[:-_MAX_LINES]
        if done is not None:
            self._done = float(done)
        if self._saying is None or self._saying.done():
            self._saying = self._loop.create_task(self._tell())

    async def _tell(self) -> None:
        while self._said:
            said = {"message": "\n".join(self._said), "done": self._done}
            self._said.clear()
            await self.ask("log", said)

    async def told(self) -> None:
        """Return once everything that was said has gone out."""
        if self._saying is not None:
            await self._saying

    def close(self) -> None:
        """Leave the descriptor as it was, for the result goes the same way."""
        self._loop.remove_reader(_CHANNEL)
        self._loop.remove_writer(_CHANNEL)
        os.set_blocking(_CHANNEL, True)
        while self._unsent:
            del self._unsent[: os.write(_CHANNEL, self._unsent)]

    def _write(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: os.write(_CHANNEL, self._unsent)]
        except BlockingIOError:
            self._loop.add_writer(_CHANNEL, self._write)
        else:
            self._loop.remove_writer(_CHANNEL)

    def _read(self) -> None:
        try:
            data = os.read(_CHANNEL, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            os._exit(0)  # the worker is gone
        self._received += data
        while len(self._received) >= _HEADER.size:
            length, _ = _HEADER.unpack_from(self._received)
            end = _HEADER.size + length
            if len(self._received) < end:
                return
            payload = bytes(self._received[_HEADER.size : end])
            del self._received[:end]
            (ordinal,) = _ORDINAL.unpack_from(payload)
            answer = self._answers.pop(ordinal)
            self._slots.release()
            if not answer.done():
                answer.set_result(json.loads(payload[_ORDINAL.size :]))


def _error(said: dict[str, Any]) -> Exception:
    """The exception that the worker's own context raises there, made anew."""
    import interlock.agent  # noqa: PLC0415  it came with the program, and can be imported only now

    kind = getattr(interlock.agent, said["type"])
    error: Exception = kind.__new__(kind, said["message"])
    error.args = (said["message"],)
    error.__dict__.update(said["facts"])
    return error


def _described(error: Exception) -> dict[str, Any]:
    import interlock.agent  # noqa: PLC0415  likewise

    told = isinstance(error, interlock.agent.AgentError)
    return {
        "class": error.error_class if isinstance(error, interlock.agent.AgentError) else type(error).__name__,
        "message": _text(error),
        "retryable": error.retryable if isinstance(error, interlock.agent.AgentError) else True,
        "traceback": "" if told else _own_frames(error),
    }


def _text(error: Exception) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001  the agent's own class may raise anything
        return f"(its message could not be read: {type(broken).__name__})"


def _own_frames(error: Exception) -> str:
    try:
        told = traceback.TracebackException.from_exception(error, limit=-50, compact=True)
        own = [frame for frame in told.stack if frame.filename == _FILE]
        told.stack = traceback.StackSummary.from_list(own)
        return "".join(told.format())[-16384:]
    except Exception as broken:  # noqa: BLE001  likewise
        return f"(its traceback could not be made: {type(broken).__name__})"
