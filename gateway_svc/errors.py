"""The gateway's refusals and failures; every one says how far the call came."""

import uuid

from gateway_svc.tool_call import Asked, CallStatus, Outcome, SignedReceipt
from interlock.common.v1.errors_pb2 import ErrorReason
from interlock.common.v1.permit_pb2 import Signed
from svc_kit.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    DomainError,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Unknown,
    Violation,
)

NOT_STARTED = "NOT_STARTED"
STARTED = "STARTED"
COMPLETED = "COMPLETED"
UNKNOWN = "UNKNOWN"

STALE_ATTEMPT = "STALE_ATTEMPT"
TOOL_CANCELED = "TOOL_CANCELED"
APPROVAL_REQUIRED = "APPROVAL_REQUIRED"

_RETRY_SECONDS = 1.0
_MAX_PLACE = 80
_INVALID = {
    "OUTPUT_INVALID": ErrorReason.ERROR_REASON_OUTPUT_INVALID,
    "MODEL_OUTPUT_INVALID": ErrorReason.ERROR_REASON_MODEL_OUTPUT_INVALID,
}


def with_state(error: DomainError, state: str) -> DomainError:
    """The same error, saying how far the call came unless it says so already."""
    if "execution_state" not in error.metadata:
        error.metadata = {**error.metadata, "execution_state": state}
    return error


def is_refusal(error: DomainError) -> bool:
    """Whether a check refused the call, as against something that is away, full or broken for now."""
    refusals = (PermissionDenied, FailedPrecondition, InvalidArgument)
    return isinstance(error, refusals) or error.reason_name == STALE_ATTEMPT


def is_recorded(error: DomainError) -> bool:
    """Whether the audit log is told that a check stopped the call: it refused, or could not decide.

    What is full, or runs elsewhere, says nothing of the call; without the database nobody can be told.
    """
    undecided = isinstance(error, (Unavailable, Internal)) and error.reason_name != "DATABASE_UNAVAILABLE"
    return is_refusal(error) or undecided


def is_verdict(error: DomainError) -> bool:
    """Whether asking for the same call again, with whatever permit, would be refused again."""
    not_of_the_call = error.reason_name in (
        "PERMIT_EXPIRED",
        "SIGNATURE_INVALID",
        STALE_ATTEMPT,
        APPROVAL_REQUIRED,
    )
    unstarted = error.metadata.get("execution_state") == NOT_STARTED
    return is_refusal(error) and unstarted and not not_of_the_call


def with_verdict(error: DomainError) -> DomainError:
    """The same error, saying so when it is a verdict on the call."""
    if is_verdict(error):
        error.metadata = {**error.metadata, "verdict": "true"}
    return error


# Admission


def overloaded(retry_after: float) -> DomainError:
    """No room for one more call."""
    return ResourceExhausted(
        ErrorReason.ERROR_REASON_OVERLOADED,
        "the gateway works on as many calls as it can; come back shortly",
        retry_after=retry_after,
    )


class QuotaExceededError(ResourceExhausted):
    """No room under a limit for now; nothing was begun."""


def quota_exceeded(where: str, limit: str, *, most: int, said_by: str, retry_after: float) -> DomainError:
    """As much is called as may be."""
    what = {
        "max_running": f"has as many calls under way as it may ({most})",
        "max_per_minute": f"was called as often as it may be in a minute ({most})",
        "max_tokens_per_day": f"has used up or set aside the tokens of this day ({most})",
        "max_cost_micros_per_day": f"has used up or set aside the money of this day ({most} millionths)",
    }[limit]
    return QuotaExceededError(
        ErrorReason.ERROR_REASON_QUOTA_EXCEEDED,
        f"{where} {what}; the limit {limit} is set by {said_by}",
        metadata={"limit": limit, "at": where, "most": str(most)},
        retry_after=retry_after,
    )


def no_time_left() -> DomainError:
    """The caller's deadline passed before the call could start."""
    return DeadlineExceeded(
        ErrorReason.ERROR_REASON_OVERLOADED, "the caller's deadline passed while the call waited to start"
    )


def draining() -> DomainError:
    """The process ends."""
    return Unavailable(
        ErrorReason.ERROR_REASON_DRAINING, "this gateway is stopping", retry_after=_RETRY_SECONDS
    )


# Permit


def permit_mismatch(field: str, message: str) -> DomainError:
    """The permit is not for this."""
    return PermissionDenied(ErrorReason.ERROR_REASON_PERMIT_MISMATCH, message, metadata={"field": field})


