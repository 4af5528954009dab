"""What a policy's text must be before it is stored."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import cedarpy

from gateway_svc.cedar.reads import Reads, UnknownAttribute, reads_of

MAX_BYTES = 10 * 1024
MAX_NESTING = 32
AGENT_TYPE = "Interlock::Agent"
ACTION_TYPE = "Interlock::Action"
TOOL_TYPE = "Interlock::Tool"
CALL_TOOL = "call_tool"

# Who may say yes at least, where a permit bears `@approval("…")`; later ones are stricter.
DECIDER_ROLES = ("DEVELOPER", "ADMIN")

_SKIPPED_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|//[^\n]*+|[()\[\]{}]', re.DOTALL)


class PolicyTextError(ValueError):
    """The text is no policy that could ever take part in a decision; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedPolicy:
    """One policy, ready to be put into a policy set."""

    policy_id: str
    body: Mapping[str, Any]
    """Cedar's JSON form."""
    agent: str | None
    """The one agent it speaks of; None when that is not a constant of its scope."""
    tool: str | None
    """The one tool it speaks of; None when that is not a constant of its scope."""
    reads: Reads
    permits: bool
    """False: it forbids."""
    conditional: bool
    """Whether it says more than whom and what it is about."""
    approval: str
    """Of DECIDER_ROLES, for a permit that counts only if a person says yes to the call; else empty."""
    text: str = field(repr=False)
    """As it was written."""
    shadow: bool = False
    """It decides nothing: what it would change is told beside the decision."""
    expire_time: datetime | None = None
    """From then on it is as if it were not there."""


def parse_policy(
    policy_id: str, text: str, *, shadow: bool = False, expire_time: datetime | None = None
) -> ParsedPolicy:
    """Exactly one static policy; raises PolicyTextError with the parser's own words.

    `policy_id` is how decisions name it.
    """
    if len(text.encode()) > MAX_BYTES:
        raise PolicyTextError(f"longer than {MAX_BYTES} bytes")
    _check_nesting(text)
    try:
        encoded = cedarpy.policies_to_json_str(text)
    except ValueError as error:
        raise PolicyTextError(f"not Cedar: {error}") from None
    try:
        cedarpy.PolicySet.from_json_str(encoded)
        parsed = json.loads(encoded)
    except (ValueError, RecursionError):
        raise PolicyTextError("too many operators in one expression; make it several policies") from None
    if parsed["templates"]:
        raise PolicyTextError("a template is not a policy: name the agent and the tool instead of a slot")
    policies = list(parsed["staticPolicies"].values())
    if len(policies) != 1:
        raise PolicyTextError(f"exactly one policy is needed, not {len(policies)}")
    (body,) = policies
    _check_action(body["action"])
    try:
        reads = reads_of(body["conditions"])
    except UnknownAttribute as error:
        raise PolicyTextError(str(error)) from None
    return ParsedPolicy(
        policy_id=policy_id,
        body=body,
        agent=_constant(body["principal"], "principal", AGENT_TYPE),
        tool=_constant(body["resource"], "resource", TOOL_TYPE),
        reads=reads,
        permits=body["effect"] == "permit",
        conditional=bool(body["conditions"]),
        approval=_approval(body),
        text=text,
        shadow=shadow,
        expire_time=expire_time,
    )


def _check_nesting(text: str) -> None:
    """Refuse deep brackets before the parser follows them on the stack, which would end the process."""
    depth = 0
    for match in _SKIPPED_OR_BRACKET.finditer(text):
        if match[0] in "([{":
            depth += 1
            if depth > MAX_NESTING:
                raise PolicyTextError(f"brackets nested deeper than {MAX_NESTING}")
        elif match[0] in ")]}":
            depth -= 1


def _constant(scope: Mapping[str, Any], variable: str, entity_type: str) -> str | None:
    """The id that the scope demands; refuses a type that no request has, which would make the policy dead."""
    operator = scope["op"]
    if operator == "All":
        return None
    named = scope["entity_type"] if operator == "is" else scope.get("entity", {}).get("type")
    if operator == "in" or "in" in scope:
        raise PolicyTextError(f"`{variable} in` finds nothing: agents and tools have no groups")
    if named != entity_type:
        raise PolicyTextError(f"`{variable}` is always {entity_type}, never {named}")
    return scope["entity"]["id"] if operator == "==" else None


def _approval(body: Mapping[str, Any]) -> str:
    annotations = body.get("annotations", {})
    if unknown := sorted(set(annotations) - {"approval"}):
        raise PolicyTextError(f"the annotation `@{unknown[0]}` is unknown; the only one is `@approval`")
    if "approval" not in annotations:
        return ""
    if body["effect"] != "permit":
        raise PolicyTextError("`@approval` belongs to a permit: a forbid refuses without asking anybody")
    if annotations["approval"] not in DECIDER_ROLES:
        raise PolicyTextError('`@approval` names who may say yes at least: "DEVELOPER" or "ADMIN"')
    role: str = annotations["approval"]
    return role


def _check_action(scope: Mapping[str, Any]) -> None:
    if scope["op"] == "All":
        return
    named = scope.get("entities") or [scope.get("entity", {})]
    if any((entity.get("type"), entity.get("id")) == (ACTION_TYPE, CALL_TOOL) for entity in named):
        return
    raise PolicyTextError(f'the only action is {ACTION_TYPE}::"{CALL_TOOL}"')
