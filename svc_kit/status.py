"""Errors on the wire: google.rpc.Status with typed details, and back."""

from collections.abc import Sequence

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from interlock.common.remote_error import DOMAIN, STATUS_KEY, RemoteError, Violation
from svc_kit.errors import DomainError

__all__ = ["STATUS_KEY", "RemoteError", "from_rpc_error", "to_status"]

# Clients take 8 KiB of metadata by default, and the details travel there in base64: more loses the status.
_MAX_MESSAGE = 1024
_MAX_DETAILS_BYTES = 4096
_MAX_VALUE = 256
_MAX_ENTRIES = 16


def to_status(error: DomainError, request_id: str) -> status_pb2.Status:
    """`error` with ErrorInfo, BadRequest (all violations that fit), RetryInfo, Help, RequestInfo, its own."""
    details: list[Message] = [_error_info(error)]
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after * 1e9))
        details.append(retry)
    if error.help:
        link = error_details_pb2.Help.Link(description=_shorten(error.help, _MAX_MESSAGE))
        details.append(error_details_pb2.Help(links=[link]))
    details.append(error_details_pb2.RequestInfo(request_id=request_id))
    details.extend(error.details)
    if error.violations:
        room = _MAX_DETAILS_BYTES - sum(detail.ByteSize() for detail in details)
        details.insert(1, _bad_request(error.violations, room))
    status = status_pb2.Status(code=error.code.value[0], message=_shorten(error.message, _MAX_MESSAGE))
    for detail in details:
        status.details.add().Pack(detail)
    return status


def from_rpc_error(error: grpc.RpcError) -> RemoteError:
    """What `error` says, from a sync or an aio call."""
    return RemoteError.of(error)


def _error_info(error: DomainError) -> error_details_pb2.ErrorInfo:
    metadata = {
        key: _shorten(value, _MAX_VALUE) for key, value in list(error.metadata.items())[:_MAX_ENTRIES]
    }
    return error_details_pb2.ErrorInfo(reason=error.reason_name, domain=DOMAIN, metadata=metadata)


def _bad_request(violations: Sequence[Violation], room: int) -> error_details_pb2.BadRequest:
    """As many of `violations` as fit `room` bytes; a last one says how many were left out."""
    listed = error_details_pb2.BadRequest()
    for number, violation in enumerate(violations):
        entry = error_details_pb2.BadRequest.FieldViolation(
            field=_shorten(violation.field, _MAX_VALUE),
            description=_shorten(violation.message, _MAX_MESSAGE),
            reason=violation.reason,
        )
        room -= entry.ByteSize() + 3
        if room < 0:
            listed.field_violations.add(description=f"and {len(violations) - number} more")
            break
        listed.field_violations.append(entry)
    return listed


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
