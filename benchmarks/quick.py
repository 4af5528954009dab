"""The quick set: submit latency, submit to RUNNING at a watcher, and a thousand tasks end to end."""

import asyncio
import json
import time

from benchmarks.floors import empty_rpc, raw_insert, timed
from benchmarks.report import Row, milliseconds, percentile
from benchmarks.suite import Running, manifest, running_suite
from interlock.cli.manifest import read_manifest
from interlock.cli.policies import policy_text
from interlock.cli.publishing import publish
from interlock.client.client import Client
from interlock.gateway.v1 import policy_service_pb2
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2

_WARM_UP = 50
_SUBMITS = 300
_WATCHED = 100
_TASKS = 1000
_IN_FLIGHT = 32
_END_SECONDS = 180.0


async def measure() -> list[Row]:
    """Every figure of the set."""
    async with running_suite() as suite:
        await _prepare(suite)
        async with suite.client("DEVELOPER") as client:
            for number in range(_WARM_UP):
                await client.wait(await _submit(client, number))
            return [
                *await _submit_latency(suite, client),
                *await _running_latency(client),
                *await _end_to_end(suite, client),
            ]


async def _prepare(suite: Running) -> None:
    async with suite.client("SUPER_ADMIN") as client:
        described = read_manifest(manifest("bench.toml"))
        async for _ in publish(client, described, with_agents=True, dry_run=False):
            pass
        policy = policy_service_pb2.Policy(policy_id="bench", cedar=policy_text("bench", "bench_nothing", ""))
        await client.call(client.policies.CreatePolicy, policy_service_pb2.CreatePolicyRequest(policy=policy))


async def _submit(client: Client, number: int) -> str:
    return (await client.submit("bench", json.dumps({"n": number}))).task_id


async def _submit_latency(suite: Running, client: Client) -> list[Row]:
    """One client, one call at a time, interleaved with its floors so that all see the same machine.

    A task is waited for before the next round: what is measured is an idle suite.
    """
    submits, inserts, rpcs = [], [], []
    async with raw_insert(suite.admin_url) as insert, empty_rpc() as rpc:
        for _ in range(_WARM_UP):
            await insert()
            await rpc()
        for number in range(_SUBMITS):
            start = time.perf_counter()
            task_id = await _submit(client, number)
            submits.append(time.perf_counter() - start)
            await client.wait(task_id)
            inserts.append(await timed(insert))
            rpcs.append(await timed(rpc))
    floor = milliseconds(inserts) + milliseconds(rpcs)
    note = f"floor: raw INSERT {milliseconds(inserts):.2f} + empty RPC {milliseconds(rpcs):.2f}"
    return [
        Row(
            what="SubmitTask p50", load="idle", value=milliseconds(submits), unit="ms", floor=floor, note=note
        ),
        Row(what="SubmitTask p99", load="idle", value=percentile(submits, 0.99) * 1000, unit="ms"),
    ]


async def _running_latency(client: Client) -> list[Row]:
    """From before the submit until a watcher, which comes with the answer, has heard of RUNNING."""
    running, ended = [], []
    for number in range(_WATCHED):
        start = time.perf_counter()
        task_id = await _submit(client, number)
        heard = None
        async for update in client.watch(task_id):
            state = update.snapshot.state or update.event.state
            if heard is None and state != task_pb2.TASK_STATE_SUBMITTED:
                heard = time.perf_counter() - start
        running.append(heard or 0.0)
        ended.append(time.perf_counter() - start)
    return [
        Row(what="submit to RUNNING p50", load="idle", value=milliseconds(running), unit="ms"),
        Row(what="submit to RUNNING p99", load="idle", value=percentile(running, 0.99) * 1000, unit="ms"),
        Row(what="one-tool plan to its end p50", load="idle", value=milliseconds(ended), unit="ms"),
    ]


async def _end_to_end(suite: Running, client: Client) -> list[Row]:
    """A thousand one-tool plans from 32 submitters; the last one's end is found by counting."""
    before = suite.cpu_seconds()
    start = time.perf_counter()
    numbers = iter(range(_TASKS))
    task_ids: list[str] = []

    async def submitter() -> None:
        for number in numbers:
            task_ids.append(await _submit(client, number))

    await asyncio.gather(*(submitter() for _ in range(_IN_FLIGHT)))
    submitted = time.perf_counter() - start
    async with asyncio.timeout(_END_SECONDS):
        states = await _final_states(client, task_ids)
    seconds = time.perf_counter() - start
    after = suite.cpu_seconds()
    completed = sum(state == task_pb2.TASK_STATE_COMPLETED for state in states)
    used = {name: (after[name] - before.get(name, 0.0)) * 1000 / _TASKS for name in sorted(after)}
    return [
        Row(what="submits while tasks run", load="saturated", value=_TASKS / submitted, unit="tasks/s"),
        Row(what="one-tool plans end to end", load="saturated", value=_TASKS / seconds, unit="tasks/s"),
        Row(what="completed", load="saturated", value=100 * completed / _TASKS, unit="%"),
        *(
            Row(what=f"CPU {name}", load="saturated", value=milliseconds_used, unit="ms/task")
            for name, milliseconds_used in used.items()
        ),
    ]


async def _final_states(client: Client, task_ids: list[str]) -> list[int]:
    states = []
    for task_id in task_ids:
        while True:
            request = messages.GetTaskRequest(task_id=task_id)
            state = (await client.call(client.tasks.GetTask, request)).task.state
            if state in (
                task_pb2.TASK_STATE_COMPLETED,
                task_pb2.TASK_STATE_FAILED,
                task_pb2.TASK_STATE_CANCELED,
            ):
                states.append(state)
                break
            await asyncio.sleep(0.05)
    return states
