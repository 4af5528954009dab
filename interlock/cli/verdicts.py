"""A tool call with the five verdicts on it, as lines of text."""

from collections.abc import Iterator

from interlock.cli.display import name_of
from interlock.cli.escaping import one_line
from interlock.gateway.v1 import gateway_service_pb2, policy_service_pb2, tool_call_pb2


def call_lines(call: tool_call_pb2.ToolCall) -> Iterator[str]:
    """What became of the call, what each line of the permission model said, and where it is recorded."""
    reason = f" ({call.reason})" if call.reason else ""
    called = f"{call.connection} {call.model}" if call.connection else f"{call.tool} {call.tool_version}"
    what = f"{call.agent} {call.agent_version} → {called}".strip()
    yield f"{one_line(what)}: {status_name(call)}{reason}"
    yield from verdict_lines(call)
    if call.audit_index >= 0:
        yield f"  audit entry #{call.audit_index}, task {call.task_id}, step {call.step_key}"


def decision_lines(told: policy_service_pb2.ExplainDecisionResponse) -> Iterator[str]:
    """The verdicts on a call, and the policies that had a say in it."""
    yield from call_lines(told.tool_call)
    for what, policies in (("decided", told.policies), ("in shadow mode", told.shadow_policies)):
        for policy in policies:
            yield f"  {what}: {one_line(policy.policy_id)}, version {policy.version}"
            for line in policy.cedar.rstrip().splitlines() or ["(a policy of tenant system)"]:
                yield f"    {one_line(line)}"


def shadow_line(call: tool_call_pb2.ToolCall) -> str:
    """A call that a policy in shadow mode would have decided otherwise."""
    (said,) = [each.explanation for each in call.verdicts if each.check == "allow"] or [""]
    what = f"{call.agent} → {call.tool} {call.tool_version}"
    return f"{call.call_id}  {one_line(what)}: {status_name(call)}. {one_line(said)}"


def checked_lines(checked: gateway_service_pb2.CheckToolCallResponse) -> Iterator[str]:
    """What would become of a call, and which policies say what to it."""
    if checked.allowed:
        role = checked.approval_role
        yield f"would start once somebody with {role} has approved it" if role else "would start"
    else:
        yield f"would be refused ({checked.reason}): {one_line(checked.message)}"
    yield from verdict_lines(checked)
    for wrong in checked.violations:
        yield f"  {one_line(wrong.field or 'the arguments')}: {one_line(wrong.description)}"
    for voice in checked.policies:
        said = "could not be evaluated" if voice.error else "applies" if voice.applies else "does not apply"
        yield f"  {_voice(voice)} {said}"


def allowed_lines(listed: gateway_service_pb2.ListAllowedToolsResponse) -> Iterator[str]:
    """Which tools an agent version may call, and on whose word."""
    for each in listed.tools:
        mark = "✓" if each.callable else "✗"
        yield f"{mark} {each.tool} {each.tool_version}  {one_line(each.message)}".rstrip()
        for voice in each.policies:
            yield f"    {_voice(voice)}{', on a condition' if voice.conditional else ''}"


def _voice(voice: gateway_service_pb2.PolicyVoice) -> str:
    asks = f" with approval by {voice.approval_role}" if voice.approval_role else ""
    shadow = " in shadow mode" if voice.shadow else ""
    return f"{'permit' if voice.permits else 'forbid'} {one_line(voice.policy_id)}{asks}{shadow}"


def verdict_lines(
    call: tool_call_pb2.ToolCall | gateway_service_pb2.CheckToolCallResponse,
) -> Iterator[str]:
    """The five verdicts, in the order of the permission model."""
    for verdict in call.verdicts:
        mark = "·" if verdict.skipped else "✓" if verdict.passed else "✗"
        yield f"  {mark} {verdict.check:<8}  {one_line(verdict.explanation)}"


def status_name(call: tool_call_pb2.ToolCall) -> str:
    """For example `REFUSED`."""
    return name_of(tool_call_pb2.ToolCallStatus.Name(call.status), "TOOL_CALL_STATUS_")
