"""Signed rights: attempt tokens for workers, step permits for the gateway."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from interlock.common.v1 import permit_pb2
from orchestrator_svc.agents import Bound, BoundTool
from orchestrator_svc.records import AttemptRef, LockedTask, Step
from svc_kit.clock import Clock
from svc_kit.permits import issue_attempt_token, issue_step_permit, verify_attempt_token
from svc_kit.signing import KeyRing, SigningKey

# A permit outlives the call that it starts by this much: time to reach the gateway.
_PERMIT_SLACK_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldAttempt:
    """What a verified attempt token proves."""

    ref: AttemptRef
    session_id: uuid.UUID
    subject: str


class Rights:
    """Issues and checks; one key per use."""

    def __init__(
        self, *, attempt_key: SigningKey, permit_key: SigningKey, clock: Clock, token_seconds: float
    ) -> None:
        self._attempt_key = attempt_key
        self._permit_key = permit_key
        self._ring = KeyRing([attempt_key.public()])
        self._clock = clock
        self.token_seconds = token_seconds

    def public_keys(self) -> Sequence[permit_pb2.PublicKey]:
        """What verifiers need."""
        return [self._attempt_key.public(), self._permit_key.public()]

    def attempt_token(self, held: HeldAttempt) -> permit_pb2.Signed:
        """The right to act for an attempt, for the next `token_seconds`."""
        claims = permit_pb2.AttemptClaims(
            tenant=held.ref.tenant,
            task_id=str(held.ref.task_id),
            attempt=held.ref.attempt,
            worker_subject=held.subject,
            session_id=str(held.session_id),
        )
        claims.expire_time.FromDatetime(self._in(self.token_seconds))
        return issue_attempt_token(self._attempt_key, claims)

    def held(self, token: permit_pb2.Signed, subject: str) -> HeldAttempt:
        """What `token` proves for the worker `subject`.

        Raises SIGNATURE_INVALID, ATTEMPT_TOKEN_MISMATCH or ATTEMPT_TOKEN_EXPIRED.
        """
        claims = verify_attempt_token(self._ring, token, now=self._clock.now(), worker_subject=subject)
        return HeldAttempt(
            ref=AttemptRef(tenant=claims.tenant, task_id=uuid.UUID(claims.task_id), attempt=claims.attempt),
            session_id=uuid.UUID(claims.session_id),
            subject=subject,
        )

    def step_permit(self, task: LockedTask, step: Step, bound: Bound, subject: str) -> permit_pb2.Signed:
        """The right to start exactly this call."""
        permit = permit_pb2.StepPermit(
            tenant=task.tenant,
            task_id=str(task.task_id),
            step_key=step.step_key,
            attempt=task.status.attempt,
            call_id=str(step.call_id),
            agent=task.agent.name,
            agent_version=task.agent.version,
            agent_digest=task.agent.digest,
            argument_digest=step.input_digest,
            submitters=[
                permit_pb2.Principal(
                    tenant=each.tenant,
                    subject=each.subject,
                    roles=each.roles,
                    agent=each.agent,
                    agent_version=each.agent_version,
                )
                for each in task.submitters
            ],
            worker_subject=subject,
        )
        if isinstance(bound, BoundTool):
            permit.tool, permit.tool_version, permit.tool_digest = bound.name, bound.version, bound.digest
        else:
            permit.connection = bound.name
        permit.expire_time.FromDatetime(self._in(bound.seconds + _PERMIT_SLACK_SECONDS))
        return issue_step_permit(self._permit_key, permit)

    def _in(self, seconds: float) -> datetime:
        return self._clock.now() + timedelta(seconds=seconds)