def tenant_forbidden(tenant: str) -> DomainError:
    """The worker's token names no pool of that tenant."""
    return PermissionDenied(
        ErrorReason.ERROR_REASON_TENANT_FORBIDDEN,
        f"the worker's token names no pool of tenant {tenant}",
        metadata={"tenant": tenant},
    )


# Attempt


def stale_attempt(asked: Asked, why: str) -> DomainError:
    """Nobody works on that attempt any more, or nobody should begin anything for it."""
    return Aborted(
        ErrorReason.ERROR_REASON_STALE_ATTEMPT,
        f"attempt {asked.attempt} of task {asked.task_id} {why}",
        metadata={"task_id": str(asked.task_id), "attempt": str(asked.attempt)},
    )


# Binding


def tool_not_bound(asked: Asked) -> DomainError:
    """Not listed, or not there at all: both answer alike, so that nobody can find out what exists."""
    return PermissionDenied(
        ErrorReason.ERROR_REASON_TOOL_NOT_BOUND,
        f"agent {asked.agent} {asked.agent_version} has no tool {asked.tool}",
        metadata={"agent": asked.agent, "tool": asked.tool, "call_id": str(asked.call_id)},
        help="Publish a version of the agent that lists the tool.",
    )


def agent_version_not_found(agent: str, version: str) -> DomainError:
    """No such version, or no such agent, in this tenant."""
    return NotFound(
        ErrorReason.ERROR_REASON_AGENT_VERSION_NOT_FOUND,
        f"there is no version {version or 'at all'} of agent {agent}",
        metadata={"agent": agent, "version": version},
    )


def not_active(kind: str, name: str) -> DomainError:
    """Somebody disabled it."""
    return FailedPrecondition(
        ErrorReason.ERROR_REASON_NOT_ACTIVE, f"{kind} {name} is disabled", metadata={kind: name}
    )


def definition_changed(asked: Asked) -> DomainError:
    """What would run is not what the agent version pinned."""
    return FailedPrecondition(
        ErrorReason.ERROR_REASON_TOOL_DEFINITION_CHANGED,
        f"tool {asked.tool} {asked.tool_version} is not as {asked.agent} {asked.agent_version} pinned it",
        metadata={"tool": asked.tool},
    )


def stale(feed: str, seconds: float) -> DomainError:
    """Decisions would stand on old knowledge."""
    since = "has not been heard yet" if seconds == float("inf") else f"has been silent for {seconds:.0f} s"
    return Unavailable(
        ErrorReason.ERROR_REASON_POLICY_STALE, f"the {feed} {since}", retry_after=_RETRY_SECONDS
    )


def registry_away() -> DomainError:
    """What its copy here lacks cannot be asked for."""
    return Unavailable(
        ErrorReason.ERROR_REASON_POLICY_STALE,
        "the registry cannot be asked for what was published a moment ago",
        retry_after=_RETRY_SECONDS,
    )


# Arguments


def arguments_invalid(violations: list[Violation]) -> DomainError:
    """The message names the places alone: what stands there may be nobody else's business."""
    # Cut off, since they hold names that the caller chose, and the message is kept and listed with the call.
    places = ", ".join(violation.field[:_MAX_PLACE] or "the whole" for violation in violations[:10])
    more = " and more" if len(violations) > 10 else ""  # noqa: PLR2004 -- as many as are named
    return InvalidArgument(
        ErrorReason.ERROR_REASON_ARGUMENTS_INVALID,
        f"the arguments do not fit the tool's schema at {places}{more}",
        violations=violations,
    )


# Policy


def policy_denied(asked: Asked, *, forbidden: bool) -> DomainError:
    """What decided is told to people (in the verdict), not to the agent, which could find its way around."""
    what = "a policy forbids" if forbidden else "no policy allows"
    return PermissionDenied(
        ErrorReason.ERROR_REASON_POLICY_DENIED,
        f"{what} that agent {asked.agent} calls tool {asked.tool} with these arguments",
        metadata={"agent": asked.agent, "tool": asked.tool, "call_id": str(asked.call_id)},
        help=f"Why: interlock why {asked.call_id}. To allow it: interlock allow {asked.agent} {asked.tool}",
    )


def ancestor_denied(asked: Asked, ancestor: str) -> DomainError:
    """The agent itself would be allowed; the one that it works for is not."""
    return PermissionDenied(
        ErrorReason.ERROR_REASON_ANCESTOR_DENIED,
        f"agent {asked.agent} works for agent {ancestor}, which may not call tool {asked.tool} with these"
        " arguments",
        metadata={
            "agent": asked.agent,
            "ancestor": ancestor,
            "tool": asked.tool,
            "call_id": str(asked.call_id),
        },
        help=f"Why: interlock why {asked.call_id}. To allow it: interlock allow {ancestor} {asked.tool}",
    )


