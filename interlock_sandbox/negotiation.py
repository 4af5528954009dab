"""Finding the strongest isolation this host allows, by trying, from all layers downwards."""

import asyncio
from dataclasses import dataclass

from interlock_sandbox.cgroups import CgroupsMissing, CgroupTree
from interlock_sandbox.errors import SandboxUnavailable
from interlock_sandbox.levels import (
    IsolationLevel,
    Layer,
    LayerStatus,
    SandboxStatus,
    level_of,
    without,
)
from interlock_sandbox.limits import Limits
from interlock_sandbox.remedies import HostFacts, remedy_for
from interlock_sandbox.selfcheck import verify
from interlock_sandbox.spare import SpareFailed
from interlock_sandbox.zygote_process import ZygoteProcess, ZygoteRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Established:
    """A zygote whose layers were seen to hold, and what is missing."""

    zygote: ZygoteProcess | None
    """None if not even the weakest level can be reached."""
    status: SandboxStatus
    layers: frozenset[Layer] = frozenset()
    cgroups: CgroupTree | None = None
    """None without such a layer."""

    async def close(self) -> None:
        """End the zygote, then what its sandboxes were in."""
        if self.zygote is not None:
            await self.zygote.close()
        if self.cgroups is not None:
            await asyncio.to_thread(self.cgroups.close)


class _LayerMissing(Exception):
    def __init__(self, status: LayerStatus) -> None:
        super().__init__(status.reason)
        self.status = status


async def establish() -> Established:
    """Start the best zygote there can be; never fails for lack of isolation, but says how little there is."""
    layers = frozenset(Layer)
    missing: dict[Layer, LayerStatus] = {}
    cgroups: CgroupTree | None = None
    try:
        cgroups = await asyncio.to_thread(CgroupTree.create)
    except CgroupsMissing as lack:
        missing[Layer.CGROUPS] = _lacking(Layer.CGROUPS, str(lack), lack.code)
        layers = without(layers, Layer.CGROUPS)
    found = await _strongest(layers, missing, cgroups)
    if cgroups is not None and found.cgroups is None:
        await asyncio.to_thread(cgroups.close)
    return found


async def _strongest(
    layers: frozenset[Layer], missing: dict[Layer, LayerStatus], cgroups: CgroupTree | None
) -> Established:
    while level_of(layers) > IsolationLevel.NONE:
        zygote = ZygoteProcess(layers, cgroups)
        try:
            await _start_and_verify(zygote)
        except _LayerMissing as lack:
            await zygote.close()
            reduced = without(layers, lack.status.layer)
            for lost in layers - reduced:
                missing.setdefault(lost, _dependent(lost, lack.status))
            layers = reduced
        except BaseException:
            await zygote.close()
            raise
        else:
            kept = cgroups if Layer.CGROUPS in layers else None
            status = _status(layers, missing, zygote.python)
            return Established(zygote=zygote, status=status, layers=layers, cgroups=kept)
    return Established(zygote=None, status=_status(frozenset(), missing, ""))


async def _start_and_verify(zygote: ZygoteProcess) -> None:
    try:
        await zygote.start()
        spare = await zygote.spawn(disk_bytes=Limits().disk_bytes)
    except (ZygoteRefused, SpareFailed) as failure:
        raise _LayerMissing(_lacking(Layer(failure.layer), failure.step, failure.errno)) from failure
    for layer, seen in (await verify(spare, zygote.layers)).items():
        raise _LayerMissing(_lacking(layer, seen, 0))


def _lacking(layer: Layer, reason: str, code: int) -> LayerStatus:
    remedy = remedy_for(layer, code, HostFacts.read())
    return LayerStatus(layer=layer, present=False, reason=reason, remedy=remedy)


def _dependent(layer: Layer, cause: LayerStatus) -> LayerStatus:
    if layer is cause.layer:
        return cause
    reason = f"it needs {cause.layer}: {cause.reason}"
    return LayerStatus(layer=layer, present=False, reason=reason, remedy=cause.remedy)


def _status(layers: frozenset[Layer], missing: dict[Layer, LayerStatus], python: str) -> SandboxStatus:
    told = tuple(missing.get(layer) or _tried(layer, present=layer in layers) for layer in Layer)
    return SandboxStatus(level=level_of(layers), layers=told, interpreter=python)


def _tried(layer: Layer, *, present: bool) -> LayerStatus:
    if present:
        return LayerStatus(layer=layer, present=True)
    return LayerStatus(layer=layer, present=False, reason="not tried: a layer below it is missing")


def demand(status: SandboxStatus, minimum: IsolationLevel) -> None:
    """Raise SandboxUnavailable, with every reason and remedy, if the status is below the minimum."""
    if status.level >= minimum:
        return
    lines = [f"this host reaches isolation level {status.level.name}; {minimum.name} is required"]
    lines += [
        f"  {lack.layer}: {lack.reason}\n    remedy: {lack.remedy}"
        for lack in status.problems
        if lack.layer is not Layer.CGROUPS or minimum is IsolationLevel.FULL
    ]
    raise SandboxUnavailable("\n".join(lines), status=status)
