"""Sandboxes with layers left out, to see that an attack escapes when nothing holds it; for tests alone."""

import asyncio
import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from interlock_sandbox import Layer, Limits, Outcome, ToolProgram
from interlock_sandbox.call import Call
from interlock_sandbox.cgroups import CgroupTree
from interlock_sandbox.levels import level_of
from interlock_sandbox.zygote_process import ZygoteProcess
from tests.sandbox.attacks import ATTACKS
from tests.sandbox.siege import judge
from tests.sandbox.world import World

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


async def begin(process: ZygoteProcess, program: ToolProgram, limits: Limits) -> "asyncio.Task[Outcome]":
    """A program, running in a sandbox of its own."""
    spare = await process.spawn(disk_bytes=limits.disk_bytes)
    call = Call(spare, program, limits, level_of(process.layers))
    return asyncio.create_task(call.run(seconds=limits.wall_seconds))


async def problems_without(layers: Collection[Layer], name: str, world: World) -> list[str]:
    """What the host finds wrong after one attack on a sandbox with just these layers."""
    attack = next(attack for attack in ATTACKS if attack.name == name)
    program = ToolProgram(source=attack.source, arguments_json=json.dumps(world.describe()).encode())
    async with zygote(layers) as process:
        return judge(attack, await (await begin(process, program, attack.limits)), world)
