"""`interlock queues`, `workers`, `explain` and the options of `submit`, against a real orchestrator."""

import asyncio
from typing import Any

from svc_kit.identity import Role
from tests.command_line import document, error_of, interlock
from tests.orchestrator.peers import AGENT, TENANT
from tests.orchestrator.world import World


async def test_queues_and_workers_are_run_from_the_command_line(world: World) -> None:
    settings = {
        "INTERLOCK_TOKEN": world.issuer.mint("op", TENANT, [Role.ADMIN], 600),
        "INTERLOCK_ORCHESTRATOR_ADDRESS": world.addresses.public,
    }

    async def done(*arguments: str) -> Any:
        run = await asyncio.to_thread(interlock, *arguments, "-o", "json", **settings)
        return document(run)

    made = await done("queues", "create", "nightly", "--max-running", "2", "--rate", "100/60")
    assert made["rate_limit"] == {"count": 100, "period": "60s", "burst": 100}
    changed = await done("queues", "update", "nightly", "--max-waiting", "1", "--rate", "none")
    assert changed["max_running"] == 2 and changed["max_waiting"] == 1 and "rate_limit" not in changed
    assert (await done("queues", "pause", "nightly"))["paused"]
    options = ("--queue", "nightly", "--priority", "7", "--concurrency-key", "k", "--strategy", "reject")
    task = await done("submit", AGENT, '{"path": "a.csv"}', *options)
    assert (task["queue"], task["priority"], task["concurrency_key"]) == ("nightly", 7, "k")
    full = await asyncio.to_thread(
        interlock, "submit", AGENT, '{"path": "a"}', "--queue", "nightly", "-o", "json", **settings
    )
    assert error_of(full)["reason"] == "QUEUE_FULL"
    explained = await done("explain", task["task_id"])
    assert explained["blockers"][0]["kind"] == "BLOCKER_KIND_QUEUE_PAUSED"
    assert (await done("queues", "get", "nightly"))["stats"]["waiting"] == 1
    assert not (await done("queues", "resume", "nightly"))["paused"]
    assert await done("queues", "purge", "nightly", "--yes") == {"purged": 1}
    await done("queues", "delete", "nightly")
    assert [queue["name"] for queue in await done("queues", "list")] == ["default"]
    async with world.worker().session() as session:
        assert [each["state"] for each in await done("workers")] == ["WORKER_STATE_ACTIVE"]
        drained = await done("workers", "drain", session.session_id)
        assert drained["state"] == "WORKER_STATE_DRAINED"
        assert (await done("workers", "resume", session.session_id))["state"] == "WORKER_STATE_ACTIVE"
        shown = await asyncio.to_thread(interlock, "workers", **settings)
        assert session.session_id in shown.stdout and "ACTIVE" in shown.stdout
    shown = await asyncio.to_thread(interlock, "explain", task["task_id"], **settings)
    assert "CANCELED" in shown.stdout and "it has ended" in shown.stdout
