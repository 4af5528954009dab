"""The demo with a language model: one on this machine works on a task by way of a sandboxed tool."""

import asyncio
import contextlib
import json
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from interlock.cli.connection import client
from interlock.cli.events import usage_text
from interlock.cli.manifest import read_manifest
from interlock.cli.publishing import publish
from interlock.cli.tracing import Trace, trace_lines
from interlock.client.client import Client
from interlock.client.errors import InterlockError
from interlock.gateway.v1 import connection_service_pb2
from interlock.orchestrator.v1 import task_pb2
from interlock_suite.children import python_environment
from interlock_suite.command import Identity, launched
from interlock_suite.demo.local_model import MODEL, is_installed
from interlock_suite.demo.proof import prove
from interlock_suite.demo.stage import Stage, as_seen_from_here, ending
from interlock_suite.demo.table_file import examples
from interlock_suite.errors import SuiteError

MANIFEST = Path("sentence_counter") / "interlock.toml"
AGENT, TOOL, CONNECTION = "sentence-counter", "word_count", "local-model"
SENTENCE = "the signal and the switch are locked together"
_LOAD_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A model that answers on loopback."""

    url: str
    key: str
    seconds: float
    """What its start took."""


@contextlib.asynccontextmanager
async def local_model() -> AsyncIterator[LocalModel]:
    """The model in a process of its own, which ends with the block, or with this process."""
    if not is_installed():
        raise SuiteError(
            "The local model is not installed.", "Begin with ./dev, which installs it: ./dev demo --model"
        )
    key, began = secrets.token_hex(16), time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *launched(
            (sys.executable, "-m", "interlock_suite.demo.local_model"),
            identity=Identity.SELF,
            death_signal=signal.SIGTERM,
        ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=python_environment(),
        start_new_session=True,
    )
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the process has no pipes")
    try:
        # Told this way, the key is in nobody's environment or list of processes.
        process.stdin.write(f"{key}\n".encode())
        try:
            async with asyncio.timeout(_LOAD_SECONDS):
                said = json.loads(await process.stdout.readline())
        except (TimeoutError, ValueError):
            raise SuiteError("The local model did not start.", "Is there memory for it (300 MB)?") from None
        yield LocalModel(url=said["url"], key=key, seconds=time.monotonic() - began)
    finally:
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def connect(suite: Client, connection_id: str, model: LocalModel, agent: str) -> None:
    """Have the gateway know the model under that name, for one agent; its key is sealed there."""
    connection = connection_service_pb2.Connection(
        connection_id=connection_id,
        kind=connection_service_pb2.CONNECTION_KIND_MODEL,
        base_url=model.url,
        models=[connection_service_pb2.ConnectionModel(name=MODEL)],
        agents=[agent],
        allow_private_addresses=True,
    )
    with contextlib.suppress(InterlockError):
        # Of an earlier demo: the model listens elsewhere now, with another key.
        forget = connection_service_pb2.DeleteConnectionRequest(connection_id=connection_id)
        await suite.call(suite.connections.DeleteConnection, forget)
    await suite.call(
        suite.connections.CreateConnection,
        connection_service_pb2.CreateConnectionRequest(connection=connection),
    )
    await suite.call(
        suite.connections.SetConnectionCredential,
        connection_service_pb2.SetConnectionCredentialRequest(
            connection_id=connection_id, credential=model.key
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStory(Stage):
    """Tells it; `play` begins, and `claims` says in the end what held."""

    async def play(self) -> None:
        """All acts. Raises InterlockError, CliError or SuiteError when one cannot go on at all."""
        await self.show_suite()
        async with local_model() as model:
            await self._agent(model)
            trace = await self._task()
        await prove(self.data_dir, {"completed": trace}, self.screen, self.claims)

    async def _agent(self, model: LocalModel) -> None:
        self.screen.act(f"A language model on this machine: {MODEL}, loaded in {model.seconds:.1f} s")
        self.screen.line("the gateway alone has its address and key; agents and workers name a connection")
        manifest = examples() / MANIFEST
        self.screen.command(
            f"connections create {CONNECTION} --url {model.url} --model {MODEL}=0,0 --agent {AGENT}"
            " --allow-private-addresses"
        )
        self.screen.command(f"connections set-credential {CONNECTION} < key.txt")
        self.screen.command(f"agents publish {as_seen_from_here(manifest)}", "# with one tool")
        self.screen.command(f"allow {AGENT} {TOOL}", "# nothing is allowed by default")
        async with client(self.data_dir, "SUPER_ADMIN") as suite:
            await connect(suite, CONNECTION, model, AGENT)
            async for _ in publish(suite, read_manifest(manifest), with_agents=True, dry_run=False):
                pass
            await self.allow(suite, AGENT, TOOL)

    async def _task(self) -> Trace:
        self.screen.act("A task: prompts are recorded before they are sent, calls before they run")
        given = json.dumps({"text": SENTENCE})
        self.screen.command(f"submit {AGENT} '{given}'")
        async with client(self.data_dir, "DEVELOPER") as suite:
            trace = await self.follow(suite, await suite.submit(AGENT, given, task_type="demo"))
        calls = [step for step in trace.steps if step.kind == task_pb2.STEP_KIND_TOOL_CALL]
        self.claims.check(
            f"the model had {TOOL} called, which ran in the sandbox",
            bool(calls) and all(trace.calls[step.call_id].isolation for step in calls),
            f"{len(calls)} calls; {ending(trace.task)}",
        )
        counted = [json.loads(step.output_json) for step in calls if step.output_json]
        self.claims.check(
            "its result is what the tool had counted",
            bool(trace.task.result_json) and json.loads(trace.task.result_json) in counted,
            f"{trace.task.result_json or ending(trace.task)}, and the tool said {counted}",
        )
        self.screen.line(f"used {usage_text(trace.task.usage)}")
        self.screen.command(f"trace {trace.task.task_id}")
        for line in trace_lines(trace):
            self.screen.line(line)
        return trace
