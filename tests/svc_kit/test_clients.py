import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from interlock.common.v1.errors_pb2 import ErrorReason
from svc_kit.call_context import current_call
from svc_kit.clients import TokenFile, channel
from svc_kit.errors import Aborted, Unavailable
from svc_kit.identity import LocalIssuer, Role, TokenVerifier
from svc_kit.server import Addresses, running_server
from svc_kit.settings import ServiceSettings
from svc_kit.status import from_rpc_error
from tests.svc_kit.kit_service import KitService, KitStub, full_name

HELLO = StringValue(value="hello")
AWAY = ErrorReason.ERROR_REASON_DATABASE_UNAVAILABLE


@pytest.fixture
def token(issuer: LocalIssuer) -> str:
    return issuer.mint("ada", "default", [Role.VIEWER], 60)


@pytest.fixture
async def patient(addresses: Addresses, token: str) -> AsyncIterator[KitStub]:
    """A client to which Echo is safe to repeat."""
    async with channel(addresses.public, lambda: token, safe_methods=[full_name("Echo")]) as made:
        yield KitStub(made)


def failing(kit: KitService, times: int, error: Exception) -> list[float]:
    """Have Echo fail so many times and then succeed; the list fills with the times of the attempts."""
    attempts: list[float] = []

    async def behaviour(request: StringValue, context: Any) -> StringValue:
        attempts.append(time.monotonic())
        if len(attempts) <= times:
            raise error
        return request

    kit.does["Echo"] = behaviour
    return attempts


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value).code


async def test_a_safe_call_is_tried_again_while_the_service_is_unavailable(
    kit: KitService, patient: KitStub
) -> None:
    attempts = failing(kit, 2, Unavailable(AWAY, "away"))
    assert (await patient.Echo(HELLO)).value == "hello"
    assert len(attempts) == 3


async def test_a_safe_call_that_a_stopping_server_cuts_off_is_tried_again(
    kit: KitService, patient: KitStub
) -> None:
    attempts = 0

    async def cut_off_once(request: StringValue, context: Any) -> StringValue:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await context.abort(grpc.StatusCode.CANCELLED, "CANCELLED")
        return request

    kit.does["Echo"] = cut_off_once
    assert (await patient.Echo(HELLO)).value == "hello"
    assert attempts == 2


async def test_retry_info_says_how_long_to_wait_at_least(kit: KitService, patient: KitStub) -> None:
    attempts = failing(kit, 1, Unavailable(AWAY, "away", retry_after=0.4))
    await patient.Echo(HELLO)
    assert attempts[1] - attempts[0] >= 0.4


async def test_retries_end_with_the_deadline_of_the_call(kit: KitService, patient: KitStub) -> None:
    attempts = failing(kit, 1000, Unavailable(AWAY, "away"))
    # Cut off while it waits, a call ends with the last refusal; during an attempt, with that one's end.
    ended = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
    async with asyncio.timeout(30):
        assert await code_of(patient.Echo(HELLO, timeout=0.5)) in ended
    assert len(attempts) > 1


async def test_what_is_not_unavailable_is_not_tried_again(kit: KitService, patient: KitStub) -> None:
    attempts = failing(kit, 1, Aborted(ErrorReason.ERROR_REASON_STALE_ATTEMPT, "stale"))
    assert await code_of(patient.Echo(HELLO)) is grpc.StatusCode.ABORTED
    assert len(attempts) == 1


async def test_a_method_not_named_safe_is_not_tried_again(kit: KitService, viewer: KitStub) -> None:
    attempts = failing(kit, 1, Unavailable(AWAY, "away"))
    assert await code_of(viewer.Echo(HELLO)) is grpc.StatusCode.UNAVAILABLE
    assert len(attempts) == 1


async def test_a_safe_call_outlives_a_restart_of_the_service(
    kit: KitService, settings: ServiceSettings, verifier: TokenVerifier, token: str
) -> None:
    async with channel(settings.internal_address, lambda: token, safe_methods=[full_name("Echo")]) as made:
        stub = KitStub(made)
        async with running_server([kit.service()], settings, verifier=verifier):
            await stub.Echo(HELLO)
        call = asyncio.ensure_future(_result(stub.Echo(HELLO)))
        assert not (await asyncio.wait([call], timeout=0.2))[0]
        async with running_server([kit.service()], settings, verifier=verifier):
            assert (await call).value == "hello"


