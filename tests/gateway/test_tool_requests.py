"""Requests of tools: sent by the gateway alone, where tool version and connection both allow it."""

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from gateway_svc.audit_log import AuditLog, NotRecordedError
from gateway_svc.names import Names
from gateway_svc.outgoing_http import OutgoingHttp
from interlock.gateway.v1 import connection_service_pb2 as messages
from interlock.gateway.v1 import connection_service_pb2_grpc
from svc_kit.identity import Role
from tests.gateway.openai_server import OpenAiServer, Reply, openai_server
from tests.gateway.world import World, gateway, kinds, payload

KEY = f"key-{uuid.uuid4().hex}"
# What the tool was told, or how it was refused.
SOURCE = """
from interlock_tool import FetchError, fetch

def run(**request):
    try:
        answer = fetch(request.pop("connection", "crm"), **request)
    except FetchError as error:
        return {"refused": error.reason, "message": str(error)}
    return {"status": answer.status, "headers": answer.headers, "text": answer.text}
"""


@dataclass(kw_only=True)
class Peer:
    """A gateway with one tool `ask`, and the server behind connection `crm`."""

    world: World
    server: OpenAiServer

    async def connect(self, connection_id: str = "crm", *, credential: str = KEY, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "kind": messages.CONNECTION_KIND_HTTP,
            "base_url": self.server.url,
            "tool_digests": [self.world.tools["ask"].digest],
            "allow_private_addresses": True,
        }
        stub = connection_service_pb2_grpc.ConnectionServiceStub(self.world.public)
        connection = messages.Connection(connection_id=connection_id, **(fields | changes))
        metadata = self.world.token(Role.ADMIN)
        await stub.CreateConnection(
            messages.CreateConnectionRequest(connection=connection), metadata=metadata
        )
        if credential:
            request = messages.SetConnectionCredentialRequest(
                connection_id=connection_id, credential=credential
            )
            await stub.SetConnectionCredential(request, metadata=metadata)

    async def ask(self, **request: Any) -> Any:
        """What the tool returns."""
        permit = self.world.permit(request, tool="ask")
        return json.loads((await self.world.execute(permit, request)).result_json)


@pytest.fixture
async def peer(closed_world: World) -> AsyncIterator[Peer]:
    closed_world.publish_tool("ask", SOURCE, connections=["crm"])
    async with openai_server() as server, gateway(closed_world) as world:
        await world.allow()
        server.replies(Reply(body=b'{"name": "Ada"}'))
        yield Peer(world=world, server=server)


@pytest.fixture
async def connected(peer: Peer) -> Peer:
    await peer.connect(methods=["GET", "POST"])
    return peer


async def test_a_request_goes_out_with_the_credential_and_comes_back_without_it(connected: Peer) -> None:
    encoded = base64.b64encode(KEY.encode()).decode()
    connected.server.replies(
        Reply(
            body=json.dumps({"name": "Ada", "echo": KEY, "encoded": encoded}).encode(),
            headers={"set-cookie": "a=b", "etag": f'"{KEY}"', "x-internal": "yes"},
        )
    )
    answer = await connected.ask(
        path="/people/7", query={"q": "a b&c", "n": [1, 2]}, headers={"Accept": "application/json"}
    )
    (request,) = connected.server.requests
    assert (request.method, request.path) == ("GET", "/v1/people/7?n=1&n=2&q=a%20b%26c")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["host"] == f"127.0.0.1:{connected.server.port}"
    assert (answer["status"], json.loads(answer["text"])["name"]) == (200, "Ada")
    assert KEY not in str(answer)
    assert encoded not in str(answer)
    assert "set-cookie" not in answer["headers"]
    assert "x-internal" not in answer["headers"]


async def test_each_request_is_in_the_log_before_it_is_sent_and_so_is_what_became_of_it(
    connected: Peer,
) -> None:
    request = {"path": "/people", "method": "POST", "json_body": {"name": "Ada"}}
    permit = connected.world.permit(request, tool="ask")
    connected.server.replies(Reply(status=201, body=b"{}"))
    await connected.world.execute(permit, request)
    told = await connected.world.told(permit, 4)
    assert kinds(told) == [
        ("TOOL_CALL", "RUNNING", ""),
        ("REQUEST", "SENT", ""),
        ("REQUEST", "ANSWERED", ""),
        ("TOOL_RESULT", "COMPLETED", ""),
    ]
    sent, answered = told[1:3]
    assert {name: sent.attributes[name] for name in ("connection", "method", "target")} == {
        "connection": "crm",
        "method": "POST",
        "target": "/people",
    }
    assert base64.b64decode(payload(sent)["body"]) == b'{"name":"Ada"}'
    assert answered.attributes["http_status"] == "201"
    assert KEY not in str(told)


