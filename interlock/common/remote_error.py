"""What a failed call says: its status, and the typed details that Interlock's servers send along."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

Detail = TypeVar("Detail", bound=Message)

DOMAIN = "interlock"
STATUS_KEY = "grpc-status-details-bin"
REQUEST_ID_KEY = "x-request-id"


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with one field of a request."""

    field: str  # path as the contract spells it: "input_json", "agents[2].name"
    message: str  # what is wrong and what would be right
    reason: str = ""  # UPPER_SNAKE_CASE for programs, where they need to tell violations apart


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
        details: Sequence[any_pb2.Any] = (),
    ) -> None:
        super().__init__(f"{code.name}{f' {reason}' if reason else ''}: {message}")
        self.code = code
        self.reason = reason  # a name of ErrorReason without its prefix; "" if the error is not one of ours
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = violations
        self.retry_after = retry_after  # seconds
        self.help = help
        self.request_id = request_id
        self._details = tuple(details)

    def detail(self, kind: type[Detail]) -> Detail | None:
        """The detail of that type, for those that only some methods send along; None without one."""
        found = kind()
        return found if _unpack(self._details, (found,)) else None

    @classmethod
    def of(cls, error: grpc.RpcError) -> Self:
        """What `error` says, from a sync or an aio call."""
        if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
            return cls(code=grpc.StatusCode.UNKNOWN, message=str(error))
        trailing = {str(key): value for key, value in error.trailing_metadata() or ()}
        info = error_details_pb2.ErrorInfo()
        request = error_details_pb2.RequestInfo(request_id=str(trailing.get(REQUEST_ID_KEY, "")))
        bad_request = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        links = error_details_pb2.Help()
        details = _details(trailing.get(STATUS_KEY))
        _unpack(details, (info, request, bad_request, retry, links))
        ours = info.domain == DOMAIN
        return cls(
            code=known_code(error.code()),
            message=error.details() or "",
            reason=info.reason if ours else "",
            metadata=info.metadata if ours else {},
            violations=tuple(
                Violation(v.field, v.description, v.reason) for v in bad_request.field_violations
            ),
            retry_after=_seconds(retry),
            help=" ".join(link.description for link in links.links),
            request_id=request.request_id,
            details=details,
        )


def known_code(code: grpc.StatusCode) -> grpc.StatusCode:
    """The code of an answer, with UNAVAILABLE for CANCELLED.

    A call that its own caller cancels raises CancelledError here. What comes from the peer is a server that
    stopped before it began the call, or in the middle of it: it is away.
    """
    return grpc.StatusCode.UNAVAILABLE if code is grpc.StatusCode.CANCELLED else code


def retry_after(trailing: Iterable[tuple[str, str | bytes]] | None) -> float | None:
    """The seconds that the RetryInfo in trailing metadata asks for; None without one."""
    retry = error_details_pb2.RetryInfo()
    _unpack(_details(dict(trailing or ()).get(STATUS_KEY)), (retry,))
    return _seconds(retry)


def _seconds(retry: error_details_pb2.RetryInfo) -> float | None:
    return retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None


def _details(data: object) -> Sequence[any_pb2.Any]:
    """The details of a status; none where it is damaged, for the code stays."""
    if not isinstance(data, bytes):
        return ()
    try:
        return status_pb2.Status.FromString(data).details
    except DecodeError:
        return ()


def _unpack(details: Sequence[any_pb2.Any], targets: Sequence[Message]) -> bool:
    """Fill each of `targets` from the detail of its type, damaged ones left out; whether any was filled."""
    filled = False
    for detail in details:
        for target in targets:
            if detail.TypeName() == target.DESCRIPTOR.full_name:
                with contextlib.suppress(DecodeError):
                    filled = detail.Unpack(target) or filled
    return filled
