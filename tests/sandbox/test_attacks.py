import asyncio

import pytest

from interlock_sandbox import Sandbox
from tests.sandbox.attacks import ATTACKS, Attack
from tests.sandbox.siege import CONTROL, besiege
from tests.sandbox.waiting import until
from tests.sandbox.world import World, relatives

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_a_hostile_program_is_held_and_the_next_call_works(
    sandbox: Sandbox, world: World, attack: Attack
) -> None:
    assert await besiege(sandbox, attack, world) == []


AT_ONCE = (
    "takes_memory_in_small_pieces",
    "forks_like_a_bomb",
    "starts_threads_without_end",
    "spins",
    "floods_stdout",
    "fills_the_disk",
    "kills_what_it_can_name",
    "connects_by_every_family",
)


async def test_hostile_and_honest_tenants_at_once_do_not_disturb_each_other(
    sandbox: Sandbox, world: World
) -> None:
    attacks = [attack for attack in ATTACKS if attack.name in AT_ONCE]
    assert len(attacks) == len(AT_ONCE)
    hostile = asyncio.gather(*(besiege(sandbox, attack, world) for attack in attacks))
    honest = await asyncio.gather(*(sandbox.run(CONTROL) for _ in AT_ONCE))
    assert {outcome.result_json for outcome in honest} == {b"[42,true]"}
    assert await hostile == [[]] * len(attacks)


async def test_the_attackers_left_no_process_behind(sandbox: Sandbox, bystanders: set[int]) -> None:
    await until(lambda: sandbox.status().spares == 2)
    # The world's victim, the launcher, the zygote and the two spares.
    await until(lambda: len(relatives(bystanders)) == 5)
    assert sandbox.status().running == 0
    assert sandbox.status().restarts == 0
