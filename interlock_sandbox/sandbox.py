"""The sandbox as its users hold it."""

import asyncio
import functools
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

from interlock_sandbox.call import Call
from interlock_sandbox.conversation import Host
from interlock_sandbox.errors import ProfileUnknown, SandboxClosed, SandboxUnavailable
from interlock_sandbox.keeper import CALLS_OF_ONE, Keeper
from interlock_sandbox.levels import IsolationLevel, Layer, SandboxStatus
from interlock_sandbox.limits import Limits
from interlock_sandbox.negotiation import Established, demand, establish
from interlock_sandbox.outcome import Outcome, OutcomeKind, ToolFailure
from interlock_sandbox.profile import DEFAULT, Profile
from interlock_sandbox.program import ToolProgram
from interlock_sandbox.spare import ExitReport, Spare, SpareFailed
from interlock_sandbox.zygote_process import ZygoteProcess

_REFILL_SECONDS = 0.01


class Sandbox:
    """Runs untrusted Python, each call in a single-use sandbox of its own.

    Belongs to the event loop it is started on. Below the minimum isolation level it refuses to start.
    """

    def __init__(
        self,
        *,
        minimum: IsolationLevel = IsolationLevel.STANDARD,
        limits: Limits | None = None,
        spares: int = 4,
        max_concurrent: int = 16,
        profiles: Mapping[str, Profile] | None = None,
        calls_of_one_zygote: int = CALLS_OF_ONE,
    ) -> None:
        if minimum is IsolationLevel.NONE:
            raise ValueError("code is not run without isolation: the least minimum is PARTIAL")
        self._minimum = minimum
        self._limits = limits or Limits()
        self._spares = spares
        self.profiles: Mapping[str, Profile] = {DEFAULT: Profile(), **(profiles or {})}
        self._calls_of_one = calls_of_one_zygote
        self._established: Established | None = None
        self._slots = asyncio.Semaphore(max_concurrent)
        self._keepers: dict[str, Keeper] = {}
        self._starting = asyncio.Lock()
        self._status: SandboxStatus | None = None
        self._running: set[Call] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._calls = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Find the strongest isolation, prove it by trying, and fill the pool; raises SandboxUnavailable."""
        established = await establish()
        self._status = established.status
        try:
            demand(established.status, self._minimum)
            if established.zygote is None:
                raise SandboxUnavailable("no sandbox can be made here", status=self._status)
            self._established = established
            await self._keep(DEFAULT, established.zygote, spares=self._spares)
        except BaseException as error:
            self._established = None
            await established.close()
            if isinstance(error, SpareFailed):
                raise SandboxUnavailable(str(error), status=self._status) from error
            raise

    async def close(self) -> None:
        """End running calls as CANCELED, and everything else; returns when no sandbox is left."""
        established, self._established = self._established, None
        for call in self._running:
            call.cancel()
        await self._idle.wait()
        async with self._starting:
            for keeper in self._keepers.values():
                await keeper.close()
            self._keepers.clear()
        if established is not None:
            await established.close()

    def status(self) -> SandboxStatus:
        """What isolation holds, and what is going on; raises SandboxClosed before the start."""
        if self._status is None:
            raise SandboxClosed("the sandbox was not started")
        return replace(
            self._status,
            spares=sum(keeper.ready for keeper in self._keepers.values()),
            running=len(self._running),
            calls=self._calls,
            restarts=sum(keeper.restarts for keeper in self._keepers.values()),
        )

    async def run(
        self,
        program: ToolProgram,
        *,
        limits: Limits | None = None,
        deadline: float | None = None,
        host: Host | None = None,
    ) -> Outcome:
        """Run one program to its end; whatever it does, the answer is an Outcome.

        `limits` are those of the sandbox unless given. `deadline` is a `time.monotonic()` value by which to
        end, waiting for a free sandbox included. With a `host` the program may ask it for things while it
        runs. Cancelling the task kills the program. Raises ProfileUnknown, SandboxClosed,
        SandboxUnavailable if no more processes can be made, or what the host raises.
        """
        keeper = self._keepers.get(program.profile) or await self._keeper_of(program.profile)
        if self._established is None or self._status is None:
            raise SandboxClosed("the sandbox is not running")
        limits = limits or self._limits
        end = math.inf if deadline is None else deadline
        spare = await self._take(keeper, limits, end)
        if spare is None:
            return self._not_started(self._status.level)
        call = Call(spare, program, limits, self._status.level, host)
        self._running.add(call)
        self._idle.clear()
        # A short call has the processor to itself; a longer one is joined by the making of the next spare.
        refill = asyncio.get_running_loop().call_later(_REFILL_SECONDS, keeper.refill)
        try:
            return await call.run(seconds=max(0.0, min(limits.wall_seconds, end - time.monotonic())))
        finally:
            refill.cancel()
            self._running.discard(call)
            if not self._running:
                self._idle.set()
            self._calls += 1
            keeper.refill()
            keeper.called()

    async def _keeper_of(self, profile: str) -> Keeper:
        """The source of sandboxes of a profile, whose zygote is started when it is first asked for."""
        if profile not in self.profiles:
            raise ProfileUnknown(profile, self.profiles)
        async with self._starting:
            if profile in self._keepers:
                return self._keepers[profile]
            if self._established is None:
                raise SandboxClosed("the sandbox is not running")
            zygote = self._zygote(profile, self._established.layers)
            try:
                await zygote.start()
                return await self._keep(profile, zygote, spares=1)
            except SpareFailed as error:
                await zygote.close()
                raise SandboxUnavailable(f"profile {profile}: {error}", status=self._status) from error
            except BaseException:
                await zygote.close()
                raise

    async def _keep(self, profile: str, zygote: ZygoteProcess, *, spares: int) -> Keeper:
        make = functools.partial(self._zygote, profile)
        keeper = Keeper(
            zygote,
            make,
            spares=spares,
            disk_bytes=self._limits.disk_bytes,
            calls_of_one=self._calls_of_one,
        )
        await keeper.start()
        self._keepers[profile] = keeper
        return keeper

    def _zygote(self, profile: str, layers: frozenset[Layer]) -> ZygoteProcess:
        cgroups = self._established.cgroups if self._established is not None else None
        return ZygoteProcess(layers, cgroups, self.profiles[profile])

    async def _take(self, keeper: Keeper, limits: Limits, end: float) -> Spare | None:
        """A sandbox, and a slot that stays taken until it is gone; None if the deadline passes first."""
        if end <= time.monotonic():
            return None
        try:
            if self._slots.locked():
                async with asyncio.timeout(None if math.isinf(end) else end - time.monotonic()):
                    await self._slots.acquire()
            else:
                await self._slots.acquire()
        except TimeoutError:
            return None
        try:
            spare = keeper.take_ready(disk_bytes=limits.disk_bytes)
            if spare is None:
                async with asyncio.timeout(None if math.isinf(end) else end - time.monotonic()):
                    spare = await keeper.take(disk_bytes=limits.disk_bytes)
        except TimeoutError:
            self._slots.release()
            return None
        except BaseException:
            self._slots.release()
            raise
        # Only once the process is gone, so that the bound on calls also bounds what is dying.
        spare.exited.add_done_callback(self._free_slot)
        return spare

    def _free_slot(self, _exited: "asyncio.Future[ExitReport | None]") -> None:
        self._slots.release()

    @staticmethod
    def _not_started(level: IsolationLevel) -> Outcome:
        failure = ToolFailure(type=OutcomeKind.TIMEOUT, message="no sandbox was free before the deadline")
        return Outcome(kind=OutcomeKind.TIMEOUT, level=level, started=False, error=failure)
