"""Attempt tokens and step permits: signed rights that the orchestrator gives out."""

from collections.abc import Mapping
from datetime import UTC, datetime

from google.protobuf.message import DecodeError

from interlock.common.v1.errors_pb2 import ErrorReason
from interlock.common.v1.permit_pb2 import AttemptClaims, Signed, StepPermit
from svc_kit.errors import FailedPrecondition, PermissionDenied
from svc_kit.signing import ATTEMPT_PURPOSE, PERMIT_PURPOSE, KeyRing, SigningKey


def issue_attempt_token(key: SigningKey, claims: AttemptClaims) -> Signed:
    """The signed right to act for the attempt that `claims` name."""
    return key.sign(ATTEMPT_PURPOSE, claims.SerializeToString(deterministic=True))


def issue_step_permit(key: SigningKey, permit: StepPermit) -> Signed:
    """The signed right to start the one call that `permit` describes."""
    return key.sign(PERMIT_PURPOSE, permit.SerializeToString(deterministic=True))


def verify_attempt_token(
    keys: KeyRing, token: Signed, *, now: datetime, worker_subject: str, **bound: str | int
) -> AttemptClaims:
    """What a good token claims.

    `bound` are further fields of AttemptClaims that must have these values (tenant, task_id, attempt,
    session_id). Raises SIGNATURE_INVALID, ATTEMPT_TOKEN_MISMATCH (metadata: field) or ATTEMPT_TOKEN_EXPIRED.
    """
    claims = AttemptClaims()
    _parse(claims, keys.verify(ATTEMPT_PURPOSE, token))
    mismatch = ErrorReason.ERROR_REASON_ATTEMPT_TOKEN_MISMATCH
    _check_bound(claims, {"worker_subject": worker_subject, **bound}, mismatch, "attempt token")
    if _expired(claims, now):
        raise FailedPrecondition(
            ErrorReason.ERROR_REASON_ATTEMPT_TOKEN_EXPIRED,
            "the attempt token has expired; its session did not renew it in time",
        )
    return claims


def verify_step_permit(
    keys: KeyRing, permit: Signed, *, now: datetime, worker_subject: str, **bound: str | int
) -> StepPermit:
    """What a good permit allows.

    `bound` are further fields of StepPermit that must have these values (argument_digest, tenant, call_id …).
    Raises SIGNATURE_INVALID, PERMIT_MISMATCH (metadata: field) or PERMIT_EXPIRED.
    """
    claims = read_step_permit(keys, permit)
    check_step_permit(claims, now=now, worker_subject=worker_subject, **bound)
    return claims


def read_step_permit(keys: KeyRing, permit: Signed) -> StepPermit:
    """What a genuine permit says, for whomever and however old; raises SIGNATURE_INVALID."""
    claims = StepPermit()
    _parse(claims, keys.verify(PERMIT_PURPOSE, permit))
    return claims


def check_step_permit(claims: StepPermit, *, now: datetime, worker_subject: str, **bound: str | int) -> None:
    """Whether a genuine permit is good here and now; see `verify_step_permit`."""
    mismatch = ErrorReason.ERROR_REASON_PERMIT_MISMATCH
    _check_bound(claims, {"worker_subject": worker_subject, **bound}, mismatch, "step permit")
    if _expired(claims, now):
        raise FailedPrecondition(
            ErrorReason.ERROR_REASON_PERMIT_EXPIRED,
            "the step permit has expired",
            help="Ask the orchestrator for a new permit for the same step.",
        )


def _parse(claims: AttemptClaims | StepPermit, payload: bytes) -> None:
    try:
        claims.ParseFromString(payload)
    except DecodeError:
        raise PermissionDenied(
            ErrorReason.ERROR_REASON_SIGNATURE_INVALID, "the signed payload cannot be read"
        ) from None


def _check_bound(
    claims: AttemptClaims | StepPermit,
    bound: Mapping[str, str | int],
    reason: ErrorReason.ValueType,
    name: str,
) -> None:
    for field, expected in bound.items():
        # An empty value in a signed right binds nothing, so it never counts as equal.
        if not expected or getattr(claims, field) != expected:
            raise PermissionDenied(
                reason, f"the {name} is for another {field.replace('_', ' ')}", metadata={"field": field}
            )


def _expired(claims: AttemptClaims | StepPermit, now: datetime) -> bool:
    return claims.expire_time.ToDatetime(UTC) <= now
