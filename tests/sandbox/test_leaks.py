"""Nothing of one call reaches another: neither the next one, nor one of another tenant at the same time."""

import asyncio
import json
import secrets

import pytest

from interlock_sandbox import Outcome, Sandbox, ToolProgram
from tests.sandbox.attacks import ATTACKS
from tests.sandbox.attacks.leaks import LEAKS, Leak
from tests.sandbox.guards_off import careless_problems
from tests.sandbox.siege import besiege, leaked
from tests.sandbox.world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")

each_leak = pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.name)


def new_canary() -> str:
    return f"canary-{secrets.token_hex(6)}"


async def run(sandbox: Sandbox, source: str, world: World, **given: object) -> Outcome:
    arguments = json.dumps({**world.describe(), **given}).encode()
    return await sandbox.run(ToolProgram(source=source, arguments_json=arguments))


@each_leak
async def test_what_one_call_leaves_the_next_does_not_find(
    sandbox: Sandbox, world: World, leak: Leak
) -> None:
    assert await leaked(sandbox, leak, world) == []


@each_leak
async def test_in_one_process_it_would_be_found(world: World, leak: Leak) -> None:
    canary = new_canary()
    arguments = {**world.describe(), **world.lend_files(), "canary": canary}
    problems = await asyncio.to_thread(careless_problems, [leak.plant, leak.look], arguments, world)
    found = leak.found or canary
    assert any(problem.startswith("it got") and found in problem for problem in problems), problems


@pytest.mark.parametrize("part", [LEAKS[:7], LEAKS[7:14], LEAKS[14:]])
async def test_what_one_call_lays_out_no_other_finds_meanwhile(
    sandbox: Sandbox, world: World, part: list[Leak]
) -> None:
    pairs = (
        (
            run(sandbox, leak.plant, world, canary=new_canary(), seconds=0.3),
            run(sandbox, leak.look, world, seconds=0.3),
        )
        for leak in part
    )
    outcomes = await asyncio.gather(*(call for pair in pairs for call in pair))
    assert {outcome.result_json for outcome in outcomes} == {b'{"got":[]}'}


async def test_two_calls_draw_different_random_numbers(sandbox: Sandbox, world: World) -> None:
    source = """
import os, random, secrets, tempfile, uuid
def run(**_):
    return [random.random(), secrets.token_hex(8), uuid.uuid4().hex, tempfile.mktemp(), os.urandom(8).hex()]
"""
    drawn = [json.loads((await run(sandbox, source, world)).result_json or b"") for _ in range(3)]
    assert all(len(set(column)) == 3 for column in zip(*drawn, strict=True))


HONEST = """
import builtins, gc, os, random, re, time
def run(canary, **_):
    builtins.kept = os.environ["KEPT"] = canary
    random.seed(canary)
    drawn = random.Random(canary).random()
    with open("/tmp/kept", "w") as file:
        file.write(canary)
    time.sleep(0.1)
    total = sum(n * n for n in range(20_000))
    with open("/tmp/kept") as file:
        seen = {file.read(), builtins.kept, os.environ["KEPT"]}
    others = set(re.findall("tenant-[0-9a-f]{12}", str(gc.get_objects()[-2000:]))) - {canary}
    return [sorted(seen), os.listdir("/tmp"), random.random() == drawn, total, sorted(others)]
"""

THIEF = """
import ctypes, gc, os, re, time
def run(**_):
    found = set()
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        texts = [str(gc.get_objects()), str(os.environ)]
        for base, _, files in os.walk("/tmp"):
            texts += [open(os.path.join(base, name)).read() for name in files]
        for area in open("/proc/self/maps"):
            span, rights, *rest = area.split()
            start, stop = (int(half, 16) for half in span.split("-"))
            if rights.startswith("rw") and stop - start < 1 << 22:
                texts.append(ctypes.string_at(start, stop - start).decode("latin-1"))
        for text in texts:
            found.update(re.findall("tenant-[0-9a-f]{12}", text))
    return sorted(found)
"""

HOSTILE = (
    "takes_memory_in_small_pieces",
    "forks_like_a_bomb",
    "starts_threads_without_end",
    "gathers_every_secret_it_can_see",
    "floods_both_streams_at_once",
    "fills_the_disk",
    "kills_what_it_can_name",
    "connects_by_every_family",
)


async def test_eight_tenants_at_once_neither_fail_nor_see_each_other(sandbox: Sandbox, world: World) -> None:
    attacks = [attack for attack in ATTACKS if attack.name in HOSTILE]
    assert len(attacks) == len(HOSTILE)
    canaries = [f"tenant-{secrets.token_hex(6)}" for _ in attacks]

    async def honest(canary: str) -> Outcome:
        return await run(sandbox, HONEST, world, canary=canary)

    async def thief(canary: str) -> Outcome:
        return await run(sandbox, THIEF, world, canary=canary)

    hostile = asyncio.gather(*(besiege(sandbox, attack, world) for attack in attacks))
    thieves = asyncio.gather(*map(thief, canaries))
    outcomes = await asyncio.gather(*map(honest, canaries))
    for canary, outcome in zip(canaries, outcomes, strict=True):
        assert outcome.error is None
        expected = [[canary], ["kept"], True, sum(n * n for n in range(20_000)), []]
        assert json.loads(outcome.result_json or b"") == expected
    for canary, outcome in zip(canaries, await thieves, strict=True):
        assert json.loads(outcome.result_json or b"") == [canary], "a thief finds its own canary alone"
    assert await hostile == [[]] * len(attacks)
