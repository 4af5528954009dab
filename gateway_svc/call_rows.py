"""Tool calls as rows, and back."""

from typing import Any

from sqlalchemy import RowMapping

from gateway_svc.cedar.decision import Submitter
from gateway_svc.tool_call import Asked, CallKind, CallStatus, Outcome, SignedReceipt, ToolCall, Usage
from gateway_svc.verdicts import Check, Verdict


def to_row(call: ToolCall) -> dict[str, Any]:
    """A call that has no outcome yet."""
    asked = call.asked
    return {
        "tenant": asked.tenant,
        "call_id": asked.call_id,
        "task_id": asked.task_id,
        "step_key": asked.step_key,
        "attempt": asked.attempt,
        "agent": asked.agent,
        "agent_version": asked.agent_version,
        "agent_digest": asked.agent_digest,
        "called": asked.kind,
        "tool": asked.tool,
        "tool_version": asked.tool_version,
        "tool_digest": asked.tool_digest,
        "argument_digest": asked.argument_digest,
        "worker": asked.worker,
        "submitters": [
            {
                "tenant": each.tenant,
                "subject": each.subject,
                "roles": list(each.roles),
                "agent": each.agent,
                "agent_version": each.agent_version,
            }
            for each in asked.submitters
        ],
        "status": call.status,
        "reason": call.reason,
        "message": call.message,
        "verdicts": [
            {
                "check": verdict.check,
                "passed": verdict.passed,
                "skipped": verdict.skipped,
                "explanation": verdict.explanation,
            }
            for verdict in call.verdicts
        ],
        "policy_ids": list(call.policy_ids),
        "shadow_policy_ids": list(call.shadow_policy_ids),
        "approval_id": call.approval_id,
        "owner": call.owner,
        "reserved_tokens": call.reserve.tokens if call.reserve else None,
        "reserved_micros": call.reserve.cost_micros if call.reserve else None,
        "audit_event": call.audit_event,
        "audit_index": call.audit_index,
        "create_time": call.create_time,
        "end_time": call.create_time if call.status is CallStatus.REFUSED else None,
        "isolation": "",
        "is_error": False,
        "error_class": "",
        "error_message": "",
        "limit_name": "",
    }


def outcome_to_row(outcome: Outcome) -> dict[str, Any]:
    """The columns that an outcome fills."""
    receipt, usage = outcome.receipt, outcome.usage
    return {
        "status": outcome.status,
        "reason": outcome.reason,
        "message": outcome.message,
        "end_time": outcome.end_time,
        "isolation": outcome.isolation,
        "result_json": outcome.result_json or None,
        "is_error": outcome.is_error,
        "error_class": outcome.error_class,
        "error_message": outcome.error_message,
        "limit_name": outcome.limit,
        "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "cost_micros": usage.cost_micros if usage else None,
        "receipt_key": receipt.key_id if receipt else None,
        "receipt_payload": receipt.payload if receipt else None,
        "receipt_signature": receipt.signature if receipt else None,
    }


def from_row(row: RowMapping) -> ToolCall:
    """A whole row."""
    return ToolCall(
        asked=Asked(
            tenant=row["tenant"],
            call_id=row["call_id"],
            task_id=row["task_id"],
            step_key=row["step_key"],
            attempt=row["attempt"],
            agent=row["agent"],
            agent_version=row["agent_version"],
            agent_digest=row["agent_digest"],
            kind=CallKind(row["called"]),
            tool=row["tool"],
            tool_version=row["tool_version"],
            tool_digest=row["tool_digest"],
            argument_digest=row["argument_digest"],
            worker=row["worker"],
            submitters=tuple(
                Submitter(
                    tenant=each["tenant"],
                    subject=each["subject"],
                    roles=tuple(each["roles"]),
                    agent=each.get("agent", ""),
                    agent_version=each.get("agent_version", ""),
                )
                for each in row["submitters"]
            ),
        ),
        status=CallStatus(row["status"]),
        reason=row["reason"],
        message=row["message"],
        verdicts=tuple(
            Verdict(
                check=Check(each["check"]),
                passed=each["passed"],
                skipped=each["skipped"],
                explanation=each["explanation"],
            )
            for each in row["verdicts"]
        ),
        policy_ids=tuple(row["policy_ids"]),
        shadow_policy_ids=tuple(row["shadow_policy_ids"]),
        approval_id=row["approval_id"],
        owner=row["owner"],
        audit_event=row["audit_event"],
        audit_index=row["audit_index"],
        create_time=row["create_time"],
        outcome=_outcome(row) if row["end_time"] is not None else None,
    )


def _outcome(row: RowMapping) -> Outcome:
    return Outcome(
        status=CallStatus(row["status"]),
        end_time=row["end_time"],
        isolation=row["isolation"],
        reason=row["reason"],
        message=row["message"],
        result_json=row["result_json"] or "",
        is_error=row["is_error"],
        error_class=row["error_class"],
        error_message=row["error_message"],
        limit=row["limit_name"],
        usage=Usage(
            input_tokens=row["input_tokens"],
            output_tokens=row["output_tokens"],
            cost_micros=row["cost_micros"],
        )
        if row["input_tokens"] is not None
        else None,
        receipt=SignedReceipt(
            key_id=row["receipt_key"],
            payload=row["receipt_payload"],
            signature=row["receipt_signature"],
        )
        if row["receipt_key"] is not None
        else None,
    )
