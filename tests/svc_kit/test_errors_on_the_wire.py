import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from structlog.testing import capture_logs

from interlock.common.v1.errors_pb2 import ErrorReason
from svc_kit import errors
from svc_kit.clients import channel
from svc_kit.errors import DomainError, Violation
from svc_kit.identity import LocalIssuer, Role
from svc_kit.server import Addresses
from svc_kit.status import RemoteError, from_rpc_error
from tests.svc_kit.kit_service import KitService, KitStub, full_name

TASK_NOT_FOUND = ErrorReason.ERROR_REASON_TASK_NOT_FOUND
ALL_ERRORS = sorted(DomainError.__subclasses__(), key=lambda error: error.__name__)
ALL_KINDS = pytest.mark.parametrize("kind", ["Echo", "Tail", "Collect", "Chat"])


async def failure(call: Any) -> RemoteError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def call_of(stub: KitStub, kind: str) -> list[StringValue]:
    """All replies of a call of that kind with one request."""
    match kind:
        case "Echo":
            return [await stub.Echo(StringValue())]
        case "Collect":
            return [await stub.Collect(iter([StringValue()]))]
        case "Tail":
            return [reply async for reply in stub.Tail(StringValue())]
        case _:
            return [reply async for reply in stub.Chat(iter([StringValue()]))]


def fail(kit: KitService, error: BaseException) -> None:
    """Have every method of `kit` raise `error`; the streaming ones after their first reply."""

    async def one_reply(request: Any, context: Any) -> StringValue:
        raise error

    async def replies(request: Any, context: Any) -> AsyncIterator[StringValue]:
        yield StringValue()
        raise error

    kit.does |= {"Echo": one_reply, "Collect": one_reply, "Tail": replies, "Chat": replies}


@pytest.mark.parametrize("error_class", ALL_ERRORS)
async def test_each_domain_error_arrives_with_its_code_reason_and_metadata(
    kit: KitService, viewer: KitStub, error_class: type[DomainError]
) -> None:
    fail(kit, error_class(TASK_NOT_FOUND, "no such task", metadata={"task_id": "7"}))
    error = await failure(viewer.Echo(StringValue()))
    assert (error.code, error.reason, error.message) == (error_class.code, "TASK_NOT_FOUND", "no such task")
    assert error.metadata == {"task_id": "7"}
    assert (error.violations, error.retry_after, error.help) == ((), None, "")


def test_every_code_but_those_of_grpc_itself_has_a_domain_error() -> None:
    of_grpc = {"OK", "CANCELLED", "UNIMPLEMENTED"}
    assert {kind.code.name for kind in ALL_ERRORS} == {code.name for code in grpc.StatusCode} - of_grpc


def test_every_reason_has_a_name_without_its_prefix() -> None:
    for name, value in ErrorReason.items():
        assert errors.reason_name(value) == name.removeprefix("ERROR_REASON_")


async def test_all_details_come_over_the_wire(kit: KitService, viewer: KitStub) -> None:
    violations = [Violation("name", "is empty"), Violation("tools[0]", "no such tool", "TOOL_UNKNOWN")]
    reason = ErrorReason.ERROR_REASON_INVALID_FIELDS
    wrong = errors.InvalidArgument(
        reason,
        "two are wrong",
        violations=violations,
        retry_after=1.5,
        help="See the contract.",
        details=[Int32Value(value=7)],
    )
    fail(kit, wrong)
    error = await failure(viewer.Echo(StringValue(), metadata=(("x-request-id", "req-1"),)))
    assert error.violations == tuple(violations)
    assert (error.retry_after, error.help, error.request_id) == (1.5, "See the contract.", "req-1")
    assert str(error) == "INVALID_ARGUMENT INVALID_FIELDS: two are wrong"
    assert error.detail(Int32Value) == Int32Value(value=7)
    assert error.detail(StringValue) is None


async def test_violations_beyond_what_metadata_holds_are_counted(kit: KitService, viewer: KitStub) -> None:
    violations = [Violation(f"items[{number}]", "is wrong " * 20) for number in range(1000)]
    fail(kit, errors.invalid(violations))
    error = await failure(viewer.Echo(StringValue()))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    *listed, last = error.violations
    assert len(listed) > 10
    assert listed == violations[: len(listed)]
    assert last.message == f"and {1000 - len(listed)} more"


@ALL_KINDS
async def test_errors_are_mapped_for_every_kind_of_call(kit: KitService, viewer: KitStub, kind: str) -> None:
    fail(kit, errors.NotFound(TASK_NOT_FOUND, "no such task"))
    assert (await failure(call_of(viewer, kind))).reason == "TASK_NOT_FOUND"


@ALL_KINDS
async def test_the_text_of_an_unexpected_exception_stays_in_the_log(
    kit: KitService, viewer: KitStub, kind: str
) -> None:
    fail(kit, RuntimeError("password=hunter2"))
    with capture_logs() as logs:
        error = await failure(call_of(viewer, kind))
    assert [(entry["event"], entry["exc_info"]) for entry in logs] == [("unexpected error", True)]
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "hunter2" not in repr(vars(error))
    assert error.request_id
    assert error.request_id in error.message


async def test_a_reply_of_the_wrong_type_is_an_internal_error(kit: KitService, viewer: KitStub) -> None:
    async def wrong(request: Any, context: Any) -> Any:
        return {"secret": "hunter2"}

    kit.does["Echo"] = wrong
    error = await failure(viewer.Echo(StringValue()))
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "hunter2" not in error.message


