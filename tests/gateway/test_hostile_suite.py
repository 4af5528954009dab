"""Hostile and honest tools of eight tenants at once, through one gateway."""

import asyncio
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interlock.common.v1.permit_pb2 import Signed
from svc_kit.status import RemoteError
from tests.gateway.world import World, gateway, kinds
from tests.sandbox.attacks import ATTACKS
from tests.sandbox.world import World as Host

TENANTS = 8
ENDS = {
    "reads_a_file_of_the_host": "",
    "gathers_every_secret_it_can_see": "",
    "takes_a_handle_on_its_host": "",
    "connects_by_every_family": "",
    "kills_what_it_can_name": "",
    "forks_like_a_bomb": "",
    "sends_two_results": "",
    "prints_a_result_of_its_own": "",
    "sends_half_a_result_and_leaves": "TOOL_ERROR",
    "exits": "TOOL_ERROR",
    "spins": "TOOL_TIMEOUT",
    "floods_both_streams_at_once": "LIMIT_EXCEEDED",
    "forges_a_length_of_4_gib": "LIMIT_EXCEEDED",
    "forges_nan": "OUTPUT_INVALID",
    "forges_an_escaped_nul_in_a_key": "OUTPUT_INVALID",
    "forges_half_a_surrogate_pair": "OUTPUT_INVALID",
}
"""Why the call of each has failed, by what the audit log says; it completes where that is empty."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """One call, and what was said of it."""

    tenant: str
    tool: str
    permit: Signed
    result: Any
    said: str


async def ended(world: World, tenant: str, tool: str, arguments: Mapping[str, Any]) -> Ended:
    permit = world.permit(arguments, tool=tool, tenant=tenant)
    try:
        answer = await world.execute(permit, arguments, tenant=tenant)
    except RemoteError as error:
        return Ended(tenant=tenant, tool=tool, permit=permit, result=None, said=str(error))
    result = json.loads(answer.result_json) if answer.result_json else None
    return Ended(tenant=tenant, tool=tool, permit=permit, result=result, said=str(answer))


async def test_hostile_tools_of_eight_tenants_end_with_their_entries_and_honest_ones_notice_nothing(
    closed_world: World,
) -> None:
    world = closed_world
    sources = {attack.name: attack.source for attack in ATTACKS if attack.name in ENDS}
    tenants = [world.tenant, *(f"{world.tenant}-{number}" for number in range(1, TENANTS))]
    canaries = {tenant: f"canary-{secrets.token_hex(8)}" for tenant in tenants}
    for tenant in tenants:
        world.tenant = tenant
        world.publish_agent()
        world.publish_tool()
        for name, source in sources.items():
            world.publish_tool(name, source, timeout={"seconds": 1})
    with Host() as host:
        async with gateway(world):
            for tenant in tenants:
                await world.allow_as(tenant, "all", "permit (principal, action, resource);")
            hostile = [
                ended(world, tenant, name, {**host.describe(), "mine": canaries[tenant]})
                for position, tenant in enumerate(tenants)
                for name in list(ENDS)[position::TENANTS]
            ]
            honest = [ended(world, tenant, "echo", {"mine": canaries[tenant]}) for tenant in tenants]
            calls = await asyncio.gather(*hostile, *honest)
            for call in calls:
                call_entry, result_entry = await world.told(call.permit, 2)
                assert kinds([call_entry]) == [("TOOL_CALL", "RUNNING", "")]
                failed = ENDS.get(call.tool, "")
                outcome = ("TOOL_RESULT", "FAILED" if failed else "COMPLETED", failed)
                assert kinds([result_entry]) == [outcome], call
        assert host.breaches() == []
    hostile_ones, honest_ones = calls[: len(hostile)], calls[len(hostile) :]
    assert len(hostile_ones) == len(ENDS) == 2 * TENANTS
    assert [call.result for call in honest_ones] == [{"mine": canary} for canary in canaries.values()]
    assert not any(call.result and call.result["got"] for call in hostile_ones)
    for call in hostile_ones:
        text = call.said + str(world.entries(call.permit)[1])
        assert host.secret not in text
        assert not any(canary in text for tenant, canary in canaries.items() if tenant != call.tenant)