def model_ancestor_denied(asked: Asked, ancestor: str) -> DomainError:
    """The connection lists the agent itself, but not the one that it works for."""
    return PermissionDenied(
        ErrorReason.ERROR_REASON_ANCESTOR_DENIED,
        f"agent {asked.agent} works for agent {ancestor}, which may not use connection {asked.tool}",
        metadata={
            "agent": asked.agent,
            "ancestor": ancestor,
            "connection": asked.tool,
            "call_id": str(asked.call_id),
        },
        help=f"List agent {ancestor} on the connection, if it may use it itself.",
    )


# Approval


def approval_required(approval_id: uuid.UUID, role: str) -> DomainError:
    """A person has to say yes first; the worker parks the task until then."""
    return FailedPrecondition(
        ErrorReason.ERROR_REASON_APPROVAL_REQUIRED,
        "a person has to approve this call first",
        metadata={"approval_id": str(approval_id), "decider_role": role},
        help=f"interlock approvals show {approval_id}; then: interlock approve {approval_id}",
    )


def asked_anew() -> DomainError:
    """A policy came to ask for an approval, or a stricter one, while the call was written ahead."""
    return Unavailable(
        ErrorReason.ERROR_REASON_POLICY_STALE,
        "a policy changed while the call began; ask again",
        retry_after=_RETRY_SECONDS,
    )


def approval_denied(approval_id: uuid.UUID, why: str) -> DomainError:
    """A person said no, or nobody decided in time."""
    return PermissionDenied(
        ErrorReason.ERROR_REASON_APPROVAL_DENIED,
        f"the call was not approved: {why}",
        metadata={"approval_id": str(approval_id)},
    )


def approval_not_found(approval_id: str) -> DomainError:
    """No such approval in this tenant."""
    return NotFound(
        ErrorReason.ERROR_REASON_APPROVAL_NOT_FOUND,
        f"there is no approval {approval_id}",
        metadata={"approval_id": approval_id},
    )


def approval_closed(approval_id: uuid.UUID, how: str) -> DomainError:
    """Too late to decide."""
    return FailedPrecondition(
        ErrorReason.ERROR_REASON_APPROVAL_CLOSED,
        f"approval {approval_id} {how}",
        metadata={"approval_id": str(approval_id)},
    )


def approval_forbidden(approval_id: uuid.UUID, why: str) -> DomainError:
    """Somebody else has to decide."""
    return PermissionDenied(
        ErrorReason.ERROR_REASON_APPROVAL_FORBIDDEN, why, metadata={"approval_id": str(approval_id)}
    )


def cursor_invalid(why: str) -> DomainError:
    """The position is of another log, or of one that was put back since."""
    return OutOfRange(ErrorReason.ERROR_REASON_CURSOR_INVALID, why, help="Watch again without a cursor.")


# Reach and execution


def sandbox_unavailable(message: str, *, level: str, minimum: str) -> DomainError:
    """Code is refused, never run weaker in silence."""
    return FailedPrecondition(
        ErrorReason.ERROR_REASON_SANDBOX_UNAVAILABLE,
        message,
        metadata={"level": level, "minimum": minimum},
        help="`interlock doctor` names what this host lacks and how to get it.",
    )


def profile_unknown(profile: str) -> DomainError:
    """The operator of this gateway has not set it up."""
    return FailedPrecondition(
        ErrorReason.ERROR_REASON_PROFILE_UNKNOWN,
        f"this gateway has no runtime profile {profile}",
        metadata={"profile": profile},
        help="An operator adds it to INTERLOCK_GATEWAY_SANDBOX_PROFILES; GetSandboxStatus lists all.",
    )


def sandbox_failed() -> DomainError:
    """The host makes no sandbox at this moment; nothing was executed."""
    return Unavailable(
        ErrorReason.ERROR_REASON_SANDBOX_UNAVAILABLE,
        "this host makes no sandbox now",
        retry_after=_RETRY_SECONDS,
    )


def no_slot_yet() -> DomainError:
    """A call that began now would belong to nobody, and be given up at once."""
    return Unavailable(
        ErrorReason.ERROR_REASON_DATABASE_UNAVAILABLE,
        "this gateway has not found its database yet",
        retry_after=_RETRY_SECONDS,
    )


