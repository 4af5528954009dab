"""What is kept only to know repeats by is forgotten in time."""

import asyncio
import uuid

import psycopg
import pytest
import sqlalchemy as sa

from benchmarks.claims import Backlog, fill
from interlock.orchestrator.v1 import task_pb2
from interlock_suite.databases import ServiceDatabase
from orchestrator_svc import store
from orchestrator_svc.config import OrchestratorSettings
from orchestrator_svc.server import build
from orchestrator_svc.store.upkeep import OVERDUE
from orchestrator_svc.upkeep import Upkeep
from svc_kit.database import Database
from tests.orchestrator.world import World


async def test_request_ids_are_known_for_a_day_and_then_forgotten_but_tasks_stay(world: World) -> None:
    key = str(uuid.uuid4())
    first = await world.submit(request_id=key)
    worker = world.worker()
    async with worker.session() as session:
        await worker.complete(await worker.must_claim(session))
    database = Database(world.database.service_url)
    upkeep = store.UpkeepStore(database)
    assert await upkeep.forget(hours=25, limit=1000) == 0
    assert (await world.submit(request_id=key)).task_id == first.task_id
    async with await psycopg.AsyncConnection.connect(world.database.owner_url, autocommit=True) as owner:
        await owner.execute("UPDATE idempotency SET create_time = now() - interval '26 hours'")
        await owner.execute("UPDATE claim SET create_time = now() - interval '26 hours'")
    running = asyncio.create_task(Upkeep(upkeep, hours=25, event_hours=1).run())
    async with asyncio.timeout(10):
        while True:
            again = await world.submit(request_id=key)
            if again.task_id != first.task_id:
                break
            await asyncio.sleep(0.05)
    running.cancel()
    await database.close()
    assert (await world.get(first.task_id)).state == task_pb2.TASK_STATE_COMPLETED


def test_settings_that_are_missing_are_named_before_anything_starts() -> None:
    with pytest.raises(ValueError, match="database_url, redis_url, token_file, keys_dir, registry_address"):
        build(OrchestratorSettings())


async def test_the_clocks_that_have_run_out_are_looked_up_in_an_index(database: ServiceDatabase) -> None:
    await fill(database.owner_url, "busy", Backlog(tasks=2_000))
    opened = Database(database.owner_url)
    try:
        async with opened.transaction() as connection:
            await connection.execute(sa.text("UPDATE task SET expires = now() + interval '1 day'"))
            await connection.execute(sa.text("ANALYZE task"))
            explain = sa.text(f"EXPLAIN {OVERDUE.text}")
            rows = (await connection.execute(explain, {"limit": 256})).all()
        plan = "\n".join(row[0] for row in rows)
        assert "Index Cond: (due_time <" in plan and "Seq Scan" not in plan, plan
    finally:
        await opened.close()