async def test_a_request_that_does_not_parse_is_an_invalid_argument(
    addresses: Addresses, issuer: LocalIssuer
) -> None:
    token = issuer.mint("ada", "default", [Role.VIEWER], 60)
    async with channel(addresses.public, lambda: token) as raw:
        send: Any = raw.unary_unary(full_name("Echo"))
        error = await failure(send(b"\xff\xff\xff"))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")


async def test_what_a_servicer_aborts_by_itself_is_left_alone(kit: KitService, viewer: KitStub) -> None:
    async def abort(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.ALREADY_EXISTS, "mine")

    kit.does["Echo"] = abort
    error = await failure(viewer.Echo(StringValue()))
    assert (error.code, error.reason, error.message) == (grpc.StatusCode.ALREADY_EXISTS, "", "mine")
    assert error.request_id


async def test_a_peer_that_cannot_be_reached_makes_the_call_unavailable(
    kit: KitService, viewer: KitStub
) -> None:
    async def ask_nobody(request: Any, context: Any) -> Any:
        async with channel("unix:/nowhere/at.sock") as nobody:
            return await KitStub(nobody).Echo(request)

    kit.does["Echo"] = ask_nobody
    error = await failure(viewer.Echo(StringValue()))
    assert (error.code, error.reason, error.retry_after) == (
        grpc.StatusCode.UNAVAILABLE,
        "PEER_UNAVAILABLE",
        1.0,
    )


async def test_a_refusal_by_a_peer_that_nobody_handled_is_a_bug_of_ours(
    kit: KitService, viewer: KitStub
) -> None:
    fail(kit, grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), grpc.aio.Metadata(), "x"))
    assert (await failure(viewer.Echo(StringValue()))).code is grpc.StatusCode.INTERNAL


async def test_an_unknown_method_is_unimplemented(viewer: KitStub) -> None:
    assert (await failure(viewer.Missing(StringValue()))).code is grpc.StatusCode.UNIMPLEMENTED


async def test_a_cancelled_call_ends_its_handler_and_is_no_error(kit: KitService, viewer: KitStub) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(request: Any, context: Any) -> StringValue:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    kit.does["Echo"] = wait
    with capture_logs() as logs:
        call = viewer.Echo(StringValue())
        async with asyncio.timeout(5):
            await begun.wait()
        call.cancel()
        async with asyncio.timeout(5):
            await ended.wait()
    assert logs == []


async def test_a_client_that_leaves_a_stream_closes_its_generator(kit: KitService, viewer: KitStub) -> None:
    closed = asyncio.Event()

    async def endless(request: Any, context: Any) -> AsyncIterator[StringValue]:
        try:
            while True:
                yield StringValue(value="x" * 10_000)
        finally:
            closed.set()

    kit.does["Tail"] = endless
    call = viewer.Tail(StringValue())
    await call.read()
    call.cancel()
    async with asyncio.timeout(5):
        await closed.wait()


async def test_the_deadline_of_the_client_ends_the_handler(kit: KitService, viewer: KitStub) -> None:
    ended = asyncio.Event()

    async def wait(request: Any, context: Any) -> StringValue:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    kit.does["Echo"] = wait
    error = await failure(viewer.Echo(StringValue(), timeout=0.1))
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(5):
        await ended.wait()


class TestDefaultDeadline:
    @pytest.fixture
    def settings(self, settings: Any) -> Any:
        return settings.model_copy(update={"default_deadline_seconds": 0.1})

    @pytest.fixture
    async def plain(self, addresses: Addresses, issuer: LocalIssuer) -> AsyncIterator[KitStub]:
        """A client that sends no deadline."""
        token = issuer.mint("ada", "default", [Role.VIEWER], 60)
        async with grpc.aio.insecure_channel(addresses.public) as bare:
            stub = KitStub(bare)
            for name, method in list(vars(stub).items()):
                setattr(stub, name, _authorized(method, token))
            yield stub

    @pytest.mark.parametrize("kind", ["Echo", "Collect"])
    async def test_a_call_without_a_deadline_is_given_one(
        self, kit: KitService, plain: KitStub, kind: str
    ) -> None:
        async def wait(request: Any, context: Any) -> StringValue:
            await asyncio.Event().wait()
            raise AssertionError

        kit.does[kind] = wait
        error = await failure(call_of(plain, kind))
        assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "default deadline of 0.1 s" in error.message

    async def test_a_stream_without_a_deadline_goes_on(self, kit: KitService, plain: KitStub) -> None:
        async def slow(request: Any, context: Any) -> AsyncIterator[StringValue]:
            await asyncio.sleep(0.3)
            yield StringValue(value="late")

        kit.does["Tail"] = slow
        assert [reply.value for reply in await call_of(plain, "Tail")] == ["late"]

    async def test_a_longer_deadline_of_the_client_counts(self, kit: KitService, viewer: KitStub) -> None:
        async def slow(request: Any, context: Any) -> StringValue:
            await asyncio.sleep(0.3)
            return StringValue(value="late")

        kit.does["Echo"] = slow
        assert (await viewer.Echo(StringValue(), timeout=5)).value == "late"

    async def test_a_time_out_of_the_handler_is_not_taken_for_the_deadline(
        self, kit: KitService, plain: KitStub
    ) -> None:
        fail(kit, TimeoutError("of a database"))
        assert (await failure(plain.Echo(StringValue()))).code is grpc.StatusCode.INTERNAL


def _authorized(method: Any, token: str) -> Any:
    return lambda request: method(request, metadata=(("authorization", f"Bearer {token}"),))
