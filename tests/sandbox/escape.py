"""One attack with what holds it taken away."""

import asyncio
import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace

from interlock_sandbox import Layer, Limits, ToolProgram
from interlock_sandbox.levels import STANDARD_LAYERS
from tests.sandbox.attacks import Attack, Guard
from tests.sandbox.guards_off import careless_problems, end_at_last, is_alive, without
from tests.sandbox.layers_off import Zygotes, begin_in
from tests.sandbox.siege import judge
from tests.sandbox.world import World

_ENDLESS_SECONDS = 0.1
_UNBOUNDED_SECONDS = 1.5
"""For a program whose processor time nobody bounds: more than the kernel would have given it."""
_PATIENCE_SECONDS = 30


async def problems_without(
    off: Collection[Layer | Guard], attack: Attack, world: World, zygotes: Zygotes
) -> list[str]:
    """What the host finds wrong after the attack, with some of what holds it off."""
    arguments = world.describe()
    if Layer.ROOT in off or Guard.PROCESS in off:  # then it sees the host's own files
        arguments |= world.lend_files()
    if Guard.PROCESS in off:
        return await asyncio.to_thread(careless_problems, [attack.source], arguments, world)
    program = ToolProgram(source=attack.source, arguments_json=json.dumps(arguments).encode())
    process = await zygotes.having(STANDARD_LAYERS - set(off))
    guards = frozenset(held for held in off if isinstance(held, Guard))
    limits = _loosened(attack, guards)
    spare = await process.spawn(disk_bytes=limits.disk_bytes)
    pid = spare.host_pid
    with without(guards):
        running = begin_in(process, spare, program, limits)
        try:
            if Guard.DEADLINE in guards:
                return await _problems_past(attack.limits.wall_seconds, running)
            outcome = await running
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            return [f"the host fell over: {error!r:.200}"]
    problems = judge(attack, outcome, world)
    if Guard.KILL in guards and is_alive(pid):
        problems.append("it lived on after its call")
        end_at_last(pid)
    return problems


def _loosened(attack: Attack, guards: frozenset[Guard]) -> Limits:
    limits = attack.limits
    if Guard.DEADLINE in guards:
        return replace(limits, wall_seconds=60)
    if Guard.BOUNDS in guards:
        limits = replace(limits, stdout_bytes=1 << 26, stderr_bytes=1 << 26)
    if attack.sign.startswith("it ended as TIMEOUT"):
        return replace(limits, wall_seconds=_ENDLESS_SECONDS if guards else _UNBOUNDED_SECONDS)
    # What waits for the end of its time is seen by other means; all else has as much as a slow machine needs.
    return limits if Guard.KILL in guards else replace(limits, wall_seconds=_PATIENCE_SECONDS)


async def _problems_past(seconds: float, running: "asyncio.Task[object]") -> list[str]:
    done, _ = await asyncio.wait({running}, timeout=seconds + 0.05)
    if done:
        return [f"it ended in time: {running.result()}"]
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    return ["it ran past its deadline"]