async def test_all_that_a_request_carries_is_in_the_log_also_what_is_long_or_in_a_header(
    connected: Peer,
) -> None:
    request = {"path": "/x", "query": {"q": "y" * 1000}, "headers": {"prefer": "z"}}
    permit = connected.world.permit(request, tool="ask")
    await connected.world.execute(permit, request)
    sent = next(each for each in await connected.world.told(permit, 4) if each.status == "SENT")
    (received,) = connected.server.requests
    assert f"/v1{payload(sent)['target']}" == received.path
    assert payload(sent)["headers"] == {"prefer": "z"}


async def test_what_the_log_does_not_hold_is_not_sent(
    connected: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = AuditLog.append

    async def only_calls(self: AuditLog, event: Any) -> int:
        if "target" in event.attributes:
            raise NotRecordedError
        return await append(self, event)

    monkeypatch.setattr(AuditLog, "append", only_calls)
    assert (await connected.ask(path="/x"))["refused"] == "AUDIT_UNAVAILABLE"
    assert connected.server.requests == []


async def test_both_sides_must_agree_and_the_tool_does_not_learn_which_did_not(peer: Peer) -> None:
    await peer.connect()
    await peer.connect("theirs")  # lists the tool, which does not name it
    said = await peer.ask(connection="theirs", path="/x")
    assert said["refused"] == (await peer.ask(connection="nobody", path="/x"))["refused"]
    assert said["refused"] == "CONNECTION_NOT_BOUND"
    assert peer.server.requests == []


async def test_a_tool_that_its_connection_does_not_list_does_not_even_start(peer: Peer) -> None:
    await peer.connect(tool_digests=[f"sha256:{'0' * 64}"])
    request = {"path": "/x"}
    assert await peer.world.reason(peer.world.permit(request, tool="ask"), request) == "CONNECTION_NOT_BOUND"
    assert peer.world.runs == 0


async def test_a_connection_of_another_tenant_is_nobodys(peer: Peer) -> None:
    await peer.connect()
    await peer.world.sql(
        "UPDATE connection SET tenant = 'somebody-else' WHERE tenant = :tenant RETURNING 1",
        tenant=peer.world.tenant,
    )
    request = {"path": "/x"}
    assert await peer.world.reason(peer.world.permit(request, tool="ask"), request) == "CONNECTION_NOT_BOUND"


async def test_methods_beyond_reading_have_to_be_allowed(peer: Peer) -> None:
    await peer.connect()
    assert (await peer.ask(path="/x", method="DELETE"))["refused"] == "METHOD_FORBIDDEN"
    assert (await peer.ask(path="/x", method="HEAD"))["status"] == 200
    assert [each.method for each in peer.server.requests] == ["HEAD"]


AMBIGUOUS: list[dict[str, Any]] = [
    {"path": "//evil.example/x", "connection": "crm\r\nHost: evil"},
    {"path": "/../admin"},
    {"path": "/a/%2e%2e/admin"},
    {"path": "/..;/admin"},
    {"path": "/a/.%2e;v=1/admin"},
    {"path": "/a%2fb"},
    {"path": "/a%5Cb"},
    {"path": "/a%00b"},
    {"path": "/a%252e"},
    {"path": "x"},
    {"path": "/a\r\nX-Evil: 1"},
    {"path": "/a?admin=1"},
    {"path": "/a#b"},
    {"path": "/a\\b"},
    {"path": "/ä"},
    {"path": "@evil.example/"},
    {"path": "/x", "method": "CONNECT"},
    {"path": "/x", "method": "get"},
    {"path": "/x", "headers": {"Host": "evil.example"}},
    {"path": "/x", "headers": {"Authorization": "Bearer mine"}},
    {"path": "/x", "headers": {"X-Forwarded-For": "127.0.0.1"}},
    {"path": "/x", "headers": {"Transfer-Encoding": "chunked"}},
    {"path": "/x", "headers": {"accept": "a\r\nX-Evil: 1"}},
    {"path": "/x", "body": "of a GET"},
    {"path": "/" + "x" * 5000},
]


async def test_a_request_that_could_be_read_in_two_ways_is_not_sent(connected: Peer) -> None:
    for request in AMBIGUOUS:
        said = await connected.ask(**request)
        assert said["refused"] in ("INVALID_FIELDS", "CONNECTION_NOT_BOUND"), request
    assert connected.server.requests == []


async def test_redirects_are_shown_and_not_followed(connected: Peer) -> None:
    connected.server.replies(Reply(status=302, headers={"location": "http://169.254.169.254/"}))
    answer = await connected.ask(path="/x")
    assert (answer["status"], answer["headers"]["location"]) == (302, "http://169.254.169.254/")
    assert len(connected.server.requests) == 1


async def test_an_answer_that_is_too_large_packed_or_broken_off_is_withheld(connected: Peer) -> None:
    for reply, reason in (
        (Reply(body=b"x" * 300_000), "LIMIT_EXCEEDED"),
        (Reply(body=b"x", headers={"content-encoding": "gzip"}), "OUTCOME_UNKNOWN"),
        (Reply(body=b"x", broken_off=True), "OUTCOME_UNKNOWN"),
    ):
        connected.server.replies(reply)
        assert (await connected.ask(path="/x"))["refused"] == reason


async def test_an_address_that_is_private_is_not_called_unless_the_connection_says_so(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name of a public origin that leads to this machine, all of a sudden."""
    await peer.connect(base_url="https://crm.example", allow_private_addresses=False)

    async def here(*_: Any) -> list[str]:
        return ["93.184.216.34", "127.0.0.1"]

    monkeypatch.setattr(Names, "addresses", here)
    assert (await peer.ask(path="/x"))["refused"] == "ADDRESS_FORBIDDEN"
    assert peer.server.requests == []


async def test_a_private_address_that_the_operator_leaves_to_nobody_is_not_called(
    closed_world: World,
) -> None:
    closed_world.publish_tool("ask", SOURCE, connections=["crm"])
    async with openai_server() as server, gateway(closed_world, private_networks=("10.0.0.0/8",)) as world:
        await world.allow()
        peer = Peer(world=world, server=server)
        await peer.connect()
        assert (await peer.ask(path="/x"))["refused"] == "ADDRESS_FORBIDDEN"
        assert server.requests == []


async def test_a_tool_without_connections_has_nobody_to_ask(closed_world: World) -> None:
    closed_world.publish_tool("ask", "import interlock_tool\ndef run():\n    return 1\n")
    async with gateway(closed_world) as world:
        await world.allow()
        answer = await world.execute(world.permit(tool="ask"))
    assert (answer.is_error, answer.error_class) == (True, "ModuleNotFoundError")


async def test_nothing_of_the_credential_is_in_the_tools_process(connected: Peer) -> None:
    source = """
import os, sys, interlock_tool
def run(path):
    interlock_tool.fetch("crm", path)
    seen = [dict(os.environ), sys.argv, {n: repr(getattr(interlock_tool, n)) for n in dir(interlock_tool)}]
    for name in ("environ", "cmdline", "maps"):
        try:
            seen.append(open(f"/proc/self/{name}").read())
        except OSError:
            pass
    return repr(seen)
"""
    world = connected.world
    world.publish_tool("looks", source, connections=["crm"])
    stub = connection_service_pb2_grpc.ConnectionServiceStub(world.public)
    request = messages.UpdateConnectionRequest(
        connection=messages.Connection(connection_id="crm", tool_digests=[world.tools["looks"].digest])
    )
    request.update_mask.paths.append("tool_digests")
    await stub.UpdateConnection(request, metadata=world.token(Role.ADMIN))
    async with asyncio.timeout(10):
        while await world.reason(world.permit({"path": "/x"}, tool="looks"), {"path": "/x"}):
            pass
    answer = await world.execute(world.permit({"path": "/x"}, tool="looks"), {"path": "/x"})
    assert connected.server.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in answer.result_json


async def test_the_credential_goes_where_the_connection_says(peer: Peer) -> None:
    await peer.connect(credential_header="X-Api-Key")
    await peer.ask(path="/x")
    (request,) = peer.server.requests
    assert request.headers["x-api-key"] == KEY
    assert "authorization" not in request.headers


def test_one_client_sends_for_models_and_tools() -> None:
    assert [name for name in vars(OutgoingHttp) if not name.startswith("_")] == ["send"]
