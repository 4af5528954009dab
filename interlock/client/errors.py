"""What a call that failed says, read from the rich status."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

_DOMAIN = "interlock"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViolation:
    """One thing wrong with one field of the request."""

    field: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """The details of a failed call; empty where the server sent none."""

    reason: str = ""  # a name of interlock.common.v1.ErrorReason without its prefix
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[FieldViolation, ...] = ()
    retry_after: float | None = None  # seconds
    help: str = ""
    request_id: str = ""


class InterlockError(Exception):
    """A call that failed; `code` is the gRPC status code, `details` what the server said of it."""

    def __init__(self, code: grpc.StatusCode, message: str, details: Details) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    @property
    def reason(self) -> str:
        """For example "TASK_NOT_FOUND"; empty when the failure is not Interlock's."""
        return self.details.reason


def from_rpc_error(error: grpc.RpcError) -> InterlockError:
    """The readable form of what grpc raised."""
    code, message = error.code(), error.details() or ""
    return InterlockError(code, message, _details(error))


def _details(error: grpc.RpcError) -> Details:
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        # The rich status contradicts the plain one: believe the plain one.
        status = None
    if status is None:
        return Details()
    info = error_details_pb2.ErrorInfo()
    request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    links = error_details_pb2.Help()
    about = error_details_pb2.RequestInfo()
    for detail in status.details:
        for message in (info, request, retry, links, about):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    ours = info.domain == _DOMAIN
    return Details(
        reason=info.reason if ours else "",
        metadata=dict(info.metadata) if ours else {},
        violations=tuple(
            FieldViolation(field=each.field, message=each.description) for each in request.field_violations
        ),
        retry_after=retry.retry_delay.ToTimedelta().total_seconds()
        if retry.HasField("retry_delay")
        else None,
        help="; ".join(link.description for link in links.links),
        request_id=about.request_id,
    )
