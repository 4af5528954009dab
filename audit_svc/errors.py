"""The errors of the audit log, by situation."""

import uuid

from interlock.common.v1 import errors_pb2
from svc_kit.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    Unavailable,
)


def event_id_reused(event_id: uuid.UUID) -> AlreadyExists:
    """The id stands in the log with other content; the first content stays."""
    return AlreadyExists(
        errors_pb2.ERROR_REASON_EVENT_ID_REUSED,
        f"event {event_id} was appended before with other content",
        metadata={"event_id": str(event_id)},
        help="give every event an id of its own; repeat an id only to repeat the same event",
    )


def entry_not_found(what: str) -> NotFound:
    """No such entry in the caller's own log."""
    return NotFound(errors_pb2.ERROR_REASON_ENTRY_NOT_FOUND, f"no entry {what} in this log")


def erasure_not_found(erasure_id: uuid.UUID) -> NotFound:
    """No such erasure in the caller's own tenant."""
    return NotFound(errors_pb2.ERROR_REASON_ERASURE_NOT_FOUND, f"no erasure {erasure_id} in this tenant")


def erasure_request_reused(request_id: uuid.UUID | None) -> AlreadyExists:
    """The request id began another erasure; that one stays."""
    return AlreadyExists(
        errors_pb2.ERROR_REASON_REQUEST_ID_REUSED,
        f"the request id {request_id} began another erasure before",
        metadata={"request_id": str(request_id)},
        help="give every erasure a request id of its own",
    )


def payload_erased(event_id: uuid.UUID, part: str, *, explained_by: int) -> NotFound:
    """It was there; the entry that is named says what became of it."""
    return NotFound(
        errors_pb2.ERROR_REASON_PAYLOAD_ERASED,
        f"the content {part} of entry {event_id} was removed; entry #{explained_by} says why",
        metadata={"explained_by": str(explained_by)},
    )


def operators_alone() -> PermissionDenied:
    """What concerns all tenants is for whoever runs the suite."""
    return PermissionDenied(
        errors_pb2.ERROR_REASON_ROLE_REQUIRED,
        "the key of all logs is changed by SUPER_ADMIN of the tenant system",
        metadata={"needs": "SUPER_ADMIN"},
    )


def payloads_forbidden() -> PermissionDenied:
    """Seeing that something was said is one right, reading it another."""
    return PermissionDenied(
        errors_pb2.ERROR_REASON_ROLE_REQUIRED,
        "reading payloads needs the role DEVELOPER or AUDITOR",
        metadata={"needs": "DEVELOPER,AUDITOR"},
        help="ask without include_payloads, or with a token that has one of these roles",
    )


def log_damaged(origin: str, what: str) -> DataLoss:
    """The stored tree contradicts what this log signed; nothing more is signed until somebody has looked."""
    return DataLoss(
        errors_pb2.ERROR_REASON_INTERNAL,
        f"the log {origin} contradicts its own signed checkpoint: {what}",
        help="restore the database to a state that continues the newest checkpoint in the checkpoint folder",
    )


def month_not_ready() -> Unavailable:
    """The month in an event's id has no partition: the service was away for long, or cannot make any."""
    return Unavailable(
        errors_pb2.ERROR_REASON_DATABASE_UNAVAILABLE,
        "the log has no place yet for the month of an event_id; try again shortly",
        retry_after=1.0,
        help="where this lasts: see the service's log for `months_not_made`",
    )


def retention_locked(retention_class: str) -> FailedPrecondition:
    """A locked rule can only be lengthened, and is never unlocked."""
    return FailedPrecondition(
        errors_pb2.ERROR_REASON_RETENTION_LOCKED,
        f"the retention of {retention_class} is locked: its days can only become more, and it stays so",
        metadata={"class": retention_class},
        help="ask for what is kept with GetRetentionPolicy, and set locked and days at least as long",
    )


def content_kept(keeper: str) -> FailedPrecondition:
    """Something that was to be removed is held, or within its minimum."""
    return FailedPrecondition(
        errors_pb2.ERROR_REASON_CONTENT_KEPT,
        f"a content that was to be removed is kept ({keeper}); nothing was removed",
        metadata={"kept_by": keeper},
        help="leave out what is held, or have the hold released",
    )


def hold_not_found(hold_id: uuid.UUID) -> NotFound:
    """No such hold in the caller's own log."""
    return NotFound(errors_pb2.ERROR_REASON_HOLD_NOT_FOUND, f"no hold {hold_id} in this log")
