"""Sandboxes with layers left out; for tests alone."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Self

from interlock_sandbox import Layer, Limits, Outcome, ToolProgram
from interlock_sandbox.call import Call
from interlock_sandbox.cgroups import CgroupTree
from interlock_sandbox.levels import level_of
from interlock_sandbox.spare import Spare
from interlock_sandbox.zygote_process import ZygoteProcess

ORDINARY_PROCESS = frozenset({Layer.CAPABILITIES})
"""Nothing but root given up, so that what escapes can do no more than any user of the host."""


@asynccontextmanager
async def zygote(layers: Collection[Layer]) -> AsyncIterator[ZygoteProcess]:
    """A zygote with just these layers."""
    cgroups = CgroupTree.create() if Layer.CGROUPS in layers else None
    process = ZygoteProcess(frozenset(layers), cgroups)
    try:
        await process.start()
        yield process
    finally:
        await process.close()
        if cgroups is not None:
            cgroups.close()


class Zygotes:
    """One zygote for each set of layers, made when it is first asked for."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._made: dict[frozenset[Layer], ZygoteProcess] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def having(self, layers: Collection[Layer]) -> ZygoteProcess:
        """The one with just these layers."""
        wanted = frozenset(layers)
        if wanted not in self._made:
            self._made[wanted] = await self._stack.enter_async_context(zygote(wanted))
        return self._made[wanted]


async def begin(process: ZygoteProcess, program: ToolProgram, limits: Limits) -> "asyncio.Task[Outcome]":
    """A program, running in a sandbox of its own."""
    spare = await process.spawn(disk_bytes=limits.disk_bytes)
    return begin_in(process, spare, program, limits)


def begin_in(
    process: ZygoteProcess, spare: Spare, program: ToolProgram, limits: Limits
) -> "asyncio.Task[Outcome]":
    """A program, running in this sandbox."""
    call = Call(spare, program, limits, level_of(process.layers))
    return asyncio.create_task(call.run(seconds=limits.wall_seconds))
