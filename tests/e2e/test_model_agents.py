"""Model agents: prompts go through the gateway alone, are paid for once, and call real tools."""

import asyncio
import json
import signal
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from interlock.audit.v1 import audit_service_pb2
from interlock.client import Client
from interlock.gateway.v1 import connection_service_pb2, connection_service_pb2_grpc
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2
from interlock.registry.v1 import agent_pb2, registry_service_pb2
from tests.e2e.catalogue import allow, duration, publish_agent
from tests.e2e.observing import (
    COMPLETED,
    FAILED,
    assert_ended_once,
    ended,
    entries_of,
    eventually,
    full_trail,
    outcomes,
    run,
    steps,
    submit,
)
from tests.e2e.suite import RunningSuite
from tests.e2e.works import ECHO
from tests.gateway.openai_server import OpenAiServer, Reply, completion, openai_server

KEY = f"sk-{uuid.uuid4().hex}"


@pytest.fixture
async def model() -> AsyncIterator[OpenAiServer]:
    async with openai_server() as served:
        yield served


def wants(value: Any) -> Reply:
    """The model asks for the tool."""
    return completion(calls=[(ECHO.tool, {"value": value})])


async def model_agent(suite: RunningSuite, model: OpenAiServer, **runtime: Any) -> str:
    """An agent of its own with the tool `echo`, on a connection of its own to that provider."""
    name = f"model-{uuid.uuid4().hex[:8]}"
    connection = connection_service_pb2.Connection(
        connection_id=name,
        kind=connection_service_pb2.CONNECTION_KIND_MODEL,
        base_url=model.url,
        models=[connection_service_pb2.ConnectionModel(name="small", input_price_micros=1_000_000)],
        agents=[name],
        allow_private_addresses=True,
    )
    async with suite.client("SUPER_ADMIN") as client:
        stub = connection_service_pb2_grpc.ConnectionServiceStub(client.channel("gateway"))
        await client.call(
            stub.CreateConnection, connection_service_pb2.CreateConnectionRequest(connection=connection)
        )
        await client.call(
            stub.SetConnectionCredential,
            connection_service_pb2.SetConnectionCredentialRequest(connection_id=name, credential=KEY),
        )
        fields: dict[str, Any] = {"instructions": "Echo what you get.", "connection": name, "model": "small"}
        spec = agent_pb2.AgentSpec(
            description="Echoes by way of a model.",
            capabilities=["testing"],
            tools=[agent_pb2.ToolBinding(tool=ECHO.tool)],
            llm=agent_pb2.LlmRuntime(**(fields | runtime)),
            retry=agent_pb2.RetryPolicy(max_failures=3, initial_interval=duration(0.2)),
        )
        await publish_agent(client, name, spec)
        await allow(client, name, ECHO.tool)
    return name


async def test_a_model_works_with_a_real_tool_and_everything_it_was_told_is_in_the_log(
    suite: RunningSuite, client: Client, model: OpenAiServer
) -> None:
    name = await model_agent(suite, model)
    model.replies(wants("hello"), completion("It said hello."))
    task = await run(client, name, text="hello")
    assert (task.state, task.result_json) == (COMPLETED, '"It said hello."')
    done = await steps(client, task.task_id)
    assert [(step.step_key, step.kind) for step in done] == [
        ("model-1", task_pb2.STEP_KIND_MODEL_CALL),
        (f"{ECHO.tool}-1", task_pb2.STEP_KIND_TOOL_CALL),
        ("model-2", task_pb2.STEP_KIND_MODEL_CALL),
    ]
    assert [asked.headers["authorization"] for asked in model.requests] == [f"Bearer {KEY}"] * 2
    assert {asked.json["model"] for asked in model.requests} == {"small"}
    recorded = await full_trail(client, task)
    # The prompt of the task itself, and one of each model call.
    assert len(entries_of(recorded, "PROMPT")) == 3
    assert len(entries_of(recorded, "MODEL_OUTPUT")) == 2
    assert KEY not in str(recorded)


async def test_a_model_gives_work_to_another_agent_and_waits_for_it_without_a_worker(
    suite: RunningSuite, client: Client, model: OpenAiServer
) -> None:
    name = await model_agent(suite, model, agents=[agent_pb2.AgentBinding(agent=ECHO.name)])
    published = await client.call(
        client.agents.GetAgentVersion,
        registry_service_pb2.GetAgentVersionRequest(agent=name, version="1.0.0"),
    )
    bound = published.agent_version.spec.llm.agents[0]
    assert (bound.version, bound.digest[:7]) == ("1.0.0", "sha256:")
    model.replies(
        completion(calls=[(f"ask_{ECHO.name}", {"value": "from the child"})]), completion("It answered.")
    )
    task = await run(client, name, text="ask")
    assert (task.state, task.result_json) == (COMPLETED, '"It answered."')
    assert [(step.step_key, step.kind) for step in await steps(client, task.task_id)] == [
        ("model-1", task_pb2.STEP_KIND_MODEL_CALL),
        (f"{ECHO.name}-1", task_pb2.STEP_KIND_CHILD_TASK),
        ("model-2", task_pb2.STEP_KIND_MODEL_CALL),
    ]
    await full_trail(client, task)
    request = audit_service_pb2.GetAuditTrailRequest(task_id=task.task_id, as_steps=True)
    told = (await client.call(client.audit.GetAuditTrail, request)).steps
    kinds = [
        audit_service_pb2.TrailStepKind.Name(step.kind).removeprefix("TRAIL_STEP_KIND_") for step in told
    ]
    assert [kind for kind in kinds if kind not in ("TASK", "ATTEMPT")] == [
        "MODEL_CALL",
        "CHILD_TASK",
        "MODEL_CALL",
    ]
    (child,) = [step for step in told if step.kind == audit_service_pb2.TRAIL_STEP_KIND_CHILD_TASK]
    assert (child.status, child.tool, len(child.entries)) == ("COMPLETED", ECHO.name, 2)
    assert (await client.get(child.call_id)).parent_task_id == task.task_id
    # What the child answered is what the model was told; the first call was not paid for again.
    assert len(model.requests) == 2
    assert model.requests[1].json["messages"][-1]["content"] == "from the child"


