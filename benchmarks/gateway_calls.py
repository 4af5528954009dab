"""Calls through a running suite's gateway: a tool and a model, one at a time and many at once."""

import asyncio
import json
import time
from functools import partial

import httpx

from benchmarks import tasks
from benchmarks.audit_append import appending
from benchmarks.floors import raw_insert, timed
from benchmarks.model_endpoint import MODEL, model_endpoint
from benchmarks.permitted import Step, Working, in_place_of_the_worker
from benchmarks.report import Row, milliseconds, percentile
from benchmarks.sandboxes import completed, filled, nothing_program
from benchmarks.suite import Running, running_suite
from interlock.gateway.v1 import connection_service_pb2, gateway_service_pb2
from interlock.orchestrator.v1 import task_pb2
from interlock_sandbox import Sandbox

_TOOL, _CONNECTION = "bench_nothing", "bench-model"
_SPARES = 4
_WARM_UP = 20
_IN_FLIGHT = 32
_TOOL_CALL, _MODEL_CALL = task_pb2.STEP_KIND_TOOL_CALL, task_pb2.STEP_KIND_MODEL_CALL
_ASKED = {"messages": [{"role": "user", "content": "Say hello."}]}


async def measure(calls: int = 200, together: int = 640) -> list[Row]:
    """Every figure that needs a suite."""
    async with running_suite() as suite:
        await tasks.prepare(suite)
        with model_endpoint() as url:
            await _connect(suite, url)
            async with suite.client("DEVELOPER") as client, in_place_of_the_worker(suite) as working:
                await tasks.submit(client, 0, "bench")
                attempt = await working.attempt()
                # A permit does not live long: the steps begin just before they are measured.
                some, many = _inputs(_WARM_UP + calls), _inputs(together)
                steps = await working.steps(attempt, _TOOL, some, kind=_TOOL_CALL)
                rows = await _one_by_one(suite, working, steps)
                steps = await working.steps(attempt, _TOOL, many, kind=_TOOL_CALL)
                rows += await _together(suite, working, steps)
                await tasks.submit(client, 0, "bench-model")
                attempt = await working.attempt()
                asked = [json.dumps(_ASKED)] * (_WARM_UP + calls)
                steps = await working.steps(attempt, _CONNECTION, asked, kind=_MODEL_CALL)
                return rows + await _model(suite, working, steps, url)


def _inputs(count: int) -> list[str]:
    return [json.dumps({"n": number}) for number in range(count)]


async def _connect(suite: Running, url: str) -> None:
    connection = connection_service_pb2.Connection(
        connection_id=_CONNECTION,
        kind=connection_service_pb2.CONNECTION_KIND_MODEL,
        base_url=url,
        models=[connection_service_pb2.ConnectionModel(name=MODEL)],
        agents=["bench-model"],
        allow_private_addresses=True,
    )
    async with suite.client("ADMIN") as client:
        await client.call(
            client.connections.CreateConnection,
            connection_service_pb2.CreateConnectionRequest(connection=connection),
        )


async def _execute(working: Working, step: Step) -> None:
    answer = await working.gateway.ExecuteTool(step.tool_call)
    if answer.is_error or answer.replayed:
        raise RuntimeError(f"a call of the tool that does nothing answered {answer}")


async def _one_by_one(suite: Running, working: Working, steps: list[Step]) -> list[Row]:
    """One caller; each floor is taken between two calls, so that all see the same machine."""
    calls, rpcs, inserts, appends, runs = [], [], [], [], []

    async def empty() -> None:
        await working.gateway.GetPublicKeys(gateway_service_pb2.GetPublicKeysRequest())

    async with (
        raw_insert(suite.admin_url) as insert,
        appending(suite) as append,
        Sandbox(spares=_SPARES) as sandbox,
    ):

        async def run() -> None:
            completed(await sandbox.run(nothing_program()))

        for step in steps[:_WARM_UP]:
            for each in (partial(_execute, working, step), empty, insert, append, run):
                await each()
        for step in steps[_WARM_UP:]:
            await filled(sandbox, _SPARES)
            calls.append(await timed(partial(_execute, working, step)))
            rpcs.append(await timed(empty))
            inserts.append(await timed(insert))
            appends.append(await timed(append))
            runs.append(await timed(run))
    rpc, commit, appended, ran = map(milliseconds, (rpcs, inserts, appends, runs))
    # The row of the call that begins, and that of its outcome.
    floor = rpc + 2 * commit + appended + ran
    note = (
        f"floor: empty RPC {rpc:.2f} + 2 raw INSERTs of {commit:.2f} + Append {appended:.2f}"
        f" + sandbox {ran:.2f}"
    )
    return [
        Row(
            what="ExecuteTool p50", load="idle", value=milliseconds(calls), unit="ms", floor=floor, note=note
        ),
        Row(what="ExecuteTool p99", load="idle", value=percentile(calls, 0.99) * 1000, unit="ms"),
    ]


