"""What every demo does: says what runs, lets an agent do something, and follows a task live."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from interlock.cli.allowing import store_policy
from interlock.cli.cedar import policy_id_for, policy_text
from interlock.cli.connection import client
from interlock.cli.display import clock_time
from interlock.cli.events import state_name, status_name
from interlock.cli.tracing import Trace, read_trace
from interlock.client.client import Client
from interlock.gateway.v1 import gateway_service_pb2, policy_service_pb2
from interlock.orchestrator.v1 import task_pb2
from interlock_suite.demo.claims import Claims
from interlock_suite.demo.companion import Companion
from interlock_suite.demo.screen import Screen
from interlock_suite.errors import SuiteError

_TASK_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A running suite, a screen, and what is claimed on it."""

    data_dir: Path
    companion: Companion
    screen: Screen
    claims: Claims
    tasks: list[task_pb2.Task] = field(default_factory=list)
    """The tasks of this demo as they ended."""

    async def show_suite(self) -> None:
        """Act 1: what runs."""
        started = self.companion.started
        how = "runs already" if started is None else f"started in {started:.1f} s"
        services = ", ".join(sorted(self.companion.addresses))
        self.screen.act(f"The suite {how}: {services} and a worker; data in {self.data_dir}")
        async with client(self.data_dir, "VIEWER") as suite:
            sandbox = await suite.call(
                suite.gateway.GetSandboxStatus, gateway_service_pb2.GetSandboxStatusRequest()
            )
        layers = ", ".join(layer.name for layer in sandbox.layers if layer.active)
        self.screen.line(f"tools are held by sandbox level {sandbox.level}: {layers}")

    async def follow(self, suite: Client, task: task_pb2.Task) -> Trace:
        """Show a task live from its submit until it ends."""
        self.screen.happened(clock_time(task.create_time), state_name(task))
        try:
            async with asyncio.timeout(_TASK_SECONDS):
                async for update in suite.watch(task.task_id, after_revision=task.revision):
                    self._show(update.event)
        except TimeoutError:
            raise SuiteError(
                f"Task {task.task_id} did not end within {_TASK_SECONDS:.0f} s.",
                f"See what the worker says in {self.data_dir / 'logs' / 'worker.log'}.",
            ) from None
        trace = await read_trace(suite, task.task_id)
        self.tasks.append(trace.task)
        return trace

    def _show(self, event: task_pb2.TaskEvent) -> None:
        time = clock_time(event.time)
        if not event.HasField("step"):
            self.screen.happened(time, f"{state_name(event)}  {event.error.error_class}".rstrip())
        elif event.step.status != task_pb2.STEP_STATUS_STARTED:
            self.screen.happened(time, f"  {event.step.name:<11}", status_name(event.step))

    async def allow(self, suite: Client, agent: str, tool: str) -> None:
        """Let an agent call a tool."""
        policy = policy_service_pb2.Policy(
            policy_id=policy_id_for(agent, tool, ""),
            cedar=policy_text(agent, tool, ""),
            description=f"{agent} may call {tool}",
        )
        await store_policy(suite, policy)


def ending(task: task_pb2.Task) -> str:
    """How a task ended, in a line."""
    return f"{state_name(task)} {task.error.error_class}: {task.error.message}".rstrip(" :")


def as_seen_from_here(path: Path) -> str:
    """A path as a reader would type it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
