"""Watches of the client over a hundred torn connections, at two orchestrators on one database."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from interlock.client import Client
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2
from orchestrator_svc.server import build
from svc_kit.identity import Role, TokenVerifier
from svc_kit.server import running_server
from tests.client.cutting import Cutter
from tests.orchestrator.peers import TENANT
from tests.orchestrator.world import World

SEED = 20261123
CUTS = 100
COMPLETED = task_pb2.TASK_STATE_COMPLETED


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that has learned of a cut comes back at once: the test is about what it sees then."""
    monkeypatch.setattr("interlock.client.watching._FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr("interlock.client.watching._LAST_WAIT_SECONDS", 0.05)


@pytest.fixture
async def world(still_world: World) -> AsyncIterator[World]:
    """Its worker beats on the loop that everything else keeps busy here, and is given the time."""
    async with still_world.serving(lease_seconds=60) as world:
        yield world


async def test_a_hundred_torn_connections_cost_no_event_and_repeat_none(world: World) -> None:
    token = world.issuer.mint("ada@example.org", TENANT, [Role.VIEWER], 600)
    settings = world.settings.model_copy(update={"internal_address": f"unix:{world.folder}/in2.sock"})
    other = build(settings)
    async with (
        running_server(
            other.services,
            settings,
            verifier=TokenVerifier([world.issuer.trusted()]),
            lifespan=other.lifespan,
        ) as second,
        Cutter(world.addresses.public, seed=SEED, cuts=CUTS // 2, most_bytes=6000).running() as one,
        Cutter(second.public, seed=SEED + 1, cuts=CUTS // 2, most_bytes=6000).running() as two,
        Client({"orchestrator": one.address}, lambda: token) as first_client,
        Client({"orchestrator": two.address}, lambda: token) as second_client,
    ):
        task = await world.submit()
        watched: list[list[int]] = []
        listed: list[list[tuple[str, int]]] = []
        interruptions = []
        done = asyncio.Event()

        async def watch(client: Client) -> None:
            told = client.watch(task.task_id, interrupted=lambda why, _: interruptions.append(why))
            watched.append([update.snapshot.revision or update.event.revision async for update in told])

        async def watch_list(client: Client) -> None:
            seen: list[tuple[str, int]] = []
            listed.append(seen)
            told = client.watch_tasks(from_now=True, interrupted=lambda why, _: interruptions.append(why))
            async for update in told:
                assert not update.HasField("snapshot")
                seen.extend((each.event.task_id, each.event.revision) for each in update.changes.changes)
                if any(each.event.state == COMPLETED for each in update.changes.changes):
                    return

        watchers = [
            asyncio.create_task(each(client))
            for client in (first_client, second_client)
            for each in (watch, watch_list)
        ]
        worker = world.worker()

        disturbing = asyncio.create_task(disturb(world, done))
        async with worker.session() as session, asyncio.timeout(60):
            claimed = await worker.must_claim(session)
            steps = 0
            while one.left or two.left:
                begun = await worker.begin(claimed, f"step-{steps}")
                await worker.record(claimed, worker.finished(begun, steps))
                steps += 1
            done.set()
            await disturbing
            await worker.complete(claimed)
            await asyncio.gather(*watchers)
    last = 3 + 2 * steps
    assert one.left == two.left == 0 and interruptions
    for seen in watched:
        assert seen == list(range(seen[0], last + 1))
    log = await committed(world)
    for heard in listed:
        # From the first one that came after the stream began, everything in the order of the commits.
        assert heard == log[log.index(heard[0]) : log.index((task.task_id, last)) + 1]


async def disturb(world: World, done: asyncio.Event) -> None:
    """Other tasks come and go."""
    while not done.is_set():
        other = await world.submit()
        await world.people().CancelTask(messages.CancelTaskRequest(task_id=other.task_id))


async def committed(world: World) -> list[tuple[str, int]]:
    async with await psycopg.AsyncConnection.connect(world.database.service_url) as connection:
        rows = await connection.execute("SELECT task_id::text, revision FROM task_event ORDER BY position")
        return [(row[0], row[1]) for row in await rows.fetchall()]
