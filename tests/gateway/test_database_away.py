"""Postgres restarted under the gateway: closed while it is away, nothing lost that was executed."""

import asyncio

import pytest

from svc_kit.status import RemoteError
from tests.gateway.world import World, gateway, kinds, until
from tests.suite_fixtures import PostgresServer

SLOW = "import time\ndef run(seconds):\n    time.sleep(seconds)\n    return seconds\n"

pytestmark = pytest.mark.chaos


async def test_without_its_database_the_gateway_refuses_and_executes_nothing(
    world: World, postgres_server: PostgresServer
) -> None:
    await world.allow()
    permit = world.permit({"a": 1})
    postgres_server.stop()
    try:
        error = await world.refusal(permit, {"a": 1})
        assert (error.code.name, error.reason) == ("UNAVAILABLE", "DATABASE_UNAVAILABLE")
        assert error.metadata["execution_state"] == "NOT_STARTED"
        assert error.retry_after is not None
        assert world.runs == 0
    finally:
        postgres_server.start()  # on this thread, whose end would be the end of the server too

    async def passes() -> bool:
        try:
            return (await world.execute(permit, {"a": 1})).result_json == '{"a":1}'
        except RemoteError as refused:
            # The policies, too, may not have been read for too long.
            if refused.reason not in ("DATABASE_UNAVAILABLE", "POLICY_STALE"):
                raise
            return False

    await until(passes)
    assert world.runs == 1


async def test_the_outcome_of_a_tool_that_ran_while_the_database_was_away_is_stored_when_it_is_back(
    closed_world: World, postgres_server: PostgresServer
) -> None:
    closed_world.publish_tool("slow", SLOW)
    arguments = {"seconds": 1}
    async with gateway(closed_world) as world:
        await world.allow()
        permit = world.permit(arguments, tool="slow")
        running = asyncio.ensure_future(world.execute(permit, arguments))
        await until(lambda: world.runs == 1)
        postgres_server.stop()
        await until(lambda: world.sandbox.status().running == 0)
        postgres_server.start()
        assert (await running).result_json == "1"
        assert kinds(await world.told(permit, 2))[1] == ("TOOL_RESULT", "COMPLETED", "")
        assert (await world.execute(permit, arguments)).replayed
        assert world.runs == 1


async def test_a_gateway_starts_while_its_database_is_away_and_serves_when_it_is_back(
    closed_world: World, postgres_server: PostgresServer
) -> None:
    closed_world.publish_tool()
    async with gateway(closed_world) as world:
        await world.allow()
    permit = closed_world.permit({"a": 1})
    postgres_server.stop()
    back = False
    try:
        async with gateway(closed_world) as world:
            error = await world.refusal(permit, {"a": 1})
            assert (error.code.name, error.reason) == ("UNAVAILABLE", "DATABASE_UNAVAILABLE")
            assert error.metadata["execution_state"] == "NOT_STARTED"
            postgres_server.start()
            back = True

            async def passes() -> bool:
                reason = await world.reason(permit, {"a": 1})
                assert reason in ("", "DATABASE_UNAVAILABLE", "POLICY_STALE")
                return not reason

            await until(passes)
            owned = await world.sql(
                "SELECT 1 FROM tool_call JOIN gateway ON incarnation = owner WHERE tenant = :tenant",
                tenant=world.tenant,
            )
            assert len(owned) == 1
            assert world.runs == 1
    finally:
        if not back:
            postgres_server.start()
