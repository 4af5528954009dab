"""A gateway that dies in the middle of a call: the call is UNKNOWN, the log is told, nothing runs twice."""

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from gateway_svc.call_store import CallStore
from gateway_svc.gateway_store import GatewayStore
from gateway_svc.ownership import Ownership
from interlock.gateway.v1 import tool_call_pb2
from interlock.registry.v1 import tool_pb2
from svc_kit.clock import SystemClock
from svc_kit.database import Database
from svc_kit.status import RemoteError
from tests.gateway.world import World, gateway, kinds, once, settings_of, until

SLOW = "import time\ndef run(seconds):\n    time.sleep(seconds)\n    return seconds\n"
ARGUMENTS = {"seconds": 2}


def _told(value: Any) -> str:
    """A setting as the environment tells it: lists and tables as JSON."""
    return json.dumps(value, default=str) if isinstance(value, list | tuple | dict) else str(value)


@asynccontextmanager
async def gateway_process(world: World) -> AsyncIterator["asyncio.subprocess.Process"]:
    """`python -m gateway_svc` as it is started in production; killed at the end of the block."""
    issuers = world.folder / "issuers.json"
    world.issuer.write_issuers_file(issuers)
    settings = settings_of(world).model_dump(exclude_none=True)
    environment = {f"INTERLOCK_GATEWAY_{name.upper()}": _told(value) for name, value in settings.items()}
    environment |= {"INTERLOCK_GATEWAY_ISSUERS": str(issuers), "PATH": os.environ["PATH"]}
    with (world.folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway_svc", env=environment, stderr=log
        )
    try:
        async with grpc.aio.insecure_channel(f"unix:{world.folder}/gateway") as channel:
            async with asyncio.timeout(20):
                await channel.channel_ready()
            world.internal = channel
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def killed_in_the_middle(world: World, **tool: Any) -> Any:
    """A permit whose call was running when its gateway was killed -9."""
    world.publish_tool("slow", SLOW, **tool)
    async with gateway(world):
        await world.allow()
    permit = world.permit(ARGUMENTS, tool="slow")
    async with gateway_process(world) as process:
        running = asyncio.ensure_future(world.execute(permit, ARGUMENTS))
        # The entry stands, so the tool is about to run or runs.
        await world.told(permit, 1)
        process.send_signal(signal.SIGKILL)
        with pytest.raises(RemoteError):
            await running
    (row,) = await world.rows(permit)
    assert row.status == "RUNNING"
    return permit


async def test_a_call_whose_gateway_was_killed_is_unknown_and_told_as_lost_at_the_next_start(
    closed_world: World,
) -> None:
    permit = await killed_in_the_middle(closed_world)
    async with gateway(closed_world) as world:
        call = await world.get(permit)
        assert call.status == tool_call_pb2.TOOL_CALL_STATUS_UNKNOWN
        assert kinds(await world.told(permit, 2)) == [
            ("TOOL_CALL", "RUNNING", ""),
            ("TOOL_RESULT", "UNKNOWN", "OUTCOME_UNKNOWN"),
        ]
        error = await world.refusal(permit, ARGUMENTS)
        assert (error.code.name, error.reason) == ("UNKNOWN", "OUTCOME_UNKNOWN")
        assert error.metadata["execution_state"] == "UNKNOWN"
        assert world.runs == 0, "it may have had an effect, so it does not run again by itself"


async def test_a_lost_call_of_a_tool_that_may_run_twice_runs_again_when_asked_for(
    closed_world: World,
) -> None:
    permit = await killed_in_the_middle(closed_world, side_effect=tool_pb2.SIDE_EFFECT_PURE)
    async with gateway(closed_world) as world:
        assert (await world.execute(permit, ARGUMENTS)).result_json == "2"
        assert kinds(await world.told(permit, 4)) == [
            ("TOOL_CALL", "RUNNING", ""),
            ("TOOL_RESULT", "UNKNOWN", "OUTCOME_UNKNOWN"),
            ("TOOL_CALL", "RUNNING", ""),
            ("TOOL_RESULT", "COMPLETED", ""),
        ]


