"""Between the contract's messages and the gateway's values."""

from collections.abc import Iterable
from datetime import UTC

from gateway_svc.call_check import AllowedTool, Checked
from gateway_svc.cedar.decision import Voice
from gateway_svc.decision_record import DecisionRecord, Spoken
from gateway_svc.pipeline.execute import Answer
from gateway_svc.policy import Misfit, Policy, PolicyContent, PolicyMode
from gateway_svc.tool_call import CallKind, SignedReceipt, ToolCall, Usage
from gateway_svc.verdicts import Verdict
from interlock.common.v1 import permit_pb2
from interlock.gateway.v1 import gateway_service_pb2, policy_service_pb2, tool_call_pb2
from interlock_sandbox import LayerStatus
from svc_kit.errors import Violation, invalid


def from_answer(answer: Answer) -> gateway_service_pb2.ExecuteToolResponse:
    """An ended call to its caller."""
    outcome = answer.outcome
    return gateway_service_pb2.ExecuteToolResponse(
        result_json=outcome.result_json,
        is_error=outcome.is_error,
        error_class=outcome.error_class,
        error_message=outcome.error_message,
        receipt=_from_receipt(outcome.receipt),
        replayed=answer.replayed,
    )


def from_model_answer(answer: Answer) -> gateway_service_pb2.CallModelResponse:
    """An ended model call to its caller."""
    return gateway_service_pb2.CallModelResponse(
        result_json=answer.outcome.result_json,
        receipt=_from_receipt(answer.outcome.receipt),
        replayed=answer.replayed,
    )


def from_usage(usage: Usage) -> tool_call_pb2.ModelUsage:
    """What a model call used up."""
    return tool_call_pb2.ModelUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost_micros=usage.cost_micros,
    )


def from_call(call: ToolCall) -> tool_call_pb2.ToolCall:
    """A call to its readers: no arguments and no results, which are the audit log's to give out."""
    asked = call.asked
    message = tool_call_pb2.ToolCall(
        call_id=str(asked.call_id),
        task_id=str(asked.task_id),
        step_key=asked.step_key,
        attempt=asked.attempt,
        agent=asked.agent,
        agent_version=asked.agent_version,
        kind=tool_call_pb2.CallKind.Value(f"CALL_KIND_{asked.kind}"),
        argument_digest=asked.argument_digest,
        status=tool_call_pb2.ToolCallStatus.Value(f"TOOL_CALL_STATUS_{call.status}"),
        reason=call.reason,
        message=call.message,
        verdicts=map(_from_verdict, call.verdicts),
        policy_ids=call.policy_ids,
        shadow_policy_ids=call.shadow_policy_ids,
        audit_index=-1 if call.audit_index is None else call.audit_index,
        approval_id=str(call.approval_id) if call.approval_id else "",
    )
    if asked.kind is CallKind.MODEL:
        message.connection, message.model = asked.tool, asked.tool_version
    else:
        message.tool, message.tool_version, message.tool_digest = (
            asked.tool,
            asked.tool_version,
            asked.tool_digest,
        )
    message.create_time.FromDatetime(call.create_time)
    if call.outcome is not None:
        if call.outcome.usage is not None:
            message.usage.CopyFrom(from_usage(call.outcome.usage))
        message.isolation = call.outcome.isolation
        message.end_time.FromDatetime(call.outcome.end_time)
    return message


def from_checked(checked: Checked) -> gateway_service_pb2.CheckToolCallResponse:
    """What would become of a call."""
    refusal = checked.refusal
    return gateway_service_pb2.CheckToolCallResponse(
        allowed=refusal is None,
        reason=refusal.reason_name if refusal else "",
        message=refusal.message if refusal else "",
        verdicts=map(_from_verdict, checked.verdicts),
        violations=[
            gateway_service_pb2.ArgumentViolation(field=each.field, description=each.message)
            for each in (refusal.violations if refusal else ())
        ],
        policies=map(_from_voice, checked.voices),
        approval_role=checked.approval_role,
        tool_version=checked.tool_version,
    )


