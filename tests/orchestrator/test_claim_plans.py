"""The statements of a claim look things up in indexes: what they touch does not grow with what waits."""

from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from benchmarks.claims import Backlog, fill
from interlock_suite.databases import ServiceDatabase
from orchestrator_svc.store.candidates import CANDIDATES
from orchestrator_svc.store.claims import PICK, TURNS
from svc_kit.database import Database

_PLACE = {"pool": "default", "tenant": "default", "queue": "busy"}
_CHOICE = {"limit": 4, "suspects": True}
_KEYS = {"per_key": 1, "start": 0, "turns": [""] * 10, "full": ["key-0"]}
_STATEMENTS: dict[str, tuple[sa.TextClause, dict[str, Any], Backlog]] = {
    "turns": (TURNS, {"pool": "default", "tenants": ["default"]}, Backlog(tasks=0)),
    "pick": (PICK, {**_PLACE, **_CHOICE}, Backlog(tasks=0)),
    "candidates": (
        CANDIDATES,
        {**_PLACE, **_CHOICE, **_KEYS, "turns": ["key-42"] * 10, "full": []},
        Backlog(tasks=0, keys=50, limited=True),
    ),
    # Ninety of a hundred keys are at their limit: they are stepped over, however many tasks each has.
    "candidates of the keys with room": (
        CANDIDATES,
        {**_PLACE, **_CHOICE, **_KEYS, "full": [f"key-{n}" for n in range(45)]},
        Backlog(tasks=0, keys=50, limited=True),
    ),
    "candidates of many keys that share a turn": (
        CANDIDATES,
        {**_PLACE, **_CHOICE, **_KEYS},
        Backlog(tasks=0, keys=1_500, limited=True, one=True),
    ),
    "candidates of many keys behind one that is full": (
        CANDIDATES,
        {**_PLACE, **_CHOICE, **_KEYS, "full": ["flood"]},
        Backlog(tasks=0, keys=150, limited=True, one=True, flood=1_500),
    ),
}


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """A plan's node with every one below it."""
    return [plan, *(node for each in plan.get("Plans", []) for node in nodes(each))]


async def explained(database: Database, statement: sa.TextClause, parameters: dict[str, Any]) -> Any:
    async with database.transaction() as connection:
        analyzed = sa.text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement.text}")
        return (await connection.execute(analyzed, parameters)).scalar_one()[0]["Plan"]


@pytest.mark.parametrize("name", list(_STATEMENTS))
async def test_a_claim_touches_no_more_of_a_long_queue_than_of_a_short_one(
    database: ServiceDatabase, name: str
) -> None:
    statement, parameters, backlog = _STATEMENTS[name]
    opened = Database(database.owner_url)
    try:
        touched = []
        for tasks in (2_000, 18_000):
            queue = f"busy-{tasks}"
            await fill(database.owner_url, queue, replace(backlog, tasks=tasks))
            asked = {**parameters, "queue": queue} if "queue" in parameters else parameters
            plan = await explained(opened, statement, asked)
            found = nodes(plan)
            scanned = [node["Node Type"] for node in found if node.get("Relation Name") == "task"]
            assert scanned and "Seq Scan" not in scanned, scanned
            touched.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
        # Another level of the index, and pages that the fill has left half full; not nine times as much.
        assert touched[1] < 2 * touched[0] + 100, touched
    finally:
        await opened.close()