def refusal_in_doubt() -> DomainError:
    """The refusal of a call may be recorded or not; asking again records it."""
    return Unavailable(
        ErrorReason.ERROR_REASON_DATABASE_UNAVAILABLE,
        "the database was lost while a refusal was stored",
        retry_after=_RETRY_SECONDS,
    )


def audit_unavailable() -> DomainError:
    """What cannot be recorded is not done."""
    return Unavailable(
        ErrorReason.ERROR_REASON_AUDIT_UNAVAILABLE,
        "the audit log cannot record the call, so it was not started",
        retry_after=_RETRY_SECONDS,
    )


def broken() -> DomainError:
    """A bug."""
    return Internal(
        ErrorReason.ERROR_REASON_INTERNAL, "the gateway failed; the log has it under the request id"
    )


def still_running() -> DomainError:
    """The caller cannot wait any longer for a call that somebody else runs."""
    return DeadlineExceeded(
        ErrorReason.ERROR_REASON_TOOL_TIMEOUT,
        "the call is still running; ask again with the same call id",
        metadata={"execution_state": STARTED},
    )


def outcome_error(outcome: Outcome) -> DomainError | None:  # noqa: PLR0911 - one of many
    """The error that a stored outcome answers with, its receipt among the details; None: the reply is OK."""
    completed = {"execution_state": COMPLETED}
    receipt = [_signed(outcome.receipt)] if outcome.receipt is not None else []
    if outcome.reason in ("MODEL_UNAVAILABLE", "MODEL_TIMEOUT"):
        return _model_silent(outcome)
    if outcome.status is CallStatus.UNKNOWN:
        return Unknown(
            ErrorReason.ERROR_REASON_OUTCOME_UNKNOWN,
            "the call had started when its gateway was lost; whether it had an effect is not known",
            metadata={"execution_state": UNKNOWN},
        )
    if outcome.reason == "TOOL_TIMEOUT":
        return DeadlineExceeded(
            ErrorReason.ERROR_REASON_TOOL_TIMEOUT, outcome.message, metadata=completed, details=receipt
        )
    if outcome.reason == TOOL_CANCELED:
        return Aborted(
            ErrorReason.ERROR_REASON_TOOL_CANCELED, outcome.message, metadata=completed, details=receipt
        )
    if outcome.reason == "LIMIT_EXCEEDED":
        return ResourceExhausted(
            ErrorReason.ERROR_REASON_LIMIT_EXCEEDED,
            outcome.message,
            metadata={"limit": outcome.limit, **completed},
            details=receipt,
        )
    if outcome.reason in _INVALID:
        return Internal(_INVALID[outcome.reason], outcome.message, metadata=completed, details=receipt)
    return None


def _model_silent(outcome: Outcome) -> DomainError:
    """The request was sent, and no whole answer came; it may be sent again."""
    unknown = {"execution_state": UNKNOWN}
    if outcome.reason == "MODEL_TIMEOUT":
        return DeadlineExceeded(ErrorReason.ERROR_REASON_MODEL_TIMEOUT, outcome.message, metadata=unknown)
    return Unavailable(
        ErrorReason.ERROR_REASON_MODEL_UNAVAILABLE,
        outcome.message,
        metadata=unknown,
        retry_after=_RETRY_SECONDS,
    )


def _signed(receipt: SignedReceipt) -> Signed:
    return Signed(key_id=receipt.key_id, payload=receipt.payload, signature=receipt.signature)


# Reading and ending calls, and policies


def not_ended(call_id: str) -> DomainError:
    """The gateway that runs the call has not ended it in time."""
    return Unavailable(
        ErrorReason.ERROR_REASON_PEER_UNAVAILABLE,
        f"the gateway that runs tool call {call_id} has not ended it yet; it was told, ask again",
        retry_after=_RETRY_SECONDS,
    )


def tool_call_not_found(call_id: str) -> DomainError:
    """No such call in the caller's tenant."""
    return NotFound(ErrorReason.ERROR_REASON_TOOL_CALL_NOT_FOUND, f"no tool call {call_id[:64]}")


def policy_not_found(policy_id: str) -> DomainError:
    """No such policy in the caller's tenant."""
    return NotFound(ErrorReason.ERROR_REASON_POLICY_NOT_FOUND, f"no policy {policy_id[:64]}")


def tool_version_not_found(tool: str, version: str) -> DomainError:
    """No such version, or no such tool, in this tenant."""
    return NotFound(
        ErrorReason.ERROR_REASON_TOOL_VERSION_NOT_FOUND,
        f"there is no version {version[:64]} of tool {tool[:128]}",
        metadata={"tool": tool[:128], "version": version[:64]},
    )


