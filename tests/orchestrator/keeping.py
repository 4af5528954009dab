"""Events that grow old and are no longer kept."""

import asyncio

import psycopg

from orchestrator_svc import store
from orchestrator_svc.upkeep import Upkeep
from svc_kit.database import Database
from tests.orchestrator.world import World


async def age(world: World, hours: int) -> None:
    """Make everything that has happened older."""
    async with await psycopg.AsyncConnection.connect(world.database.owner_url, autocommit=True) as owner:
        await owner.execute("ALTER TABLE task DISABLE TRIGGER USER")
        await owner.execute("UPDATE task SET end_time = end_time - make_interval(hours => %s)", [hours])
        await owner.execute("UPDATE task_event SET time = time - make_interval(hours => %s)", [hours])
        await owner.execute("ALTER TABLE task ENABLE TRIGGER USER")


async def compact(world: World) -> None:
    """Have what is older than an hour compacted."""
    database = Database(world.database.service_url)
    await Upkeep(store.UpkeepStore(database), hours=25, event_hours=1).once()
    await database.close()


async def delivered(world: World) -> None:
    """Returns when the audit log has heard of everything."""
    async with await psycopg.AsyncConnection.connect(world.database.owner_url, autocommit=True) as owner:
        async with asyncio.timeout(10):
            while True:
                if await (await owner.execute("SELECT FROM outbox LIMIT 1")).fetchone() is None:
                    return
                await asyncio.sleep(0.02)
