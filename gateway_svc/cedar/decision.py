"""Deciding one call by the policies of a tenant: default deny, forbid wins, and any doubt denies."""

import json
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cedarpy

from gateway_svc.cedar.reads import Path
from gateway_svc.cedar.text import (
    ACTION_TYPE,
    AGENT_TYPE,
    CALL_TOOL,
    DECIDER_ROLES,
    TOOL_TYPE,
    ParsedPolicy,
)
from gateway_svc.cedar.values import to_cedar
from svc_kit.strict_json import JsonValue

_NO_ENTITIES = cedarpy.Entities.from_json_str("[]")
_MAX_SLICES = 1024
_MAX_ERROR_CHARACTERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitter:
    """Who submitted the task, or a task above it: a person, a service, or an agent that is named then."""

    tenant: str
    subject: str
    roles: tuple[str, ...]
    agent: str = ""
    agent_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """May this agent call this tool with these arguments?"""

    agent: str
    agent_version: str
    tool: str
    arguments: dict[str, JsonValue]
    attempt: int
    submitter: Submitter | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer, and the policies that made it."""

    allowed: bool
    policy_ids: tuple[str, ...]
    explanation: str
    """One sentence, and one more where policies in shadow mode would have changed it."""
    approval: str = ""
    """The least role that has to say yes to the call; empty when nobody has to."""
    doubtful: bool = False
    """Denied because a policy could not be evaluated."""
    shadow_policy_ids: tuple[str, ...] = ()
    """In shadow mode, by which the answer would have been another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """What one policy alone says to a call."""

    policy: ParsedPolicy
    applies: bool = False
    error: str = ""
    """Why it could not be evaluated; empty when it could."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """The policies that can matter for one agent and one tool."""

    policies: Sequence[ParsedPolicy]
    policy_set: cedarpy.PolicySet
    reads_arguments: bool
    beside: "_Slice | None" = None
    """With those in shadow mode too; None when there are none."""


class PolicyIndex:
    """The policies of one tenant at one revision; immutable but for the slices it remembers.

    A policy whose scope does not name a constant agent, or a constant tool, is in every slice of the other.
    """

    def __init__(self, policies: Iterable[ParsedPolicy]) -> None:
        self._by_scope: dict[tuple[str | None, str | None], list[ParsedPolicy]] = defaultdict(list)
        for policy in policies:
            self._by_scope[policy.agent, policy.tool].append(policy)
        self._slices: OrderedDict[tuple[str, str], _Slice] = OrderedDict()

    def decide(self, question: Question) -> Decision:
        """Allowed only if a permit applies, no forbid does, and every policy could be evaluated.

        Policies in shadow mode take no part in that; what they would change is told.
        """
        part = self._slice(question.agent, question.tool)
        decision = _decide(part, question)
        return _shadowed(decision, part.beside, question) if part.beside is not None else decision

    def voices(self, agent: str, tool: str, question: Question | None) -> list[Voice]:
        """What each policy that looks at such calls says; of one call, or when that is None, of any."""
        part = self._slice(agent, tool)
        policies = (part.beside or part).policies
        return [Voice(policy=each) if question is None else _voice(each, question) for each in policies]

    def _slice(self, agent: str, tool: str) -> _Slice:
        part = self._slices.get((agent, tool))
        if part is None:
            keys = ((agent, tool), (agent, None), (None, tool), (None, None))
            policies = [policy for key in keys for policy in self._by_scope.get(key, ())]
            enforced = [policy for policy in policies if not policy.shadow]
            beside = _make_slice(policies) if len(enforced) < len(policies) else None
            part = self._slices[agent, tool] = _make_slice(enforced, beside)
            if len(self._slices) > _MAX_SLICES:
                self._slices.popitem(last=False)
        return part


def _decide(part: _Slice, question: Question) -> Decision:
    if not part.policies:
        return _no_policy(question)
    arguments: dict[str, Any] = {}
    if part.reads_arguments:
        converted = to_cedar(question.arguments)
        blinded = _blinded(part.policies, converted.opaque)
        if blinded:
            return _undecidable(
                blinded,
                "looks at an argument with a fraction, or with a null in a list, which Cedar cannot hold",
            )
        arguments = converted.record
    return _ask(part, question, arguments)


def _shadowed(decision: Decision, beside: _Slice, question: Question) -> Decision:
    """The decision, and what it would have been had the policies in shadow mode taken part."""
    other = _decide(beside, question)
    if (other.allowed, other.approval) == (decision.allowed, decision.approval):
        return decision
    voices = (_voice(policy, question) for policy in beside.policies if policy.shadow)
    named = tuple(sorted(each.policy.policy_id for each in voices if each.applies or each.error))
    if not other.allowed:
        what = "refuse it"
    elif other.approval:
        what = f"ask {other.approval} about it"
    else:
        what = "allow it" if not decision.allowed else "ask nobody about it"
    return replace(
        decision,
        explanation=f"{decision.explanation} In shadow mode {_names(named)} would {what}.",
        shadow_policy_ids=named,
    )


def _voice(policy: ParsedPolicy, question: Question) -> Voice:
    alone = _decide(_make_slice([policy]), question)
    spoke = policy.policy_id in alone.policy_ids
    # Alone, a permit that applies allows, a forbid that applies is named, and doubt denies.
    applies = alone.allowed or (spoke and not policy.permits and not alone.doubtful)
    return Voice(policy=policy, applies=applies, error=alone.explanation if alone.doubtful else "")


def _make_slice(policies: Sequence[ParsedPolicy], beside: _Slice | None = None) -> _Slice:
    document = {
        "staticPolicies": {policy.policy_id: policy.body for policy in policies},
        "templates": {},
        "templateLinks": [],
    }
    return _Slice(
        policies,
        cedarpy.PolicySet.from_json_str(json.dumps(document)),
        any(policy.reads.arguments for policy in policies),
        beside,
    )


def _blinded(policies: Iterable[ParsedPolicy], opaque: frozenset[Path]) -> tuple[str, ...]:
    return tuple(policy.policy_id for policy in policies if policy.reads.touch(opaque)) if opaque else ()


def _ask(part: _Slice, question: Question, arguments: dict[str, Any]) -> Decision:
    request = {
        "principal": {"type": AGENT_TYPE, "id": question.agent},
        "action": {"type": ACTION_TYPE, "id": CALL_TOOL},
        "resource": {"type": TOOL_TYPE, "id": question.tool},
        "context": _context(question, arguments),
    }
    result = cedarpy.is_authorized(request, part.policy_set, _NO_ENTITIES)
    # Cedar leaves out a policy that it cannot evaluate, so a forbid that stumbles would forbid nothing.
    if result.diagnostics.errors:
        return _undecidable((), "; ".join(map(_without_values, result.diagnostics.errors)))
    policy_ids = tuple(sorted(result.diagnostics.reasons))
    if result.decision is cedarpy.Decision.Allow and policy_ids:
        return Decision(
            allowed=True,
            policy_ids=policy_ids,
            explanation=f"Allowed by {_names(policy_ids)}.",
            approval=strictest(each.approval for each in part.policies if each.policy_id in policy_ids),
        )
    if policy_ids:
        return Decision(
            allowed=False, policy_ids=policy_ids, explanation=f"Forbidden by {_names(policy_ids)}."
        )
    return _no_policy(question)


def strictest(roles: Iterable[str]) -> str:
    """Of the roles that have to say yes, the one that satisfies all the others too; empty without any.

    Whoever allows on a condition does so beside others that allow without one: the condition holds.
    """
    return max(roles, key=lambda role: DECIDER_ROLES.index(role) if role else -1, default="")


def _without_values(error: str) -> str:
    """Cedar's words, less the argument that an extension function could not read."""
    told, function, _ = error.partition("extension function")
    return (told + function)[:_MAX_ERROR_CHARACTERS]


def _context(question: Question, arguments: dict[str, Any]) -> dict[str, Any]:
    context: dict[str, Any] = {
        "arguments": arguments,
        "agent_version": question.agent_version,
        "attempt": question.attempt,
    }
    if question.submitter is not None:
        context["submitter"] = {
            "tenant": question.submitter.tenant,
            "subject": question.submitter.subject,
            "roles": sorted(question.submitter.roles),
        }
    return context


def _no_policy(question: Question) -> Decision:
    return Decision(
        allowed=False,
        policy_ids=(),
        explanation=f"No policy allows agent {question.agent} to call tool {question.tool} so.",
    )


def _undecidable(policy_ids: tuple[str, ...], why: str) -> Decision:
    subject = f"Policy {_names(policy_ids)}" if policy_ids else "A policy"
    return Decision(
        allowed=False,
        policy_ids=policy_ids,
        explanation=f"{subject} could not be evaluated, and what cannot be decided is refused: {why}.",
        doubtful=True,
    )


def _names(policy_ids: Sequence[str]) -> str:
    return ", ".join(f"`{policy_id}`" for policy_id in policy_ids)