async def test_a_worker_killed_between_two_model_calls_pays_for_neither_twice(
    suite: RunningSuite, client: Client, model: OpenAiServer
) -> None:
    name = await model_agent(suite, model)
    held = asyncio.Event()
    last = completion("Once.")
    last.ready = held
    model.replies(wants("hello"), last)
    task_id = await submit(client, name, text="hello")

    async def second_call() -> bool:
        return len(model.requests) == 2

    await eventually(second_call)
    suite.send("worker", signal.SIGKILL)

    async def runs_again() -> bool:
        task = await client.get(task_id)
        return task.attempt == 2 and task.state == task_pb2.TASK_STATE_RUNNING

    await eventually(runs_again)
    held.set()
    (task,) = await ended(client, task_id)
    assert (task.state, task.result_json, outcomes(task)) == (COMPLETED, '"Once."', ["LOST", "COMPLETED"])
    assert len(model.requests) == 2
    assert task.usage == task_pb2.TaskUsage(
        model_calls=2, input_tokens=22, output_tokens=14, cost_micros=task.usage.cost_micros
    )


async def test_whoever_watches_a_task_sees_what_its_model_calls_have_used_up_so_far(
    suite: RunningSuite, client: Client, model: OpenAiServer
) -> None:
    name = await model_agent(suite, model)
    model.replies(wants("hello"), completion("It said hello.", tokens=(100, 3)))
    task = await run(client, name, text="hello")
    told = await assert_ended_once(client, task)
    totals = [
        (event.step.step_key or task_pb2.TaskState.Name(event.state), event.usage.input_tokens)
        for event in told
        if event.HasField("usage")
    ]
    # From the end of the first model call on, every event tells the sum; a tool call adds nothing.
    echo = f"{ECHO.tool}-1"
    assert totals == [
        ("model-1", 11),
        (echo, 11),
        (echo, 11),
        ("model-2", 11),
        ("model-2", 111),
        ("TASK_STATE_COMPLETED", 111),
    ]
    assert (task.usage.model_calls, task.usage.output_tokens) == (2, 10)
    # By the connection's price of a micro a token.
    assert task.usage.cost_micros == 111
    # A repeat begins at nothing: what it takes over was paid for already.
    model.replies(completion("Again."))
    repeat = messages.RetryTaskRequest(task_id=task.task_id, from_step="model-2")
    again = (await client.call(client.tasks.RetryTask, repeat)).task
    (again,) = await ended(client, again.task_id)
    assert (again.result_json, again.usage.model_calls, again.usage.input_tokens) == ('"Again."', 1, 11)


async def test_a_provider_that_is_busy_is_asked_again_when_it_said(
    suite: RunningSuite, client: Client, model: OpenAiServer
) -> None:
    name = await model_agent(suite, model)
    model.replies(Reply(status=429, body=b"{}", headers={"retry-after": "1"}), completion("Here."))
    task = await run(client, name, text="hello")
    assert (task.state, task.result_json, outcomes(task)) == (COMPLETED, '"Here."', ["FAILED", "COMPLETED"])
    assert task.attempts[0].error.error_class == "MODEL_BUSY"
    waited = task.attempts[1].start_time.ToNanoseconds() - task.attempts[0].end_time.ToNanoseconds()
    assert waited >= 1e9


async def test_a_request_that_the_provider_refuses_ends_the_task_with_its_words_and_without_the_key(
    suite: RunningSuite, client: Client, model: OpenAiServer
) -> None:
    name = await model_agent(suite, model)
    refusal = json.dumps({"error": {"message": f"bad request by {KEY}"}})
    model.replies(Reply(status=400, body=refusal.encode()))
    task = await run(client, name, text="hello")
    assert (task.state, task.error.error_class, outcomes(task)) == (FAILED, "MODEL_REFUSED", ["FAILED"])
    assert KEY not in str(task)


async def test_a_model_that_goes_beyond_its_budget_is_ended(
    suite: RunningSuite, client: Client, model: OpenAiServer
) -> None:
    name = await model_agent(suite, model, max_steps=2)
    model.replies(*(wants(number) for number in range(9)))
    task = await run(client, name, text="hello")
    assert (task.state, task.error.error_class) == (FAILED, "BUDGET_EXCEEDED")
    assert len(model.requests) == 2
