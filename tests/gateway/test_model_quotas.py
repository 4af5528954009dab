"""Quotas of a connection to models: set aside before a request goes out, settled when it is answered."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from gateway_svc.connection import Connection, ConnectionContent, ConnectionKind, ModelPrice
from gateway_svc.pipeline.model_quota import ANSWER_TOKENS, reserve, size_flaws
from gateway_svc.pipeline.pending import Arguments, Model
from svc_kit.status import RemoteError
from svc_kit.strict_json import canonical
from tests.gateway.models import ASKED, Models, publish
from tests.gateway.openai_server import Reply, completion, openai_server
from tests.gateway.world import World, gateway, kinds, until

SHORT: dict[str, Any] = ASKED | {"max_completion_tokens": 10}

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = Model(
    name="small",
    connection=Connection(
        tenant="t",
        connection_id="provider",
        kind=ConnectionKind.MODEL,
        content=ConnectionContent(
            base_url="https://api.example.com",
            models={"small": ModelPrice(input_micros=1, output_micros=1)},
            agents=(),
            allow_private=False,
            description="",
        ),
        sealed=None,
        create_time=NOW,
        update_time=NOW,
        creator="ada",
        etag="1",
    ),
)


@pytest.fixture
async def models(closed_world: World) -> AsyncIterator[Models]:
    publish(closed_world)
    async with openai_server() as provider, gateway(closed_world):
        connected = Models(world=closed_world, provider=provider)
        await connected.connect()
        yield connected


async def reason(models: Models, asked: Any = None) -> str:
    try:
        await models.call(models.permit(asked), asked)
    except RemoteError as error:
        return error.reason
    return ""


async def test_requests_of_a_minute_are_counted_exactly_over_two_gateways(models: Models) -> None:
    await models.update("max_requests_per_minute", max_requests_per_minute=3)
    world = models.world
    first = world.internal
    async with gateway(world, slot="replica", internal_address=f"unix:{world.folder}/replica"):
        second, ends = world.internal, []
        for number in range(10):
            world.internal = first if number % 2 else second
            ends.append(asyncio.ensure_future(reason(models)))
            await asyncio.sleep(0)
        assert sorted(await asyncio.gather(*ends)) == [""] * 3 + ["QUOTA_EXCEEDED"] * 7
    assert len(models.provider.requests) == 3


async def test_a_request_over_the_quota_of_a_day_is_not_sent_and_told_which_it_is(models: Models) -> None:
    await models.update("max_tokens_per_day", max_tokens_per_day=50)
    permit = models.permit()
    error = await models.refusal(permit)
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert (error.metadata["limit"], error.metadata["at"]) == ("max_tokens_per_day", "connection provider")
    assert error.metadata["execution_state"] == "NOT_STARTED"
    assert 0 < (error.retry_after or 0) <= 3600
    assert models.provider.requests == []
    assert kinds(await models.world.told(permit, 1)) == [("PROMPT", "REFUSED", "QUOTA_EXCEEDED")]


@pytest.mark.parametrize("quota", ["max_tokens_per_day", "max_cost_micros_per_day"])
async def test_what_is_set_aside_stops_others_until_it_is_known_what_was_used(
    models: Models, quota: str
) -> None:
    most = needed(models, quota) + 40
    await models.update(quota, **{quota: most})
    slow = completion("hello", tokens=(11, 7))
    slow.ready = asyncio.Event()
    models.provider.replies(slow, completion("hello", tokens=(11, 7)))
    running = asyncio.ensure_future(models.call(models.permit(SHORT), SHORT))
    await until(lambda: len(models.provider.requests) == 1)
    error = await models.refusal(models.permit(SHORT), SHORT)
    assert (error.reason, error.metadata["limit"]) == ("QUOTA_EXCEEDED", quota)
    assert error.retry_after == 5
    slow.ready.set()
    await running
    assert await reason(models, SHORT) == ""


def needed(models: Models, quota: str) -> int:
    """What a short request sets aside, at the prices of `Models.connect`."""
    sent = canonical(SHORT | {"model": "small", "stream": False})
    tokens_in, tokens_out = len(sent), 10
    return tokens_in + tokens_out if quota == "max_tokens_per_day" else tokens_in + tokens_out * 5 // 2


async def test_quotas_of_a_day_are_never_overrun_by_many_at_once(models: Models) -> None:
    need = needed(models, "max_tokens_per_day")
    await models.update("max_tokens_per_day", max_tokens_per_day=3 * need)
    silent = completion("late")
    silent.ready = asyncio.Event()
    models.provider.replies(silent)
    running = [asyncio.ensure_future(reason(models, SHORT)) for _ in range(9)]
    await until(lambda: sum(each.done() for each in running) == 6)
    assert {each.result() for each in running if each.done()} == {"QUOTA_EXCEEDED"}
    silent.ready.set()
    await asyncio.gather(*running)
    assert len(models.provider.requests) == 3


async def test_a_request_that_the_provider_did_not_take_costs_nothing(models: Models) -> None:
    await models.update("max_tokens_per_day", max_tokens_per_day=needed(models, "max_tokens_per_day"))
    models.provider.replies(Reply(status=503), completion("hello"))
    assert await reason(models, SHORT) == "MODEL_UNAVAILABLE"
    assert await reason(models, SHORT) == ""
    assert await reason(models, SHORT) == "QUOTA_EXCEEDED"


async def test_a_request_of_which_nobody_knows_what_it_used_counts_as_what_it_set_aside(
    models: Models,
) -> None:
    most = needed(models, "max_tokens_per_day") + 40
    await models.update("max_tokens_per_day", max_tokens_per_day=most)
    models.provider.replies(Reply(body=b'{"choices":', broken_off=True), completion("hello"))
    assert await reason(models, SHORT) == "MODEL_UNAVAILABLE"
    assert await reason(models, SHORT) == "QUOTA_EXCEEDED"


async def test_quotas_below_nothing_are_refused_all_at_once(models: Models) -> None:
    fields = {"max_requests_per_minute": -1, "max_tokens_per_day": -1, "max_cost_micros_per_day": -1}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await models.update(*fields, **fields)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("said", "tokens"),
    [
        ({}, ANSWER_TOKENS),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 5, "n": 3}, 15),
        ({"max_tokens": None, "n": None}, ANSWER_TOKENS),
        ({"max_tokens": 1, "n": 128}, 128),
    ],
)
def test_an_answer_sets_aside_what_it_may_have(said: dict[str, Any], tokens: int) -> None:
    text = canonical(said)
    assert reserve(Arguments(value=said, canonical=text), MODEL).tokens == len(text) + tokens


def test_a_size_that_a_provider_may_read_in_another_way_than_is_set_aside_is_refused() -> None:
    odd: list[Any] = [True, 0, -5, 100.0, 1e9, "100", [7], 2**31]
    for name in ("max_tokens", "max_completion_tokens", "n"):
        for said in odd:
            assert [each.field for each in size_flaws({name: said})] == [f"request_json.{name}"], (name, said)
    assert len(list(size_flaws({"max_tokens": 1.0, "max_completion_tokens": "7", "n": 129}))) == 3
