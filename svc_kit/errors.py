"""Errors of the domain. One interceptor turns them into statuses; nothing else touches grpc codes."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import grpc
from google.protobuf.message import Message

from interlock.common.remote_error import Violation
from interlock.common.v1.errors_pb2 import ErrorReason

__all__ = [
    "Aborted",
    "AlreadyExists",
    "DataLoss",
    "DeadlineExceeded",
    "DomainError",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
    "Unknown",
    "Violation",
    "invalid",
    "reason_name",
]

_PREFIX = "ERROR_REASON_"


class DomainError(Exception):
    """The call cannot be done, for a reason its caller should know.

    `message` and everything else here reaches the caller: no secrets, no text of foreign exceptions.
    `retry_after` is seconds. `help` is one sentence on how to mend it. `details` are further messages of the
    contract that go along with the status.
    """

    code: ClassVar[grpc.StatusCode]

    def __init__(
        self,
        reason: ErrorReason.ValueType,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after: float | None = None,
        help: str | None = None,  # noqa: A002 - the name of the detail that it becomes
        details: Sequence[Message] = (),
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.help = help
        self.details = tuple(details)

    @property
    def reason_name(self) -> str:
        """The reason as the wire carries it, for example "TASK_NOT_FOUND"."""
        return reason_name(self.reason)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reason_name}, {self.message!r})"


class InvalidArgument(DomainError):
    """The request is wrong whatever the state of the world; `violations` lists everything wrong with it."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(DomainError):
    """No such thing in the caller's tenant."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(DomainError):
    """The name or id is taken by something else."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(DomainError):
    """The request is right, but not in this state; repeating it unchanged does not help."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(DomainError):
    """Somebody else was faster: read again, then decide again."""

    code = grpc.StatusCode.ABORTED


class PermissionDenied(DomainError):
    """We know who calls, and they may not."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Unauthenticated(DomainError):
    """We do not know who calls."""

    code = grpc.StatusCode.UNAUTHENTICATED


class ResourceExhausted(DomainError):
    """Too much at once; `retry_after` says when to come back."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(DomainError):
    """Something needed is away for now; `retry_after` says when to come back."""

    code = grpc.StatusCode.UNAVAILABLE


class OutOfRange(DomainError):
    """The cursor or revision lies outside what is kept."""

    code = grpc.StatusCode.OUT_OF_RANGE


class DeadlineExceeded(DomainError):
    """The time allowed ran out."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class DataLoss(DomainError):
    """Stored data is damaged beyond repair by a retry."""

    code = grpc.StatusCode.DATA_LOSS


class Unknown(DomainError):
    """Whether the effect took place cannot be known."""

    code = grpc.StatusCode.UNKNOWN


class Internal(DomainError):
    """A bug or a broken part, described in words that are safe to send."""

    code = grpc.StatusCode.INTERNAL


def invalid(violations: Sequence[Violation]) -> InvalidArgument:
    """INVALID_FIELDS with all `violations`; its message repeats them for readers who see nothing else."""
    listed = "; ".join(f"{v.field}: {v.message}" if v.field else v.message for v in violations)
    return InvalidArgument(ErrorReason.ERROR_REASON_INVALID_FIELDS, listed, violations=violations)


def reason_name(reason: ErrorReason.ValueType) -> str:
    """The name of `reason` without its prefix, for example "TASK_NOT_FOUND"."""
    return ErrorReason.Name(reason).removeprefix(_PREFIX)
