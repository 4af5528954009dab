"""Places of execution: tenants that wait take turns, and no place is lost."""

import asyncio
import random

import pytest

from gateway_svc.pipeline.admission import Admission
from gateway_svc.pipeline.turns import Turns
from svc_kit.errors import DomainError


async def test_a_tenant_that_asks_for_much_does_not_keep_the_others_waiting() -> None:
    turns, served = Turns(2), []

    async def call(tenant: str) -> None:
        await turns.take(tenant)
        served.append(tenant)
        await asyncio.sleep(0)
        turns.give_back()

    calls = [asyncio.create_task(call("greedy")) for _ in range(50)]
    await asyncio.sleep(0)
    calls += [asyncio.create_task(call(tenant)) for tenant in ("a", "b", "a")]
    await asyncio.gather(*calls)
    assert served.count("greedy") == 50
    assert [served.index("a"), served.index("b")] == sorted([served.index("a"), served.index("b")])
    assert max(served.index("a"), served.index("b")) < 8


async def test_no_place_is_lost_whoever_gives_up_and_when() -> None:
    turns, chance = Turns(3), random.Random(7)
    inside = most = 0

    async def call(tenant: str) -> None:
        nonlocal inside, most
        await turns.take(tenant)
        inside += 1
        most = max(most, inside)
        try:
            await asyncio.sleep(0)
        finally:
            inside -= 1
            turns.give_back()

    for _ in range(200):
        calls = [asyncio.create_task(call(chance.choice("abc"))) for _ in range(8)]
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        for each in chance.sample(calls, 4):
            each.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    assert most == 3
    async with asyncio.timeout(1):
        for _ in range(3):
            await turns.take("a")


async def test_one_tenant_cannot_take_all_the_room_there_is() -> None:
    admission = Admission(running=2, waiting=8)
    flights = [admission.flight("greedy") for _ in range(7)]
    for flight in flights[:6]:
        flight.__enter__()
    with pytest.raises(DomainError) as refused:
        flights[6].__enter__()
    assert refused.value.reason_name == "OVERLOADED"
    with admission.flight("other"):
        pass
    for flight in flights[:6]:
        flight.__exit__(None, None, None)
    with admission.flight("greedy"):
        pass
