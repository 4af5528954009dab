"""Step 2: the orchestrator lets exactly this call happen, and this worker may ask for it."""

import uuid
from datetime import datetime

from google.protobuf.message import DecodeError

from gateway_svc.cedar.decision import Submitter
from gateway_svc.errors import permit_mismatch, tenant_forbidden
from gateway_svc.orchestrator_keys import OrchestratorKeys
from gateway_svc.pipeline.pending import Pending
from gateway_svc.tool_call import Asked
from gateway_svc.verdicts import Check
from interlock.common.v1.errors_pb2 import ErrorReason
from interlock.common.v1.permit_pb2 import Signed, StepPermit
from svc_kit.errors import DomainError, PermissionDenied
from svc_kit.identity.principal import Principal
from svc_kit.permits import verify_step_permit
from svc_kit.signing import PERMIT_PURPOSE

_BOUND = ("tenant", "step_key", "agent", "agent_version", "tool", "tool_version", "tool_digest")


class PermitCheck:
    """Reads permits and checks them against who brings them."""

    def __init__(self, keys: OrchestratorKeys) -> None:
        self._keys = keys

    async def read(self, signed: Signed) -> Asked:
        """What a genuine permit describes, whoever brought it; else SIGNATURE_INVALID or PERMIT_MISMATCH."""
        ring = await self._keys.ring_for(signed.key_id)
        permit = StepPermit()
        try:
            permit.ParseFromString(ring.verify(PERMIT_PURPOSE, signed))
        except DecodeError:
            raise PermissionDenied(
                ErrorReason.ERROR_REASON_SIGNATURE_INVALID, "the signed permit cannot be read"
            ) from None
        return _asked(permit)

    async def check(self, pending: Pending, signed: Signed, caller: Principal, now: datetime) -> None:
        """It is for this caller, who may work for that tenant, and has not expired."""
        asked = pending.asked
        try:
            ring = await self._keys.ring_for(signed.key_id)
            verify_step_permit(
                ring, signed, now=now, worker_subject=caller.subject, argument_digest=asked.argument_digest
            )
            if all(tenant != asked.tenant for tenant, _ in caller.pools):
                raise tenant_forbidden(asked.tenant)
        except DomainError as error:
            pending.verdicts.failed(Check.ROLE, f"Refused to worker {caller.subject}: {error.message}.")
            raise
        pending.verdicts.passed(
            Check.ROLE,
            f"Worker {caller.subject} holds a permit for exactly this call of attempt {asked.attempt}.",
        )


def _asked(permit: StepPermit) -> Asked:
    for field in _BOUND:
        if not getattr(permit, field):
            raise permit_mismatch(field, f"the permit names no {field.replace('_', ' ')}")
    try:
        call_id, task_id = uuid.UUID(permit.call_id), uuid.UUID(permit.task_id)
    except ValueError:
        raise permit_mismatch("call_id", "the permit's call id or task id is no UUID") from None
    return Asked(
        tenant=permit.tenant,
        call_id=call_id,
        task_id=task_id,
        step_key=permit.step_key,
        attempt=permit.attempt,
        agent=permit.agent,
        agent_version=permit.agent_version,
        agent_digest=permit.agent_digest,
        tool=permit.tool,
        tool_version=permit.tool_version,
        tool_digest=permit.tool_digest,
        argument_digest=permit.argument_digest,
        worker=permit.worker_subject,
        submitters=tuple(
            Submitter(tenant=each.tenant, subject=each.subject, roles=tuple(each.roles))
            for each in permit.submitters
        ),
    )
