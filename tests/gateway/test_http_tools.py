"""Tools without code: one request of the gateway's, put together of arguments as data."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from interlock.registry.v1 import tool_pb2
from svc_kit.strict_json import digest
from tests.gateway.openai_server import Reply, openai_server
from tests.gateway.test_tool_requests import KEY, Peer
from tests.gateway.world import World, binding, gateway, kinds, until


def publish(world: World, **fields: Any) -> None:
    """The tool `ask`, as a request."""
    http = {"connection": "crm", "path": "/people/{id}", "query": {"q": "words"}} | fields
    spec = tool_pb2.ToolSpec(
        input_schema_json='{"type": "object"}',
        http=tool_pb2.HttpTool(**http),
        side_effect=tool_pb2.SIDE_EFFECT_AT_MOST_ONCE,
        limits=tool_pb2.ToolLimits(),
    )
    spec.limits.timeout.FromMilliseconds(500)
    version = tool_pb2.ToolVersion(
        tool="ask",
        version="1.0.0",
        digest=digest(spec.SerializeToString(deterministic=True)),
        spec=spec,
    )
    tool = tool_pb2.Tool(name="ask", latest_version="1.0.0", status=tool_pb2.STATUS_ACTIVE)
    world.registry.publish(world.tenant, version, tool)
    world.tools["ask"] = version
    world.publish_agent(binding(version))


@pytest.fixture
async def peer(closed_world: World) -> AsyncIterator[Peer]:
    publish(closed_world)
    async with openai_server() as server, gateway(closed_world) as world:
        await world.allow()
        server.replies(Reply(body=b'{"name": "Ada"}'))
        peer = Peer(world=world, server=server)
        await peer.connect(methods=["GET", "POST"])
        yield peer


async def failure(peer: Peer, **arguments: Any) -> str:
    """Class of the tool's error."""
    answer = await peer.world.execute(peer.world.permit(arguments, tool="ask"), arguments)
    assert answer.is_error
    return answer.error_class


async def test_arguments_stand_in_path_and_query_as_data_and_the_answer_is_the_result(peer: Peer) -> None:
    assert await peer.ask(id="7 & 8", words=["a b", "c=d"]) == {"status": 200, "body": {"name": "Ada"}}
    (request,) = peer.server.requests
    assert (request.method, request.path) == ("GET", "/v1/people/7%20%26%208?q=a%20b&q=c%3Dd")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert peer.world.runs == 0, "there is no code"


async def test_the_other_arguments_are_the_body_where_the_tool_says_so(closed_world: World) -> None:
    publish(closed_world, method="POST", path="/people/{id}/notes", query={}, body=True)
    async with openai_server() as server, gateway(closed_world) as world:
        await world.allow()
        server.replies(Reply(status=201, body=b"created", headers={"content-type": "text/plain"}))
        peer = Peer(world=world, server=server)
        await peer.connect(methods=["POST"])
        assert await peer.ask(id=7, text="x", tags=[1]) == {"status": 201, "body": "created"}
        assert server.requests[0].json == {"tags": [1], "text": "x"}
        # Sent and not answered: a person is asked whether it had its effect.
        server.replies(Reply(body=b"x", ready=asyncio.Event()))
        arguments = {"id": 7}
        assert await world.reason(world.permit(arguments, tool="ask"), arguments) == "OUTCOME_UNKNOWN"


async def test_no_argument_leads_to_another_place(peer: Peer) -> None:
    for value in ("..", ".", "a/b", "a\\b", "%2e%2e", "a\nb", "", None):
        assert await failure(peer, id=value) == "INVALID_FIELDS", value
    assert peer.server.requests == []


async def test_what_the_other_side_refuses_is_an_error_of_the_tool_with_its_words(peer: Peer) -> None:
    peer.server.replies(Reply(status=404, body=f"no such person {KEY}".encode()))
    arguments = {"id": "7"}
    answer = await peer.world.execute(peer.world.permit(arguments, tool="ask"), arguments)
    assert (answer.error_class, answer.error_message) == ("HTTP_404", "no such person [redacted]")


async def test_an_answer_that_is_no_json_in_truth_is_a_text(peer: Peer) -> None:
    for body in ("[" * 10_000, '{"n": 1e999}', '{"a": 1, "a": 2}', "9" * 10_000, "NaN"):
        peer.server.replies(Reply(body=body.encode()))
        assert await peer.ask(id="7") == {"status": 200, "body": body}


async def test_a_read_that_is_not_answered_in_time_is_ended(peer: Peer) -> None:
    peer.server.replies(Reply(body=b"x", ready=asyncio.Event()))
    arguments = {"id": "7"}
    permit = peer.world.permit(arguments, tool="ask")
    assert await peer.world.reason(permit, arguments) == "TOOL_TIMEOUT"
    await until(lambda: peer.server.gone == 1)


async def test_it_is_in_the_log_like_any_call(peer: Peer) -> None:
    arguments = {"id": "7"}
    permit = peer.world.permit(arguments, tool="ask")
    await peer.world.execute(permit, arguments)
    told = await peer.world.told(permit, 4)
    assert kinds(told) == [
        ("TOOL_CALL", "RUNNING", ""),
        ("REQUEST", "SENT", ""),
        ("REQUEST", "ANSWERED", ""),
        ("TOOL_RESULT", "COMPLETED", ""),
    ]


async def test_a_version_that_the_connection_does_not_list_sends_nothing(peer: Peer) -> None:
    publish(peer.world, path="/everyone")
    arguments = {"id": "7"}

    async def refused() -> bool:
        return await peer.world.reason(peer.world.permit(arguments, tool="ask"), arguments) == (
            "CONNECTION_NOT_BOUND"
        )

    await until(refused)
    assert [each.path for each in peer.server.requests if "everyone" in each.path] == []