async def test_calls_made_for_a_call_carry_its_request_id_trace_and_deadline(
    kit: KitService, viewer: KitStub, addresses: Addresses, token: str
) -> None:
    seen: dict[str, Any] = {}

    async def ask_further(request: StringValue, context: Any) -> StringValue:
        call = current_call()
        assert call is not None
        seen["own"] = call
        async with channel(addresses.internal, lambda: token, deadline=60) as made:
            stub = KitStub(made)
            replies = [reply async for reply in stub.Tail(request)]
            return StringValue(value=replies[0].value + (await stub.Collect(iter([request]))).value)

    async def remember(name: str) -> None:
        seen[name] = current_call()

    async def stream(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        await remember("stream")
        yield StringValue(value="streamed,")

    async def collect(requests: Any, context: Any) -> StringValue:
        await remember("collect")
        seen["remaining"] = context.time_remaining()
        return StringValue(value="collected")

    kit.does |= {"Echo": ask_further, "Tail": stream, "Collect": collect}
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    metadata = (("x-request-id", "req-9"), ("traceparent", traceparent))
    assert (await viewer.Echo(HELLO, timeout=5, metadata=metadata)).value == "streamed,collected"
    own = seen["own"]
    assert (own.trace_id, own.parent_span_id) == ("a" * 32, "b" * 16)
    for name in ("stream", "collect"):
        assert (seen[name].request_id, seen[name].trace_id) == ("req-9", "a" * 32)
        assert seen[name].parent_span_id == own.span_id
    assert 0 < seen["remaining"] < 10


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-{'b' * 16}-01",
        f"00-{'A' * 32}-{'b' * 16}-01",
        f"ff-{'a' * 32}-{'b' * 16}-01",
    ],
)
async def test_a_trace_that_is_none_is_begun_anew(kit: KitService, viewer: KitStub, sent: str) -> None:
    async def tell(request: StringValue, context: Any) -> StringValue:
        call = current_call()
        assert call is not None
        return StringValue(value=f"{call.traceparent} {call.parent_span_id}")

    kit.does["Echo"] = tell
    reply = (await viewer.Echo(HELLO, metadata=(("traceparent", sent),))).value
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01 ", reply)


async def test_a_call_without_a_deadline_of_its_own_gets_the_channels(
    kit: KitService, addresses: Addresses, token: str
) -> None:
    async def wait(request: StringValue, context: Any) -> StringValue:
        await asyncio.Event().wait()
        raise AssertionError

    kit.does["Echo"] = wait
    async with channel(addresses.public, lambda: token, deadline=0.2) as made:
        assert await code_of(KitStub(made).Echo(HELLO)) is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_renewed_token_file_is_used_by_the_next_call(
    addresses: Addresses, issuer: LocalIssuer, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text(issuer.mint("ada", "default", [Role.VIEWER], -60))
    async with channel(addresses.public, TokenFile(path)) as made:
        stub = KitStub(made)
        assert await code_of(stub.Echo(HELLO)) is grpc.StatusCode.UNAUTHENTICATED
        renewed = tmp_path / "token.new"
        renewed.write_text(issuer.mint("ada", "default", [Role.VIEWER], 60) + "\n")
        renewed.replace(path)
        assert (await stub.Echo(HELLO)).value == "hello"


def test_a_token_file_that_vanished_leaves_its_last_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    source = TokenFile(path)
    with pytest.raises(FileNotFoundError):
        source()
    path.write_text("one\n")
    assert source() == "one"
    path.unlink()
    assert source() == "one"


async def test_a_token_is_not_sent_over_a_network_in_plain_text() -> None:
    with pytest.raises(ValueError, match="plain text"):
        channel("198.51.100.7:443", lambda: "token")
    await channel("198.51.100.7:443").close()
    await channel("198.51.100.7:443", lambda: "token", allow_plaintext_beyond_loopback=True).close()


async def _result(call: Any) -> Any:
    return await call
