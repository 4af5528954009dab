"""Step 2: the orchestrator lets exactly this call happen, and this worker may ask for it."""

import uuid
from datetime import datetime

from gateway_svc.cedar.decision import Submitter
from gateway_svc.errors import permit_mismatch, tenant_forbidden
from gateway_svc.orchestrator_keys import OrchestratorKeys
from gateway_svc.pipeline.pending import Pending
from gateway_svc.tool_call import Asked, CallKind
from gateway_svc.verdicts import Check
from interlock.common.v1.permit_pb2 import Signed, StepPermit
from svc_kit.errors import DomainError
from svc_kit.identity.principal import Principal
from svc_kit.permits import check_step_permit, read_step_permit

_ALWAYS = ("tenant", "step_key", "agent", "agent_version", "argument_digest")
_OF_TOOL = ("tool", "tool_version", "tool_digest")
_OF_MODEL = ("connection", "agent_digest")
_BOUND = {CallKind.TOOL: (*_ALWAYS, *_OF_TOOL), CallKind.MODEL: (*_ALWAYS, *_OF_MODEL)}
# What a permit for the other kind names.
_FOREIGN = {CallKind.TOOL: _OF_MODEL[:1], CallKind.MODEL: _OF_TOOL}


class PermitCheck:
    """Reads permits for calls of one kind and checks them against who brings them."""

    def __init__(self, keys: OrchestratorKeys, kind: CallKind) -> None:
        self._keys = keys
        self._kind = kind

    async def read(self, signed: Signed) -> tuple[StepPermit, Asked]:
        """A genuine permit, whoever brought it, and what it describes.

        Raises SIGNATURE_INVALID, PERMIT_MISMATCH when it leaves something open, or PEER_UNAVAILABLE.
        """
        permit = read_step_permit(await self._keys.ring_for(signed.key_id), signed)
        return permit, _asked(permit, self._kind)

    def check(self, pending: Pending, caller: Principal, now: datetime) -> None:
        """It is for this caller, who may work for that tenant, and has not expired."""
        asked = pending.asked
        try:
            check_step_permit(pending.permit, now=now, worker_subject=caller.subject)
            if all(tenant != asked.tenant for tenant, _ in caller.pools):
                raise tenant_forbidden(asked.tenant)
        except DomainError as error:
            pending.verdicts.failed(Check.ROLE, f"Refused to worker {caller.subject}: {error.message}.")
            raise
        pending.verdicts.passed(
            Check.ROLE,
            f"Worker {caller.subject} holds a permit for exactly this call of attempt {asked.attempt}.",
        )


def check_unexpired(pending: Pending, now: datetime) -> None:
    """The permit of a call that was checked before is still good; raises PERMIT_EXPIRED."""
    check_step_permit(pending.permit, now=now, worker_subject=pending.caller)


def _asked(permit: StepPermit, kind: CallKind) -> Asked:
    for field in _FOREIGN[kind]:
        if getattr(permit, field):
            raise permit_mismatch(field, f"the permit is not for a call of a {kind.lower()}")
    for field in _BOUND[kind]:
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
        kind=kind,
        tool=permit.connection if kind is CallKind.MODEL else permit.tool,
        tool_version=permit.tool_version,
        tool_digest=permit.tool_digest,
        argument_digest=permit.argument_digest,
        worker=permit.worker_subject,
        submitters=tuple(
            Submitter(
                tenant=each.tenant,
                subject=each.subject,
                roles=tuple(each.roles),
                agent=each.agent,
                agent_version=each.agent_version,
            )
            for each in permit.submitters
        ),
    )
