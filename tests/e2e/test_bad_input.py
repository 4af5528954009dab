"""Bad input over the wire: the field is named, and nothing is stored."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from interlock.client import Client
from interlock.common.remote_error import RemoteError
from interlock.orchestrator.v1 import orchestrator_service_pb2, orchestrator_service_pb2_grpc
from tests.e2e.suite import RunningSuite
from tests.e2e.works import ECHO, STRICT

Stub: TypeAlias = "orchestrator_service_pb2_grpc.OrchestratorServiceAsyncStub"
_MANY = 300 * 1024


@pytest.fixture
async def stub(suite: RunningSuite) -> AsyncIterator[Stub]:
    async with suite.channel("orchestrator", suite.token("DEVELOPER")) as channel:
        yield orchestrator_service_pb2_grpc.OrchestratorServiceStub(channel)


@pytest.fixture(autouse=True)
async def nothing_is_stored(client: Client) -> AsyncIterator[None]:
    """There are as many tasks after the test as before it."""
    before = await task_ids(client)
    yield
    assert await task_ids(client) == before


async def task_ids(client: Client) -> list[str]:
    found: list[str] = []
    token = ""
    while True:
        request = orchestrator_service_pb2.ListTasksRequest(page_size=1000, page_token=token)
        page = await client.call(client.tasks.ListTasks, request)
        found += [task.task_id for task in page.tasks]
        token = page.next_page_token
        if not token:
            return found


async def refused(stub: Stub, **fields: Any) -> RemoteError:
    """What a submit is answered."""
    request = orchestrator_service_pb2.SubmitTaskRequest(**{"agent": ECHO.name, "input_json": "{}", **fields})
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.SubmitTask(request)
    return RemoteError.of(error.value)


def struct(**values: Any) -> Struct:
    """A Struct of these values."""
    message = Struct()
    message.update(values)
    return message


def nested(depth: int) -> str:
    """JSON text so deep."""
    return '{"value":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        pytest.param("agent", {"agent": ""}, id="no agent"),
        pytest.param("agent", {"agent": "No Such Name!"}, id="no name of an agent"),
        pytest.param("agent_version", {"agent_version": "one\n"}, id="no version"),
        pytest.param("task_type", {"task_type": "a type"}, id="space in the type"),
        pytest.param("task_type", {"task_type": "t" * 65}, id="long type"),
        pytest.param("input_json", {"input_json": ""}, id="empty text"),
        pytest.param("input_json", {"input_json": "{"}, id="unfinished"),
        pytest.param("input_json", {"input_json": "[1]"}, id="a list"),
        pytest.param("input_json", {"input_json": "null"}, id="null"),
        pytest.param("input_json", {"input_json": '{"value": NaN}'}, id="NaN"),
        pytest.param("input_json", {"input_json": '{"value": -Infinity}'}, id="infinity"),
        pytest.param("input_json", {"input_json": '{"value": 1e999}'}, id="beyond a float"),
        pytest.param("input_json", {"input_json": '{"value": 1, "value": 2}'}, id="duplicate key"),
        pytest.param("input_json", {"input_json": '{"a": {"b": 1, "b": 1}}'}, id="duplicate key below"),
        pytest.param("input_json", {"input_json": '{"value": "a\\u0000b"}'}, id="escaped NUL"),
        pytest.param("input_json", {"input_json": '{"value": "a\0b"}'}, id="NUL"),
        pytest.param("input_json", {"input_json": '{"value": "\\ud800"}'}, id="half a character"),
        pytest.param("input_json", {"input_json": nested(65)}, id="deep"),
        pytest.param("input_json", {"input_json": json.dumps({"value": "x" * _MANY})}, id="large"),
        pytest.param("input", {"input": struct(value=float("nan"))}, id="NaN in a Struct"),
        pytest.param("input", {"input": struct(value="a\0b")}, id="NUL in a Struct"),
        pytest.param("input", {"input": struct(value="x" * _MANY)}, id="large Struct"),
        pytest.param("request_id", {"request_id": "not-a-uuid"}, id="request id"),
        pytest.param("labels", {"labels": {"Bad Key": "v"}}, id="label key"),
        pytest.param("labels.k", {"labels": {"k": "v" * 256}}, id="long label"),
        pytest.param("labels", {"labels": {f"k{n}": "v" for n in range(33)}}, id="many labels"),
    ],
)
async def test_a_bad_field_is_named(stub: Stub, field: str, fields: dict[str, Any]) -> None:
    if "input" in fields:
        fields = {"input_json": None, **fields}
    error = await refused(stub, **fields)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert [violation.field for violation in error.violations] == [field]
    assert error.violations[0].message


async def test_an_input_is_required(stub: Stub) -> None:
    error = await refused(stub, input_json=None)
    assert [violation.field for violation in error.violations] == ["input"]


async def test_all_bad_fields_are_named_at_once(stub: Stub) -> None:
    error = await refused(stub, agent="", input_json='{"n": NaN}', request_id="7", task_type="a b")
    assert {violation.field for violation in error.violations} == {
        "agent",
        "input_json",
        "request_id",
        "task_type",
    }


async def test_an_input_that_its_agents_schema_forbids_is_refused_with_every_violation(stub: Stub) -> None:
    error = await refused(stub, agent=STRICT.name, input_json='{"rows": "many", "extra": 1}')
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert {violation.field for violation in error.violations} == {"input_json"}
    said = " ".join(violation.message for violation in error.violations)
    assert len(error.violations) == 3
    for word in ("rows", "extra", "name"):
        assert word in said


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"agent": "nobody-knows-me"}, "AGENT_NOT_FOUND"),
        ({"agent_version": "9.9.9"}, "AGENT_VERSION_NOT_FOUND"),
    ],
)
async def test_an_unknown_agent_is_not_found(stub: Stub, fields: dict[str, str], reason: str) -> None:
    error = await refused(stub, **fields)
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, reason)
    assert set(fields.values()) <= set(error.metadata.values())


async def test_a_message_beyond_the_limit_is_refused_without_being_read(stub: Stub) -> None:
    error = await refused(stub, input_json="x" * (6 * 2**20))
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour = 'red'", "colour"),
        ('state = "ASLEEP"', "state"),
        ("state >", "filter"),
        ('create_time > "yesterday"', "create_time"),
        ('agent = "a" OR agent = "b"', "OR"),
    ],
)
async def test_a_filter_that_is_none_is_refused(stub: Stub, text: str, said: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await stub.ListTasks(orchestrator_service_pb2.ListTasksRequest(filter=text))
    error = RemoteError.of(refusal.value)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FILTER_INVALID")
    assert [violation.field for violation in error.violations] == ["filter"]
    assert said in f"{error.message} {error.violations[0].message}"


async def test_an_unknown_field_of_a_filter_is_answered_with_those_there_are(stub: Stub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await stub.ListTasks(orchestrator_service_pb2.ListTasksRequest(filter='colour = "red"'))
    error = RemoteError.of(refusal.value)
    assert error.metadata["field"] == "colour"
    allowed = error.metadata["allowed"].replace(",", " ").split()
    assert {"agent", "state", "task_type", "create_time"} <= set(allowed)


@pytest.mark.parametrize("token", ["rubbish", "a" * 5000, "WyJhIl0"])
async def test_a_page_token_that_is_none_is_refused(stub: Stub, token: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await stub.ListTasks(orchestrator_service_pb2.ListTasksRequest(page_token=token))
    error = RemoteError.of(refusal.value)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")
    assert [violation.field for violation in error.violations] == ["page_token"]


@pytest.mark.parametrize("task_id", ["", "7", "0190-not-a-uuid", "{0190b1d2-0000-7000-8000-000000000000}"])
async def test_a_task_id_that_is_none_is_refused(stub: Stub, task_id: str) -> None:
    calls: list[tuple[Callable[[Any], Awaitable[Any]], Any]] = [
        (stub.GetTask, orchestrator_service_pb2.GetTaskRequest(task_id=task_id)),
        (stub.CancelTask, orchestrator_service_pb2.CancelTaskRequest(task_id=task_id)),
        (stub.RetryTask, orchestrator_service_pb2.RetryTaskRequest(task_id=task_id)),
        (stub.ListTaskSteps, orchestrator_service_pb2.ListTaskStepsRequest(task_id=task_id)),
    ]
    for method, request in calls:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await method(request)
        error = RemoteError.of(refusal.value)
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
        assert [violation.field for violation in error.violations] == ["task_id"]


async def test_bytes_that_are_no_message_are_refused(suite: RunningSuite) -> None:
    async with suite.channel("orchestrator", suite.token("DEVELOPER")) as channel:
        submit: Any = channel.unary_unary("/interlock.orchestrator.v1.OrchestratorService/SubmitTask")
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await submit(b"\xff\xff\xff\xff")
    error = RemoteError.of(refusal.value)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")


async def test_validation_alone_stores_nothing(stub: Stub) -> None:
    request = orchestrator_service_pb2.SubmitTaskRequest(
        agent=ECHO.name, input_json='{"value": 1}', validate_only=True
    )
    answer = await stub.SubmitTask(request)
    assert (answer.task.task_id, answer.task.agent_version) == ("", "1.0.0")
