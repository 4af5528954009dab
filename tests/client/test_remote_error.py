import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from interlock.client import InterlockError
from interlock.common.remote_error import STATUS_KEY, RemoteError, Violation, retry_after


def failed(*details: object, trailing: tuple[tuple[str, str | bytes], ...] = ()) -> grpc.aio.AioRpcError:
    status = status_pb2.Status(code=3, message="wrong")
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)  # type: ignore[arg-type]
        status.details.append(packed)
    metadata = grpc.aio.Metadata(*trailing, (STATUS_KEY, status.SerializeToString()))
    return grpc.aio.AioRpcError(
        grpc.StatusCode.INVALID_ARGUMENT, grpc.aio.Metadata(), metadata, details="wrong"
    )


def test_everything_that_the_server_said_is_read() -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    violation = error_details_pb2.BadRequest.FieldViolation(field="f", description="bad", reason="R")
    error = InterlockError.of(
        failed(
            error_details_pb2.ErrorInfo(reason="INVALID_FIELDS", domain="interlock", metadata={"a": "b"}),
            error_details_pb2.BadRequest(field_violations=[violation]),
            retry,
            error_details_pb2.Help(links=[error_details_pb2.Help.Link(description="mend it")]),
            error_details_pb2.RequestInfo(request_id="r-1"),
        )
    )
    assert isinstance(error, InterlockError)
    assert (error.reason, error.metadata, error.help) == ("INVALID_FIELDS", {"a": "b"}, "mend it")
    assert (error.violations, error.retry_after, error.request_id) == (
        (Violation("f", "bad", "R"),),
        1.5,
        "r-1",
    )
    assert str(error) == "INVALID_ARGUMENT INVALID_FIELDS: wrong"


def test_a_reason_of_somebody_else_is_none_of_ours() -> None:
    info = error_details_pb2.ErrorInfo(reason="QUOTA", domain="googleapis.com", metadata={"a": "b"})
    error = RemoteError.of(failed(info))
    assert (error.reason, error.metadata) == ("", {})


def test_the_request_id_is_found_in_the_trailing_metadata_too() -> None:
    assert RemoteError.of(failed(trailing=(("x-request-id", "r-2"),))).request_id == "r-2"


def test_a_call_that_its_server_cut_off_has_found_the_server_away() -> None:
    cut = grpc.aio.AioRpcError(
        grpc.StatusCode.CANCELLED, grpc.aio.Metadata(), grpc.aio.Metadata(), "CANCELLED"
    )
    assert InterlockError.of(cut).code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("data", [b"\xff\xff", b""])
def test_damaged_details_leave_the_code_and_the_message(data: bytes) -> None:
    metadata = grpc.aio.Metadata((STATUS_KEY, data))
    raised = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), metadata, details="gone")
    error = RemoteError.of(raised)
    assert (error.code, error.message, error.reason) == (grpc.StatusCode.NOT_FOUND, "gone", "")
    assert retry_after(((STATUS_KEY, data),)) is None