async def test_a_gateway_gives_up_the_calls_of_one_that_fell_silent_but_never_its_own(
    closed_world: World,
) -> None:
    permit = await killed_in_the_middle(closed_world)
    database = Database(closed_world.database_url)
    woken = asyncio.Event()
    other = Ownership(
        GatewayStore(database),
        CallStore(database),
        SystemClock(),
        slot="elsewhere",
        wake=woken.set,
        lease_seconds=0.5,
        beat_seconds=0.1,
    )
    await other.start()
    assert not woken.is_set(), "the dead one has not been silent for long enough"
    sweeping = asyncio.create_task(other.run())
    async with asyncio.timeout(5):
        await woken.wait()

    async def unknown() -> bool:
        return [row.status for row in await closed_world.rows(permit)] == ["UNKNOWN"]

    await until(unknown)
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)
    await other.end()
    await database.close()


async def test_what_is_answered_is_what_is_held_when_a_call_was_given_up_and_run_again_meanwhile(
    closed_world: World,
) -> None:
    closed_world.publish_tool("slow", SLOW, side_effect=tool_pb2.SIDE_EFFECT_PURE)
    async with gateway(closed_world) as world:
        await world.allow()
        arguments = {"seconds": 1}
        permit = world.permit(arguments, tool="slow")
        running = asyncio.ensure_future(world.execute(permit, arguments))
        await until(lambda: world.runs == 1)
        overtaken = await world.sql(
            "UPDATE tool_call SET owner = :other, audit_event = :other, status = 'COMPLETED',"
            " end_time = now(), audit_index = 0, isolation = 'STANDARD', result_json = '\"of the other\"',"
            " receipt_key = 'other', receipt_payload = '\\x01', receipt_signature = '\\x01'"
            " WHERE tenant = :tenant RETURNING call_id",
            other=uuid.uuid4(),
            tenant=world.tenant,
        )
        assert len(overtaken) == 1
        answer = await running
        assert answer.result_json == '"of the other"'
        assert answer.receipt.key_id == "other", "no receipt for an outcome that nobody holds"
        assert (await world.execute(permit, arguments)).result_json == '"of the other"'


async def test_after_a_restart_an_unknown_call_waits_for_the_registry_to_say_whether_it_may_run_again(
    closed_world: World,
) -> None:
    permit = await killed_in_the_middle(closed_world, side_effect=tool_pb2.SIDE_EFFECT_PURE)
    closed_world.registry.silent = closed_world.registry.behind = True
    async with gateway(closed_world) as world:
        error = await world.refusal(permit, ARGUMENTS)
        assert (error.code.name, error.reason) == ("UNAVAILABLE", "POLICY_STALE")
        assert error.metadata["execution_state"] == "UNKNOWN"
        world.registry.silent = world.registry.behind = False
        await once("", lambda: world.reason(permit, ARGUMENTS), instead_of="POLICY_STALE")
        assert world.runs == 1


async def test_an_outcome_that_comes_after_its_call_was_given_up_is_stored_nevertheless(
    closed_world: World,
) -> None:
    closed_world.publish_tool("slow", SLOW)
    async with gateway(closed_world) as world:
        await world.allow()
        permit = world.permit(ARGUMENTS, tool="slow")
        database = Database(world.database_url)
        other = Ownership(
            GatewayStore(database), CallStore(database), SystemClock(), slot="elsewhere", wake=lambda: None
        )
        await database.ping()
        running = asyncio.ensure_future(world.execute(permit, ARGUMENTS))
        await until(lambda: world.runs == 1)
        await world.sql("DELETE FROM gateway WHERE slot = :slot", slot=world.tenant)
        await other.start()
        assert (await running).result_json == "2"
        assert [row.status for row in await world.rows(permit)] == ["COMPLETED"]
        # That it was given up in between is in the log, whoever looked at its row when.
        assert kinds(await world.told(permit, 3))[1:] == [
            ("TOOL_RESULT", "UNKNOWN", "OUTCOME_UNKNOWN"),
            ("TOOL_RESULT", "COMPLETED", ""),
        ]
        await other.end()
        await database.close()


async def test_the_place_of_a_lost_call_is_free_again(closed_world: World) -> None:
    permit = await killed_in_the_middle(closed_world, max_running=1)
    async with gateway(closed_world) as world:
        assert (await world.get(permit)).status == tool_call_pb2.TOOL_CALL_STATUS_UNKNOWN
        short = {"seconds": 0}
        await world.execute(world.permit(short, tool="slow"), short)
