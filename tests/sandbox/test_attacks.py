import pytest

from interlock_sandbox import Sandbox
from tests.sandbox.attacks import ATTACKS, Attack
from tests.sandbox.siege import besiege
from tests.sandbox.waiting import until
from tests.sandbox.world import World, relatives

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_a_hostile_program_is_held_and_the_next_call_works(
    sandbox: Sandbox, world: World, attack: Attack
) -> None:
    assert await besiege(sandbox, attack, world) == []


async def test_the_attackers_left_no_process_behind(sandbox: Sandbox, bystanders: set[int]) -> None:
    await until(lambda: sandbox.status().spares == 2)
    # The world's victim, the launcher, the zygote and the two spares.
    await until(lambda: len(relatives(bystanders)) == 5)
    assert sandbox.status().running == 0
    assert sandbox.status().restarts == 0
