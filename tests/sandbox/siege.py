"""One attack against one sandbox, and the verdict of the host."""

import json
import secrets

from interlock_sandbox import Outcome, OutcomeKind, Sandbox, ToolProgram
from tests.sandbox.attacks import Attack
from tests.sandbox.attacks.leaks import Leak
from tests.sandbox.world import World

CONTROL = ToolProgram(
    source="""
import math
def run(a, b):
    open("/tmp/x", "w").write("y")
    return [a + b, math.pi > 3]
""",
    arguments_json=b'{"a": 20, "b": 22}',
)


async def besiege(sandbox: Sandbox, attack: Attack, world: World) -> list[str]:
    """Everything that is wrong after the attack; empty if it was held and the next call works."""
    arguments = json.dumps(world.describe()).encode()
    program = ToolProgram(source=attack.source, arguments_json=arguments, filename=f"{attack.name}.py")
    outcome = await sandbox.run(program, limits=attack.limits)
    problems = judge(attack, outcome, world)
    control = await sandbox.run(CONTROL)
    if control.result_json != b"[42,true]":
        problems.append(f"the control after it failed: {control}")
    return problems


async def leaked(sandbox: Sandbox, leak: Leak, world: World) -> list[str]:
    """What is wrong after one call has left something behind and the next has looked for it."""
    arguments = json.dumps({**world.describe(), "canary": f"canary-{secrets.token_hex(6)}"}).encode()
    calls = (ToolProgram(source=source, arguments_json=arguments) for source in (leak.plant, leak.look))
    planted, found = [await sandbox.run(call) for call in calls]
    problems = [] if planted.kind is OutcomeKind.COMPLETED else [f"it was not planted: {planted.error}"]
    if found.result_json != b'{"got":[]}':
        problems.append(f"it was found: {found}")
    return problems


def judge(attack: Attack, outcome: Outcome, world: World) -> list[str]:
    """What the host shows, and what the tool says it got."""
    problems = world.breaches()
    if outcome.kind not in attack.kinds:
        problems.append(f"it ended as {outcome.kind}: {outcome.error}")
    if outcome.kind is OutcomeKind.COMPLETED and outcome.result_json is not None:
        value = json.loads(outcome.result_json)
        got = value.get("got", "nothing asked for") if isinstance(value, dict) else value
        if got:
            problems.append(f"it got {str(got)[:2000]}")
    told = (outcome.result_json, outcome.stdout.data, outcome.stderr.data, str(outcome.error).encode())
    if any(world.secret.encode() in text for text in told if text):
        problems.append("it learnt a secret")
    return problems + _excesses(attack, outcome)


def _excesses(attack: Attack, outcome: Outcome) -> list[str]:
    """Where more was taken in than the limits allow."""
    error, limits = outcome.error, attack.limits
    sizes = {
        "stdout": (len(outcome.stdout.data), limits.stdout_bytes),
        "stderr": (len(outcome.stderr.data), limits.stderr_bytes),
        "result": (len(outcome.result_json or b""), 2 * limits.result_bytes),  # written by us: not as compact
        "message": (len(error.message) if error else 0, 4096),
        "traceback": (len(error.traceback) if error else 0, 16384),
    }
    return [f"{name} has {size} bytes" for name, (size, limit) in sizes.items() if size > limit]