def policy_invalid(message: str) -> DomainError:
    """The text is no policy."""
    return InvalidArgument(
        ErrorReason.ERROR_REASON_POLICY_INVALID,
        f"the policy is refused: {message}",
        violations=[Violation("policy.cedar", message)],
    )


def policy_id_taken(policy_id: str) -> DomainError:
    """Another policy has that id."""
    return AlreadyExists(ErrorReason.ERROR_REASON_NAME_TAKEN, f"policy {policy_id} exists already")


def policy_changed(policy_id: str) -> DomainError:
    """Somebody was faster."""
    return Aborted(
        ErrorReason.ERROR_REASON_ETAG_MISMATCH,
        f"policy {policy_id} is not what it was when its etag was read",
    )


# Connections


def connection_not_found(connection_id: str) -> DomainError:
    """No such connection in the caller's tenant."""
    return NotFound(ErrorReason.ERROR_REASON_CONNECTION_NOT_FOUND, f"no connection {connection_id[:64]}")


def connection_id_taken(connection_id: str) -> DomainError:
    """Another connection has that id."""
    return AlreadyExists(ErrorReason.ERROR_REASON_NAME_TAKEN, f"connection {connection_id} exists already")


def connection_changed(connection_id: str) -> DomainError:
    """Somebody was faster."""
    return Aborted(
        ErrorReason.ERROR_REASON_ETAG_MISMATCH,
        f"connection {connection_id} is not what it was when its etag was read",
    )


def credential_unreadable(connection_id: str) -> DomainError:
    """It was sealed with another key."""
    return FailedPrecondition(
        ErrorReason.ERROR_REASON_CREDENTIAL_MISSING,
        f"the credential of connection {connection_id} cannot be read with this gateway's key",
        metadata={"connection": connection_id},
        help=f"Set it again: interlock connections set-credential {connection_id}",
    )


# Models


def connection_not_bound(asked: Asked) -> DomainError:
    """Not named, not listed or not there at all: all answer alike, so that nobody finds out what exists."""
    return PermissionDenied(
        ErrorReason.ERROR_REASON_CONNECTION_NOT_BOUND,
        f"agent {asked.agent} {asked.agent_version} may not use connection {asked.tool} with its model",
        metadata={"agent": asked.agent, "connection": asked.tool, "call_id": str(asked.call_id)},
        help=f"Why: interlock why {asked.call_id}. The connection must list agent and model.",
    )


def connection_not_granted(asked: Asked, connection_id: str) -> DomainError:
    """Not listed by the tool, not listing it, or not there at all: all answer alike."""
    return PermissionDenied(
        ErrorReason.ERROR_REASON_CONNECTION_NOT_BOUND,
        f"tool {asked.tool} {asked.tool_version} may not use connection {connection_id[:64]}",
        metadata={"tool": asked.tool, "connection": connection_id[:64], "call_id": str(asked.call_id)},
        help="The tool version must list the connection, and the connection the digest of the tool version.",
    )


def address_forbidden(connection_id: str, host: str) -> DomainError:
    """The name leads where the connection may not."""
    return PermissionDenied(
        ErrorReason.ERROR_REASON_ADDRESS_FORBIDDEN,
        f"host {host} of connection {connection_id} is at an address that may not be called",
        metadata={"connection": connection_id},
        help="https leads to public addresses; private and loopback ones need allow_private_addresses.",
    )


def model_busy(connection_id: str, status: int, *, retry_after: float) -> DomainError:
    """The provider takes no more for now."""
    return ResourceExhausted(
        ErrorReason.ERROR_REASON_MODEL_BUSY,
        f"the provider behind connection {connection_id} takes no more requests for now",
        metadata={"connection": connection_id, "http_status": str(status)},
        retry_after=retry_after,
    )


def model_unavailable(connection_id: str, what: str, *, retry_after: float) -> DomainError:
    """The provider did nothing, and may do it later."""
    return Unavailable(
        ErrorReason.ERROR_REASON_MODEL_UNAVAILABLE,
        f"the provider behind connection {connection_id} {what}",
        metadata={"connection": connection_id},
        retry_after=retry_after,
    )


def model_refused(connection_id: str, status: int, said: str) -> DomainError:
    """The provider will not do it, now or later."""
    why = f": {said}" if said else ""
    return FailedPrecondition(
        ErrorReason.ERROR_REASON_MODEL_REFUSED,
        f"the provider behind connection {connection_id} answered {status}{why}",
        metadata={"connection": connection_id, "http_status": str(status)},
    )
