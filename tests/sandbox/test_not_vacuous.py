"""Attacks succeed once what holds them is off: what the suite shows is the sandbox's doing."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from interlock_sandbox import Layer, Limits, OutcomeKind, ToolProgram
from interlock_sandbox.levels import PARTIAL_LAYERS, STANDARD_LAYERS
from tests.sandbox.attacks import ATTACKS, Attack
from tests.sandbox.attacks.attack import EVERY_LAYER
from tests.sandbox.escape import problems_without
from tests.sandbox.hosts import without_host
from tests.sandbox.layers_off import ORDINARY_PROCESS, Zygotes, begin, zygote
from tests.sandbox.waiting import until
from tests.sandbox.world import World, descendants

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def zygotes() -> AsyncIterator[Zygotes]:
    async with Zygotes() as made:
        yield made


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_without_what_holds_it_the_attack_escapes(
    zygotes: Zygotes, world: World, attack: Attack
) -> None:
    if "ipv6" in attack.name and "tcp6" not in world.describe():
        without_host("this host has no IPv6")
    problems = await problems_without(attack.held_by, attack, world, zygotes)
    assert any(problem.startswith(attack.sign) for problem in problems), problems


SEEN_BY_THE_HOST = [
    attack for attack in ATTACKS if 1 < len(attack.held_by) < len(EVERY_LAYER) and attack.sign != "it got"
]


@pytest.mark.parametrize("attack", SEEN_BY_THE_HOST, ids=lambda attack: attack.name)
async def test_what_several_layers_hold_is_held_with_one_of_them_off(
    zygotes: Zygotes, world: World, attack: Attack
) -> None:
    # Without its own root a sandbox needs a runtime that everybody may read, which not every host has.
    for missing in attack.held_by - {Layer.ROOT}:
        problems = await problems_without({missing}, attack, world, zygotes)
        assert not any(problem.startswith(attack.sign) for problem in problems), (missing, problems)


@pytest.mark.parametrize("missing", [Layer.SECCOMP, Layer.LANDLOCK, Layer.NETWORK])
async def test_the_network_is_held_by_more_than_one_layer(
    zygotes: Zygotes, world: World, missing: Layer
) -> None:
    attack = next(attack for attack in ATTACKS if attack.name == "connects_by_every_family")
    problems = await problems_without({missing}, attack, world, zygotes)
    assert not any(problem.endswith("heard somebody") for problem in problems), problems


DAEMON = """
import os, time
def run(seconds):
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(60)
            os._exit(0)
    time.sleep(seconds)
"""


@pytest.mark.parametrize(("seconds", "kind"), [("0.4", OutcomeKind.COMPLETED), ("60", OutcomeKind.TIMEOUT)])
async def test_daemons_would_die_with_their_call_if_they_could_be_started(
    seconds: str, kind: OutcomeKind
) -> None:
    async with zygote(STANDARD_LAYERS - {Layer.SECCOMP}) as process:
        standing = descendants(process.pid)
        program = ToolProgram(source=DAEMON, arguments_json=f'{{"seconds": {seconds}}}'.encode())
        running = await begin(process, program, Limits(wall_seconds=1))
        # The tool, its three daemons, and the parents of these, which nobody has waited for.
        await until(lambda: len(descendants(process.pid) - standing) == 7)
        family = descendants(process.pid) - standing
        assert (await running).kind is kind
        await until(lambda: not descendants(process.pid) & family, seconds=1)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


async def test_a_tool_is_never_root_on_the_host() -> None:
    async with zygote(STANDARD_LAYERS) as process:
        spare = await process.spawn(disk_bytes=1 << 20)
        status = status_of(spare.host_pid)
        spare.close()
    ids = set(status["Uid"].split())
    assert "0" not in ids
    assert os.geteuid() == 0 or ids == {str(os.geteuid())}
    sets = [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd")]
    assert sets == [0] * 5
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@pytest.mark.parametrize("layers", [ORDINARY_PROCESS, PARTIAL_LAYERS, STANDARD_LAYERS])
async def test_an_honest_program_runs_with_any_set_of_layers(layers: frozenset[Layer]) -> None:
    async with zygote(layers) as process:
        outcome = await (await begin(process, ToolProgram(source="def run():\n    return 1\n"), Limits()))
        assert outcome.result_json == b"1"
