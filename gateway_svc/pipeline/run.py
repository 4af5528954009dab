"""Step 11: the tool runs in the sandbox, and nowhere else."""

import time
from pathlib import Path

import structlog

from gateway_svc.errors import no_time_left, profile_unknown, sandbox_failed, sandbox_unavailable
from gateway_svc.pipeline.cancelable import Cancelable
from gateway_svc.pipeline.pending import Begun, Pending, Tool
from gateway_svc.verdicts import Check
from interlock_sandbox import (
    Host,
    IsolationLevel,
    Limits,
    Outcome,
    Sandbox,
    SandboxClosed,
    SandboxStatus,
    SandboxUnavailable,
    ToolProgram,
)
from svc_kit.clock import Clock
from svc_kit.strict_json import JsonValue, canonical

log = structlog.get_logger(__name__)


# Read once: it goes into the sandbox with every tool that has connections.
_DRIVER = (Path(__file__).parent.parent / "inside" / "driver.py").read_text()


class ToolRunner:
    """Holds the sandbox of this process; where code cannot be isolated well enough, it refuses every call."""

    def __init__(
        self, sandbox: Sandbox, *, minimum: IsolationLevel, clock: Clock, running: Cancelable
    ) -> None:
        self._sandbox = sandbox
        self.minimum = minimum
        self._clock = clock
        self._status: SandboxStatus | None = None
        self._running = running
        self._refusal = "the sandbox was not started"
        self.probe_time = clock.now()

    async def start(self) -> None:
        """Probe this host; a host that is not good enough is reported, not raised."""
        try:
            await self._sandbox.start()
        except SandboxUnavailable as error:
            self._status, self._refusal = error.status, str(error)
            log.warning("sandbox_unavailable", error=str(error))
        else:
            self._status, self._refusal = self._sandbox.status(), ""
        self.probe_time = self._clock.now()

    async def close(self) -> None:
        """End every tool that still runs."""
        await self._sandbox.close()

    @property
    def status(self) -> SandboxStatus | None:
        """What the probe found; None before it."""
        return self._status

    @property
    def level(self) -> str:
        """Name of the isolation level in force."""
        return (self._status.level if self._status else IsolationLevel.NONE).name

    @property
    def profiles(self) -> list[str]:
        """Names of the runtime profiles that tools may ask for."""
        return sorted(name for name in self._sandbox.profiles if name)

    def check_reach(self, pending: Pending, tool: Tool) -> None:
        """The last line of the permission model; raises SANDBOX_UNAVAILABLE or PROFILE_UNKNOWN."""
        if self._refusal:
            pending.verdicts.failed(Check.REACH, f"Code is not run on this host: {self._refusal}")
            raise sandbox_unavailable(
                "the sandbox of this host is below the demanded level",
                level=self.level,
                minimum=self.minimum.name,
            )
        if tool.profile not in self._sandbox.profiles:
            pending.verdicts.failed(Check.REACH, f"This gateway has no runtime profile {tool.profile}.")
            raise profile_unknown(tool.profile)
        where = f"{self.level}, profile {tool.profile}" if tool.profile else self.level
        asks = f" The gateway asks {', '.join(tool.connections)} for it." if tool.connections else ""
        pending.verdicts.passed(
            Check.REACH,
            f"Runs in the sandbox ({where}): no network, no files of the host, no secrets.{asks}",
        )

    async def run(self, begun: Begun, tool: Tool, host: Host | None) -> Outcome:
        """How the program ended, which may ask its host, if it has one.

        Raises SANDBOX_UNAVAILABLE or OVERLOADED when nothing was executed, and CallCanceledError.
        """
        pending = begun.cleared.pending
        seconds = min(tool.wall_seconds, pending.seconds_left())
        program = _program(begun, tool)
        limits = Limits(
            wall_seconds=tool.wall_seconds,
            cpu_seconds=tool.cpu_seconds,
            memory_bytes=tool.memory_bytes,
            result_bytes=tool.result_bytes,
        )
        deadline = time.monotonic() + seconds
        try:
            outcome = await self._running.run(
                pending.asked,
                self._sandbox.run(program, limits=limits, deadline=deadline, host=host),
                connections=tool.connections,
            )
        except (SandboxUnavailable, SandboxClosed) as error:
            log.warning("sandbox_failed", call_id=str(pending.asked.call_id), error=str(error))
            raise sandbox_failed() from error
        if not outcome.started:
            raise no_time_left()
        return outcome


def _program(begun: Begun, tool: Tool) -> ToolProgram:
    filename, arguments = f"{begun.call.asked.tool}.py", begun.cleared.arguments
    if not tool.connections:
        return ToolProgram(
            source=tool.source,
            entrypoint=tool.entrypoint,
            arguments_json=arguments.canonical,
            filename=filename,
            profile=tool.profile,
        )
    carried: dict[str, JsonValue] = {
        "source": tool.source,
        "entrypoint": tool.entrypoint,
        "filename": filename,
        "arguments": arguments.value,
    }
    return ToolProgram(
        source=_DRIVER, arguments_json=canonical(carried), filename="driver.py", profile=tool.profile
    )
