"""Errors on the wire: google.rpc.Status with typed details, and back."""

from collections.abc import Iterable, Mapping, Sequence

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from svc_kit.call_context import REQUEST_ID_KEY
from svc_kit.errors import DomainError, Violation

DOMAIN = "interlock"
STATUS_KEY = "grpc-status-details-bin"

# Clients take 8 KiB of metadata by default, and the details travel there in base64: more loses the status.
_MAX_MESSAGE = 1024
_MAX_DETAILS_BYTES = 4096
_MAX_VALUE = 256
_MAX_ENTRIES = 16


def to_status(error: DomainError, request_id: str) -> status_pb2.Status:
    """`error` with ErrorInfo, BadRequest (all violations that fit), RetryInfo, Help and RequestInfo."""
    details: list[Message] = [_error_info(error)]
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after * 1e9))
        details.append(retry)
    if error.help:
        link = error_details_pb2.Help.Link(description=_shorten(error.help, _MAX_MESSAGE))
        details.append(error_details_pb2.Help(links=[link]))
    details.append(error_details_pb2.RequestInfo(request_id=request_id))
    if error.violations:
        room = _MAX_DETAILS_BYTES - sum(detail.ByteSize() for detail in details)
        details.insert(1, _bad_request(error.violations, room))
    status = status_pb2.Status(code=error.code.value[0], message=_shorten(error.message, _MAX_MESSAGE))
    for detail in details:
        status.details.add().Pack(detail)
    return status


class RemoteError(Exception):
    """A call failed, seen from the client: the status and its details, where there were any."""

    def __init__(
        self,
        *,
        code: grpc.StatusCode,
        message: str,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: tuple[Violation, ...] = (),
        retry_after: float | None = None,
        help: str = "",  # noqa: A002 - the name of the detail
        request_id: str = "",
    ) -> None:
        super().__init__(f"{code.name}{f' {reason}' if reason else ''}: {message}")
        self.code = code
        self.reason = reason  # "" if the error is not one of ours: then the transport failed
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = violations
        self.retry_after = retry_after  # seconds
        self.help = help
        self.request_id = request_id


def from_rpc_error(error: grpc.RpcError) -> RemoteError:
    """What `error` says, from a sync or an aio call."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return RemoteError(code=grpc.StatusCode.UNKNOWN, message=str(error))
    trailing = {str(key): value for key, value in error.trailing_metadata() or ()}
    info = error_details_pb2.ErrorInfo()
    request = error_details_pb2.RequestInfo(request_id=str(trailing.get(REQUEST_ID_KEY, "")))
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    links = error_details_pb2.Help()
    _unpack(trailing.get(STATUS_KEY), (info, request, bad_request, retry, links))
    return RemoteError(
        code=error.code(),
        message=error.details() or "",
        reason=info.reason,
        metadata=info.metadata,
        violations=tuple(Violation(v.field, v.description, v.reason) for v in bad_request.field_violations),
        retry_after=retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
        help=" ".join(link.description for link in links.links),
        request_id=request.request_id,
    )


def retry_after(trailing: Iterable[tuple[str, str | bytes]] | None) -> float | None:
    """The seconds that the RetryInfo in trailing metadata asks for; None without one."""
    retry = error_details_pb2.RetryInfo()
    _unpack(dict(trailing or ()).get(STATUS_KEY), (retry,))
    return retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None


def _unpack(data: object, targets: Sequence[Message]) -> None:
    """Fill each of `targets` from the detail of its type; damaged details are left out, the code stays."""
    if not isinstance(data, bytes):
        return
    try:
        for detail in status_pb2.Status.FromString(data).details:
            for target in targets:
                if detail.TypeName() == target.DESCRIPTOR.full_name:
                    detail.Unpack(target)
    except DecodeError:
        return


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
