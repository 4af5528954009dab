"""Trying, in a real sandbox, what each layer should prevent: a layer counts only if the attempt fails."""

import asyncio
import json
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from interlock_sandbox.call import Call
from interlock_sandbox.levels import Layer, level_of
from interlock_sandbox.limits import Limits
from interlock_sandbox.outcome import OutcomeKind
from interlock_sandbox.program import ToolProgram
from interlock_sandbox.spare import Spare

_SECONDS = 5.0

_ATTEMPTS = """
import fractions, os, resource, socket, sqlite3

def attempt(action):
    try:
        action()
    except OSError as error:
        return error.errno
    return 0

def status():
    with open("/proc/self/status") as file:
        return dict(line.rstrip().split(":", 1) for line in file)

def interfaces():
    with open("/proc/self/net/dev") as file:
        return sorted(line.split(":")[0].strip() for line in file.readlines()[2:])

def run(canary):
    facts = {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "memory_limited": resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY,
        "canary": attempt(lambda: open(canary).close()),
        "list_root": attempt(lambda: os.listdir("/")),
        "socket": attempt(socket.socket),
        "exec": attempt(lambda: os.execv("/none", ["none"])),
    }
    try:
        told = status()
        facts |= {"capabilities": int(told["CapPrm"], 16), "no_new_privs": int(told["NoNewPrivs"])}
        facts["interfaces"] = interfaces()
    except OSError:
        pass
    return facts
"""

_EACCES, _EPERM, _ENOENT = 13, 1, 2


async def disproved_layers(spare: Spare, layers: Collection[Layer]) -> dict[Layer, str]:
    """Layers that were applied but do not hold, with what was seen; uses the spare up."""
    if Layer.CGROUPS in layers and not (spare.cgroup is not None and spare.cgroup.holds(spare.host_pid)):
        return {Layer.CGROUPS: "a sandbox was put into its group, and the kernel does not list it there"}
    with tempfile.TemporaryDirectory(prefix="interlock-canary-") as folder:
        canary = Path(folder) / "canary"
        canary.write_text("must not be read")
        program = ToolProgram(source=_ATTEMPTS, arguments_json=json.dumps({"canary": str(canary)}).encode())
        outcome = await Call(spare, program, Limits(), level_of(layers)).run(seconds=_SECONDS)
    if outcome.kind is not OutcomeKind.COMPLETED or outcome.result_json is None:
        seen = outcome.error.message if outcome.error else ""
        return {Layer.ROOT: f"the self-check did not finish: {outcome.kind} {seen}"}
    return judge(json.loads(outcome.result_json), layers)


def judge(facts: Mapping[str, object], layers: Collection[Layer]) -> dict[Layer, str]:
    """Compare what happened with what each layer promises."""
    promises = {
        Layer.NAMESPACES: facts["pid"] == 1 and facts["uid"] != 0,
        Layer.NETWORK: facts.get("interfaces", ["lo"]) in ([], ["lo"]),
        Layer.ROOT: facts["canary"] == _ENOENT,
        Layer.CAPABILITIES: facts.get("capabilities", 0) == 0 and facts.get("no_new_privs", 1) == 1,
        Layer.RLIMITS: facts["memory_limited"] is True,
        Layer.LANDLOCK: facts["list_root"] == _EACCES,
        Layer.SECCOMP: facts["socket"] == _EPERM and facts["exec"] == _EPERM,
    }
    return {
        layer: f"it was applied, but an attempt against it succeeded: {dict(facts)}"
        for layer, held in promises.items()
        if layer in layers and not held
    }


async def verify(spare: Spare, layers: Collection[Layer]) -> dict[Layer, str]:
    """As `disproved_layers`, and never longer than a few seconds."""
    async with asyncio.timeout(_SECONDS + 3):
        return await disproved_layers(spare, layers)
