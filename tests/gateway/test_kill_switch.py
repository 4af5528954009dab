"""The kill switch: what is disabled takes no new call at any gateway, and what ran there is ended."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway_svc.connections import Connections
from gateway_svc.kill_switch import KillSwitch
from interlock.common.v1 import permit_pb2
from interlock.registry.v1 import agent_pb2, tool_pb2
from svc_kit.status import RemoteError
from tests.gateway.models import Models, publish
from tests.gateway.openai_server import Reply, completion, openai_server
from tests.gateway.world import AGENT, AGENT_VERSION, TOOL_VERSION, World, claims, gateway, kinds, once, until

SLOW = "import time\ndef run(seconds):\n    time.sleep(seconds)\n    return seconds\n"
LONG = {"seconds": 15}


@pytest.fixture
async def allowing(closed_world: World) -> AsyncIterator[World]:
    closed_world.publish_tool()
    closed_world.publish_tool("slow", SLOW, timeout={"seconds": 30})
    async with gateway(closed_world) as world:
        await world.allow()
        yield world


def replica(world: World, **changes: Any) -> Any:
    """One more gateway beside that of the world, which speaks to the new one from then on."""
    return gateway(world, slot="replica", internal_address=f"unix:{world.folder}/replica", **changes)


def set_agent(world: World, name: str, status: tool_pb2.Status.ValueType) -> None:
    agent = agent_pb2.Agent(name=name, latest_version=AGENT_VERSION, status=status)
    agent.update_time.GetCurrentTime()
    world.registry.publish(world.tenant, agent)


def set_tool(world: World, name: str, status: tool_pb2.Status.ValueType) -> None:
    tool = tool_pb2.Tool(name=name, latest_version=TOOL_VERSION, status=status)
    tool.update_time.GetCurrentTime()
    world.registry.publish(world.tenant, tool)


async def test_a_disabled_tool_ends_at_every_gateway_while_others_go_on(allowing: World) -> None:
    first, second = (allowing.permit(LONG, tool="slow") for _ in range(2))
    running = [asyncio.ensure_future(allowing.refusal(first, LONG))]
    await until(lambda: allowing.runs == 1)
    async with replica(allowing):
        running.append(asyncio.ensure_future(allowing.refusal(second, LONG)))
        await until(lambda: allowing.runs == 1)
        set_tool(allowing, "slow", tool_pb2.STATUS_DISABLED)
        errors = await asyncio.gather(*running)
        assert [error.reason for error in errors] == ["TOOL_CANCELED"] * 2
        assert all("tool slow was disabled" in error.message for error in errors)
        assert await allowing.reason(allowing.permit(LONG, tool="slow"), LONG) == "NOT_ACTIVE"
        await allowing.execute(allowing.permit())
    told = await allowing.told(first, 2)
    assert kinds(told)[1] == ("TOOL_RESULT", "FAILED", "TOOL_CANCELED")


async def test_an_enabled_tool_is_called_again(allowing: World) -> None:
    permit = allowing.permit()
    set_tool(allowing, "echo", tool_pb2.STATUS_DISABLED)
    await once("NOT_ACTIVE", lambda: allowing.reason(allowing.permit()), instead_of="")
    set_tool(allowing, "echo", tool_pb2.STATUS_ACTIVE)
    await once("", lambda: allowing.reason(permit), instead_of="NOT_ACTIVE")


@pytest.mark.parametrize("name", [AGENT, "chief"])
async def test_a_disabled_agent_ends_with_all_that_it_gave_work(allowing: World, name: str) -> None:
    above = permit_pb2.Principal(
        tenant=allowing.tenant, subject="chief", agent="chief", agent_version="1.0.0", roles=["SUBMITTER"]
    )
    ada = permit_pb2.Principal(tenant=allowing.tenant, subject="ada", roles=["DEVELOPER"])
    set_agent(allowing, "chief", tool_pb2.STATUS_ACTIVE)
    permit = allowing.permit(LONG, tool="slow", submitters=[above, ada])
    running = asyncio.ensure_future(allowing.refusal(permit, LONG))
    await until(lambda: allowing.runs == 1)
    set_agent(allowing, name, tool_pb2.STATUS_DISABLED)
    error = await running
    assert (error.reason, error.metadata["execution_state"]) == ("TOOL_CANCELED", "COMPLETED")
    assert f"agent {name} was disabled" in error.message
    refused = await allowing.refusal(allowing.permit(submitters=[above, ada]))
    assert (refused.reason, refused.metadata["agent"]) == ("NOT_ACTIVE", name)


@pytest.fixture
async def models(closed_world: World) -> AsyncIterator[Models]:
    publish(closed_world)
    async with openai_server() as provider, gateway(closed_world):
        connected = Models(world=closed_world, provider=provider)
        await connected.connect()
        yield connected


@pytest.mark.parametrize("how", ["disabled", "agents", "deleted"])
async def test_a_closed_connection_ends_its_calls_at_the_other_gateway_too(models: Models, how: str) -> None:
    silent = completion("too late")
    silent.ready = asyncio.Event()
    models.provider.replies(silent)
    permit = models.permit()
    running = asyncio.ensure_future(models.refusal(permit))
    await until(lambda: len(models.provider.requests) == 1)
    async with replica(models.world):
        if how == "disabled":
            assert (await models.update("disabled", disabled=True)).disabled
        elif how == "agents":
            await models.update("agents", agents=[])
        else:
            await models.delete()
        error = await running
        assert (error.reason, error.metadata["execution_state"]) == ("TOOL_CANCELED", "COMPLETED")
        wanted = "NOT_ACTIVE" if how == "disabled" else "CONNECTION_NOT_BOUND"
        assert (await models.refusal(models.permit())).reason == wanted
        await until(lambda: models.provider.gone == 1)
        assert len(models.provider.requests) == 1
        assert (await models.world.get(permit)).reason == "TOOL_CANCELED"


async def test_a_connection_that_is_enabled_again_is_used_and_both_changes_are_told(models: Models) -> None:
    await models.update("disabled", disabled=True)
    with pytest.raises(RemoteError):
        await models.call(models.permit())
    assert models.provider.requests == []
    await models.update("disabled", disabled=False)
    await models.call(models.permit())
    await until(lambda: switches(models.world) == ["DISABLED", "ENABLED"])


def switches(world: World) -> list[str]:
    """What the audit log was told of the connection after it was made."""
    return [event.status for event in world.audit.events if "connection_id" in event.attributes][2:]


async def test_a_gateway_that_starts_knows_what_is_disabled(closed_world: World) -> None:
    closed_world.publish_tool()
    set_tool(closed_world, "echo", tool_pb2.STATUS_DISABLED)
    async with gateway(closed_world) as world:
        await world.allow()
        permit = world.permit()
        assert await world.reason(permit) == "NOT_ACTIVE"
        assert claims(permit).tool == "echo"


async def test_a_model_call_that_was_between_its_last_check_and_its_start_ends_too(
    closed_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(closed_world)
    find, changed = Connections.find, KillSwitch.registry_changed
    held, go_on, heard = asyncio.Event(), asyncio.Event(), asyncio.Event()
    looked = itertools.count(1)

    async def find_slowly(self: Connections, tenant: str, connection_id: str) -> Any:
        if next(looked) == 2:
            held.set()
            await go_on.wait()
        return await find(self, tenant, connection_id)

    def hear(self: KillSwitch) -> None:
        changed(self)
        agent = self._registry.agent(closed_world.tenant, AGENT)
        if agent is not None and agent.status == tool_pb2.STATUS_DISABLED:
            heard.set()

    monkeypatch.setattr(Connections, "find", find_slowly)
    monkeypatch.setattr(KillSwitch, "registry_changed", hear)
    async with openai_server() as provider, gateway(closed_world):
        models = Models(world=closed_world, provider=provider)
        await models.connect()
        provider.replies(Reply(ready=asyncio.Event()))
        call = asyncio.ensure_future(models.refusal(models.permit()))
        await held.wait()
        set_agent(closed_world, AGENT, tool_pb2.STATUS_DISABLED)
        await heard.wait()
        go_on.set()
        assert (await call).reason == "TOOL_CANCELED"
