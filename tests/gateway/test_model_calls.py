"""CallModel: checked, recorded, sent to the provider and to nobody else, and never paid for twice."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from gateway_svc.outgoing_http import HttpAnswer
from gateway_svc.pipeline.model_answer import _said, _wait
from gateway_svc.redaction import Redaction
from interlock.common.v1 import permit_pb2
from interlock.gateway.v1 import (
    connection_service_pb2,
    gateway_service_pb2,
    gateway_service_pb2_grpc,
    tool_call_pb2,
)
from interlock.orchestrator.v1 import orchestrator_service_pb2
from svc_kit.identity import Role
from svc_kit.signing import RECEIPT_PURPOSE, KeyRing
from svc_kit.status import from_rpc_error
from svc_kit.strict_json import digest
from tests.gateway.models import ASKED, KEY, Models, publish
from tests.gateway.openai_server import Reply, completion, openai_server
from tests.gateway.world import AGENT, AGENT_VERSION, World, claims, gateway, kinds, until


@pytest.fixture
async def models(closed_world: World) -> AsyncIterator[Models]:
    publish(closed_world)
    async with openai_server() as provider, gateway(closed_world):
        yield Models(world=closed_world, provider=provider)


@pytest.fixture
async def connected(models: Models) -> Models:
    await models.connect()
    return models


async def test_a_prompt_is_recorded_then_sent_with_model_and_key_of_the_gateways_and_the_answer_paid_for(
    connected: Models,
) -> None:
    permit = connected.permit()
    answer = await connected.call(permit)
    result = json.loads(answer.result_json)
    assert result["response"]["choices"][0]["message"]["content"] == "hello"
    # 11 tokens at 1 and 7 at 2.5 millionths each.
    assert result["usage"] == {"input_tokens": 11, "output_tokens": 7, "cost_micros": 29}
    (request,) = connected.provider.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["host"] == f"127.0.0.1:{connected.provider.port}"
    assert request.json == {**ASKED, "model": "small", "stream": False}
    prompt, output = await connected.world.told(permit, 2)
    assert kinds([prompt, output]) == [("PROMPT", "RUNNING", ""), ("MODEL_OUTPUT", "COMPLETED", "")]
    assert (prompt.payloads[0].part, prompt.payloads[0].body) == ("request", request.body)
    assert (prompt.tool, prompt.attributes["connection"], prompt.attributes["model"]) == (
        "",
        "provider",
        "small",
    )
    assert output.attributes["cost_micros"] == "29"
    assert json.loads(output.payloads[0].body) == result
    call = await connected.world.get(permit)
    assert (call.kind, call.connection, call.model, call.tool) == (
        tool_call_pb2.CALL_KIND_MODEL,
        "provider",
        "small",
        "",
    )
    assert (call.usage.output_tokens, call.usage.cost_micros) == (7, 29)
    assert all(verdict.passed for verdict in call.verdicts)


async def test_the_receipt_binds_connection_arguments_result_and_usage(connected: Models) -> None:
    permit = connected.permit()
    answer = await connected.call(permit)
    stub = gateway_service_pb2_grpc.GatewayServiceStub(connected.world.public)
    keys = await stub.GetPublicKeys(
        gateway_service_pb2.GetPublicKeysRequest(), metadata=connected.world.token(Role.VIEWER)
    )
    payload = KeyRing(keys.keys).verify(RECEIPT_PURPOSE, answer.receipt)
    receipt = tool_call_pb2.Receipt.FromString(payload)
    assert (receipt.connection, receipt.tool_digest, receipt.is_error) == ("provider", "", False)
    assert receipt.argument_digest == claims(permit).argument_digest
    assert receipt.result_digest == digest(answer.result_json.encode())
    assert receipt.usage.cost_micros == 29


async def test_the_same_call_id_again_costs_no_tokens_twice(connected: Models) -> None:
    permit = connected.permit()
    first = await connected.call(permit)
    again = await connected.call(permit)
    assert again.replayed
    assert again.result_json == first.result_json
    assert len(connected.provider.requests) == 1


async def test_two_callers_of_one_call_share_one_request(connected: Models) -> None:
    ready = asyncio.Event()
    reply = completion("late")
    reply.ready = ready
    connected.provider.replies(reply)
    permit = connected.permit()
    both = [asyncio.create_task(connected.call(permit)) for _ in range(2)]
    await until(lambda: len(connected.provider.requests) == 1)
    ready.set()
    answers = await asyncio.gather(*both)
    assert sorted(answer.replayed for answer in answers) == [False, True]
    assert len(connected.provider.requests) == 1


async def test_nothing_is_sent_that_the_audit_log_does_not_hold(connected: Models) -> None:
    connected.world.audit.refuses = True
    error = await connected.refusal(connected.permit())
    assert (error.reason, error.metadata["execution_state"]) == ("AUDIT_UNAVAILABLE", "NOT_STARTED")
    assert connected.provider.requests == []


@pytest.mark.parametrize(
    "changes", [{"agents": []}, {"agents": ["another"]}, {"models": [{"name": "large"}]}, None]
)
async def test_who_the_connection_does_not_list_is_refused_as_if_it_did_not_exist(
    models: Models, changes: dict[str, Any] | None
) -> None:
    if changes is not None:
        await models.connect(**changes)
    permit = models.permit()
    error = await models.refusal(permit)
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CONNECTION_NOT_BOUND")
    assert error.message == f"agent {AGENT} {AGENT_VERSION} may not use connection provider with its model"
    assert error.metadata["verdict"] == "true"
    assert models.provider.requests == []
    verdicts = {each.check: each for each in (await models.world.get(permit)).verdicts}
    assert verdicts["binding"].passed
    assert not verdicts["allow"].passed
    assert kinds(await models.world.told(permit, 1)) == [("PROMPT", "REFUSED", "CONNECTION_NOT_BOUND")]


async def test_a_child_task_needs_the_connection_to_list_every_agent_above_it(models: Models) -> None:
    await models.connect(agents=[AGENT, "manager"])
    ada = permit_pb2.Principal(tenant=models.world.tenant, subject="ada", roles=["DEVELOPER"])
    above = [
        permit_pb2.Principal(
            tenant=models.world.tenant, subject=f"agent:{name}", agent=name, agent_version="2.0.0"
        )
        for name in ("manager", "chief")
    ]
    await models.call(models.permit(submitters=[above[0], ada]))
    error = await models.refusal(models.permit(submitters=[*above, ada]))
    assert (error.reason, error.metadata["ancestor"]) == ("ANCESTOR_DENIED", "chief")
    assert len(models.provider.requests) == 1


async def test_an_agent_that_names_another_connection_is_refused(connected: Models) -> None:
    publish(connected.world, connection="other")
    error = await connected.refusal(connected.permit())
    assert error.reason == "CONNECTION_NOT_BOUND"
    assert connected.provider.requests == []


async def test_a_connection_of_another_tenant_is_none(connected: Models) -> None:
    async def count() -> int:
        rows = await connected.world.sql(
            "SELECT count(*) AS n FROM connection WHERE connection_id = 'provider'"
        )
        return int(rows[0].n)

    assert await count() >= 1
    stub = connected.connections
    other = connected.world.token(Role.ADMIN, tenant="another")
    for connection_id in ("provider", "\0", "x" * 10_000, ""):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetConnection(
                connection_service_pb2.GetConnectionRequest(connection_id=connection_id), metadata=other
            )
        assert from_rpc_error(caught.value).reason == "CONNECTION_NOT_FOUND"


async def test_a_permit_for_a_tool_starts_no_model_and_a_permit_for_a_model_no_tool(
    connected: Models,
) -> None:
    connected.world.publish_tool(bound=False)
    error = await connected.refusal(connected.world.permit(ASKED))
    assert error.reason == "PERMIT_MISMATCH"
    assert await connected.world.reason(connected.permit(), ASKED) == "PERMIT_MISMATCH"
    assert connected.provider.requests == []


async def test_an_attempt_that_is_over_sends_nothing(connected: Models) -> None:
    permit = connected.permit()
    connected.world.stand(claims(permit), orchestrator_service_pb2.ATTEMPT_STANDING_OVER)
    error = await connected.refusal(permit)
    assert error.reason == "STALE_ATTEMPT"
    assert connected.provider.requests == []


async def test_a_request_that_ends_with_its_task_is_given_up(connected: Models) -> None:
    reply = completion()
    reply.ready = asyncio.Event()
    connected.provider.replies(reply)
    permit = connected.permit()
    calling = asyncio.create_task(connected.refusal(permit))
    await until(lambda: len(connected.provider.requests) == 1)
    connected.world.stand(claims(permit), orchestrator_service_pb2.ATTEMPT_STANDING_TASK_OVER)
    assert (await calling).reason == "TOOL_CANCELED"
    await until(lambda: connected.provider.gone == 1)


async def test_what_the_gateway_sets_may_not_come_with_the_request(connected: Models) -> None:
    asked = {"model": "large", "stream": True, "messages": [], "max_tokens": 1e6}
    error = await connected.refusal(connected.permit(asked), asked)
    assert error.reason == "ARGUMENTS_INVALID"
    assert [violation.field for violation in error.violations] == [
        "request_json.model",
        "request_json.stream",
        "request_json.max_tokens",
        "request_json.messages",
    ]
    assert connected.provider.requests == []


@pytest.mark.parametrize(
    ("reply", "code", "reason", "said"),
    [
        (Reply(status=429, headers={"retry-after": "17"}), "RESOURCE_EXHAUSTED", "MODEL_BUSY", "for now"),
        (Reply(status=503), "UNAVAILABLE", "MODEL_UNAVAILABLE", "answered 503"),
        (
            Reply(status=401, body=json.dumps({"error": {"message": f"bad key {KEY}"}}).encode()),
            "FAILED_PRECONDITION",
            "MODEL_REFUSED",
            "answered 401: bad key [redacted]",
        ),
        (
            Reply(status=302, headers={"location": "http://127.0.0.1:1/steal"}),
            "FAILED_PRECONDITION",
            "MODEL_REFUSED",
            "never followed",
        ),
    ],
)
async def test_a_provider_that_did_nothing_may_be_asked_again_with_the_same_permit(
    connected: Models, reply: Reply, code: str, reason: str, said: str
) -> None:
    connected.provider.replies(reply, completion("now"))
    permit = connected.permit()
    error = await connected.refusal(permit)
    assert (error.code.name, error.reason) == (code, reason)
    assert said in error.message
    assert error.metadata["execution_state"] == "NOT_STARTED"
    if reply.headers.get("retry-after"):
        assert error.retry_after == 17
    assert len(connected.provider.requests) == 1, "no redirect is followed"
    assert json.loads((await connected.call(permit)).result_json)["response"]["id"] == "chatcmpl-1"


async def test_an_answer_that_broke_off_is_open_and_may_be_asked_for_again(connected: Models) -> None:
    connected.provider.replies(Reply(body=b'{"choices":', broken_off=True), completion("whole"))
    permit = connected.permit()
    error = await connected.refusal(permit)
    assert (error.code.name, error.reason) == ("UNAVAILABLE", "MODEL_UNAVAILABLE")
    assert error.metadata["execution_state"] == "UNKNOWN"
    # Ends reach the log by the outbox, beginnings directly: the next one may be faster.
    await connected.world.told(permit, 2)
    await connected.call(permit)
    assert [each[:2] for each in kinds(await connected.world.told(permit, 4))] == [
        ("PROMPT", "RUNNING"),
        ("MODEL_OUTPUT", "UNKNOWN"),
        ("PROMPT", "RUNNING"),
        ("MODEL_OUTPUT", "COMPLETED"),
    ]


async def test_a_model_that_does_not_answer_in_time_is_given_up(connected: Models) -> None:
    reply = completion()
    reply.ready = asyncio.Event()
    connected.provider.replies(reply)
    permit = connected.permit()
    error = await connected.refusal(permit, timeout=1.0)
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: connected.provider.gone == 1)

    async def open_() -> bool:
        call = await connected.world.get(permit)
        return (call.status, call.reason) == (tool_call_pb2.TOOL_CALL_STATUS_UNKNOWN, "MODEL_TIMEOUT")

    await until(open_)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "MODEL_OUTPUT_INVALID"),
        (b'{"choices": []}', "MODEL_OUTPUT_INVALID"),
        (b'{"choices": [1], "choices": [2]}', "MODEL_OUTPUT_INVALID"),
        (b'{"choices": ["' + b"x" * 300_000 + b'"]}', "LIMIT_EXCEEDED"),
    ],
)
async def test_an_answer_that_is_no_completion_or_has_no_end_is_withheld(
    connected: Models, body: bytes, reason: str
) -> None:
    connected.provider.replies(Reply(body=body))
    permit = connected.permit()
    error = await connected.refusal(permit)
    assert (error.reason, error.metadata["execution_state"]) == (reason, "COMPLETED")
    assert (await connected.refusal(permit)).reason == reason
    assert len(connected.provider.requests) == 1


async def test_a_provider_that_counts_no_tokens_is_charged_by_the_byte(connected: Models) -> None:
    reply = completion("hello", tokens=None)
    connected.provider.replies(reply)
    usage = json.loads((await connected.call(connected.permit())).result_json)["usage"]
    assert usage["input_tokens"] == len(connected.provider.requests[0].body)
    assert usage["output_tokens"] == len(reply.body)


async def test_private_addresses_are_called_only_where_they_are_allowed(models: Models) -> None:
    await models.connect(base_url="https://127.0.0.1:9/v1", allow_private_addresses=False)
    error = await models.refusal(models.permit())
    assert (error.code.name, error.reason) == ("PERMISSION_DENIED", "ADDRESS_FORBIDDEN")


async def test_a_provider_that_is_not_there_is_unavailable_and_nothing_was_started(models: Models) -> None:
    await models.connect(base_url="http://127.0.0.1:9/v1")
    error = await models.refusal(models.permit())
    assert (error.reason, error.metadata["execution_state"]) == ("MODEL_UNAVAILABLE", "NOT_STARTED")


async def test_the_credential_stands_nowhere_but_sealed_and_in_the_request(
    connected: Models, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    connected.provider.replies(
        Reply(status=500, body=KEY.encode()),
        Reply(body=json.dumps({"choices": [{"message": {"content": KEY}}]}).encode()),
    )
    permit = connected.permit()
    await connected.refusal(permit)
    answer = await connected.call(permit)
    assert KEY not in answer.result_json
    assert "[redacted]" in answer.result_json
    rows = await connected.world.sql("SELECT * FROM connection")
    calls = await connected.world.sql("SELECT * FROM tool_call")
    assert KEY not in repr(rows) + repr(calls)
    await connected.world.told(permit, 4)
    assert KEY not in repr(connected.world.audit.events)
    out, err = capfd.readouterr()
    assert KEY not in out + err + caplog.text
    listed = await connected.connections.ListConnections(
        connection_service_pb2.ListConnectionsRequest(), metadata=connected.admin
    )
    assert [each.has_credential for each in listed.connections] == [True]
    assert KEY not in repr(listed)


async def test_another_place_loses_the_credential_and_another_description_does_not(
    connected: Models,
) -> None:
    assert (await connected.update("description", description="new")).has_credential
    moved = await connected.update("base_url", base_url="https://elsewhere.example.com/v1")
    assert not moved.has_credential
    assert moved.description == "new"


async def test_a_change_of_the_connection_holds_for_the_next_call(connected: Models) -> None:
    await connected.call(connected.permit())
    await connected.update("agents", agents=[])
    assert (await connected.refusal(connected.permit())).reason == "CONNECTION_NOT_BOUND"


async def test_everything_wrong_with_a_connection_is_named_at_once(models: Models) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await models.connect(
            connection_id="No Id",
            kind=connection_service_pb2.CONNECTION_KIND_UNSPECIFIED,
            base_url="http://user@host/?q",
            models=[],
            agents=["Not A Name"],
        )
    error = from_rpc_error(caught.value)
    assert [violation.field for violation in error.violations] == [
        "connection.connection_id",
        "connection.base_url",
        "connection.models",
        "connection.agents[0]",
        "connection.kind",
    ]


async def test_etags_and_taken_ids_guard_connections_and_each_change_is_audited(connected: Models) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await connected.connect()
    assert from_rpc_error(caught.value).reason == "NAME_TAKEN"
    delete = connection_service_pb2.DeleteConnectionRequest(connection_id="provider", etag=str(uuid.uuid4()))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await connected.connections.DeleteConnection(delete, metadata=connected.admin)
    assert from_rpc_error(caught.value).reason == "ETAG_MISMATCH"
    delete.etag = ""
    await connected.connections.DeleteConnection(delete, metadata=connected.admin)

    def told() -> list[str]:
        return [
            event.status
            for event in connected.world.audit.events
            if event.attributes.get("connection_id") == "provider"
        ]

    await until(lambda: len(told()) == 3)
    assert told() == ["CREATED", "CREDENTIAL_SET", "DELETED"]


@pytest.mark.parametrize("role", [Role.DEVELOPER, Role.AUDITOR, Role.WORKER])
async def test_connections_are_the_admins_business(models: Models, role: Role) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await models.connections.ListConnections(
            connection_service_pb2.ListConnectionsRequest(), metadata=models.world.token(role)
        )
    assert from_rpc_error(caught.value).reason == "ROLE_REQUIRED"


def test_no_part_of_a_credential_is_left_where_a_providers_words_are_cut_off() -> None:
    for before in range(470, 500):
        body = json.dumps({"error": {"message": "x" * before + KEY}}).encode()
        said = _said(body, Redaction([KEY]))
        assert len(said) <= 500
        assert KEY[:8] not in said


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        *(("7", 7.0), ("-1", 1.0), ("1e99", 3600.0), ("inf", 3600.0), ("nan", 5.0), ("soon", 5.0), ("", 5.0)),
        ("Mon, 1 Jan 99999999999999999999 00:00:00 GMT", 5.0),
        ("Mon, 1 Jan 2020 00:00:00 +99999999999999999999", 5.0),
        ("Mon, 31 Dec 9999 23:59:59 -2359", 3600.0),
    ],
)
def test_however_a_provider_says_when_to_come_back_it_is_within_reason(told: str, seconds: float) -> None:
    answer = HttpAnswer(status=429, headers={"retry-after": told}, body=b"")
    assert _wait(answer, datetime(2026, 1, 1, tzinfo=UTC), 5.0) == seconds