async def _model(suite: Running, working: Working, steps: list[Step], url: str) -> list[Row]:
    """What the gateway adds to asking the provider oneself."""
    calls, direct, rpcs, inserts, appends = [], [], [], [], []

    async def empty() -> None:
        await working.gateway.GetPublicKeys(gateway_service_pb2.GetPublicKeysRequest())

    async def call(step: Step) -> None:
        await working.gateway.CallModel(step.model_call)

    async with (
        httpx.AsyncClient(trust_env=False) as http,
        raw_insert(suite.admin_url) as insert,
        appending(suite) as append,
    ):

        async def ask() -> None:
            (await http.post(f"{url}/chat/completions", json={"model": MODEL, **_ASKED})).raise_for_status()

        for step in steps[:_WARM_UP]:
            for each in (partial(call, step), ask, empty, insert, append):
                await each()
        for step in steps[_WARM_UP:]:
            calls.append(await timed(partial(call, step)))
            direct.append(await timed(ask))
            rpcs.append(await timed(empty))
            inserts.append(await timed(insert))
            appends.append(await timed(append))
    asked, rpc, commit, appended = map(milliseconds, (direct, rpcs, inserts, appends))
    note = (
        f"floor: empty RPC {rpc:.2f} + 2 raw INSERTs of {commit:.2f} + Append {appended:.2f}"
        f"; the provider alone {asked:.2f}"
    )
    return [
        Row(
            what="CallModel, beyond the provider's own time p50",
            load="idle",
            value=milliseconds(calls) - asked,
            unit="ms",
            floor=rpc + 2 * commit + appended,
            note=note,
        )
    ]


async def _together(suite: Running, working: Working, steps: list[Step]) -> list[Row]:
    """32 callers at a time, with the processor time that each process needs for one call."""
    count = len(steps)
    async with Sandbox(spares=_SPARES, max_concurrent=_IN_FLIGHT) as sandbox:
        await filled(sandbox, _SPARES)
        runs = (partial(sandbox.run, nothing_program()) for _ in range(count))
        floor = await tasks.side_by_side(_IN_FLIGHT, runs)
    await asyncio.sleep(1)  # what the sandbox leaves to be cleared away is not the gateway's
    before, own = suite.cpu_seconds(), suite.own_cpu_seconds("gateway")
    client = time.process_time()
    seconds = await tasks.side_by_side(_IN_FLIGHT, (partial(_execute, working, step) for step in steps))
    after = suite.cpu_seconds()
    used = {name: (after[name] - before[name]) * 1000 / count for name in sorted(after)}
    gateway = (suite.own_cpu_seconds("gateway") - own) * 1000 / count
    used["sandboxes"] = used.pop("gateway") - gateway
    used |= {"gateway": gateway, "caller": (time.process_time() - client) * 1000 / count}
    note = ", ".join(f"{name} {value:.1f}" for name, value in used.items() if value >= 0.05)
    return [
        Row(
            what=f"ExecuteTool, {_IN_FLIGHT} in flight",
            load="saturated",
            value=count / seconds,
            unit="calls/s",
            floor=count / floor,
            note="floor: the sandbox alone",
        ),
        Row(
            what="ExecuteTool: CPU of a call",
            load="saturated",
            value=sum(used.values()),
            unit="ms",
            note=note,
        ),
    ]