def from_allowed(allowed: AllowedTool) -> gateway_service_pb2.AllowedTool:
    """One tool of an agent version."""
    return gateway_service_pb2.AllowedTool(
        tool=allowed.tool,
        tool_version=allowed.tool_version,
        callable=not allowed.hindrance,
        message=allowed.hindrance,
        policies=map(_from_voice, allowed.voices),
    )


def to_policy_content(message: policy_service_pb2.Policy) -> PolicyContent:
    """What a writer says of a policy; raises INVALID_FIELDS for a time that none is."""
    expire_time = None
    if message.HasField("expire_time"):
        try:
            expire_time = message.expire_time.ToDatetime(UTC)
        except (ValueError, OverflowError):
            raise invalid([Violation("policy.expire_time", "is no time of the years 1 to 9999")]) from None
    shadow = message.mode == policy_service_pb2.POLICY_MODE_SHADOW
    return PolicyContent(
        cedar=message.cedar,
        description=message.description,
        mode=PolicyMode.SHADOW if shadow else PolicyMode.ENFORCE,
        expire_time=expire_time,
    )


def from_policy(policy: Policy, misfits: Iterable[Misfit] = ()) -> policy_service_pb2.Policy:
    """A policy as stored."""
    content = policy.content
    message = policy_service_pb2.Policy(
        policy_id=policy.policy_id,
        cedar=content.cedar,
        description=content.description,
        creator=policy.creator,
        etag=policy.etag,
        mode=policy_service_pb2.PolicyMode.Value(f"POLICY_MODE_{content.mode}"),
        version=policy.version,
        updater=policy.updater,
        misfits=[
            policy_service_pb2.PolicyMisfit(
                tool=each.tool, tool_version=each.tool_version, message=each.message
            )
            for each in misfits
        ],
    )
    message.create_time.FromDatetime(policy.create_time)
    message.update_time.FromDatetime(policy.update_time)
    if content.expire_time is not None:
        message.expire_time.FromDatetime(content.expire_time)
    return message


def from_decision(record: DecisionRecord) -> policy_service_pb2.ExplainDecisionResponse:
    """How a call was decided."""
    return policy_service_pb2.ExplainDecisionResponse(
        tool_call=from_call(record.call),
        policies=map(_from_spoken, record.deciding),
        shadow_policies=map(_from_spoken, record.shadow),
    )


def from_layer(layer: LayerStatus) -> gateway_service_pb2.SandboxLayer:
    """One layer of the sandbox."""
    remedy = " ".join(part for part in (layer.reason, layer.remedy) if part)
    return gateway_service_pb2.SandboxLayer(name=layer.layer, active=layer.present, remedy=remedy)


def _from_verdict(verdict: Verdict) -> tool_call_pb2.Verdict:
    return tool_call_pb2.Verdict(
        check=verdict.check,
        passed=verdict.passed,
        skipped=verdict.skipped,
        explanation=verdict.explanation,
    )


def _from_voice(voice: Voice) -> gateway_service_pb2.PolicyVoice:
    return gateway_service_pb2.PolicyVoice(
        policy_id=voice.policy.policy_id,
        permits=voice.policy.permits,
        applies=voice.applies,
        error=voice.error,
        approval_role=voice.policy.approval,
        conditional=voice.policy.conditional,
        shadow=voice.policy.shadow,
    )


def _from_spoken(spoken: Spoken) -> policy_service_pb2.Policy:
    if spoken.policy is not None:
        return from_policy(spoken.policy)
    return policy_service_pb2.Policy(policy_id=spoken.policy_id, version=spoken.version)


def _from_receipt(receipt: SignedReceipt | None) -> permit_pb2.Signed | None:
    if receipt is None:
        return None
    return permit_pb2.Signed(key_id=receipt.key_id, payload=receipt.payload, signature=receipt.signature)
