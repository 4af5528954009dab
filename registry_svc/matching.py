"""Which agents can do a task, in what order, and why. Deterministic: equal scores are ordered by name."""

from collections.abc import Sequence
from dataclasses import dataclass

from registry_svc import capabilities

# What the two terms weigh. Exactness: an agent made for exactly this beats one made for something more
# special. Focus: of two exact ones, the one that does fewer other things was made more for this.
EXACTNESS_WEIGHT = 0.8
FOCUS_WEIGHT = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """What matching knows of one agent: its newest version, and which of its tools may be used now."""

    name: str
    version: str  # empty when none is published
    active: bool
    capabilities: tuple[str, ...]
    tools: frozenset[str]
    disabled_tools: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a task asks for: all of it is needed."""

    capabilities: tuple[str, ...]
    tools: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An agent that can do it; score in 0…1."""

    agent: Agent
    score: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """An agent that cannot, with every reason."""

    agent: Agent
    reasons: tuple[str, ...]


def find(agents: Sequence[Agent], wanted: Wanted) -> tuple[list[Candidate], list[Rejected]]:
    """Sort `agents` into candidates (best first) and rejected ones (by name)."""
    candidates: list[Candidate] = []
    rejected: list[Rejected] = []
    for agent in agents:
        if reasons := _rejections(agent, wanted):
            rejected.append(Rejected(agent=agent, reasons=tuple(reasons)))
        else:
            candidates.append(_candidate(agent, wanted))
    candidates.sort(key=lambda candidate: (-candidate.score, candidate.agent.name))
    rejected.sort(key=lambda rejection: rejection.agent.name)
    return candidates, rejected


def _rejections(agent: Agent, wanted: Wanted) -> list[str]:
    reasons = []
    if not agent.version:
        reasons.append("has no published version")
    if not agent.active:
        reasons.append("is disabled")
    reasons += [
        f"lacks the capability {capability}"
        for capability in wanted.capabilities
        if not any(capabilities.covers(held, capability) for held in agent.capabilities)
    ]
    reasons += [f"is not bound to the tool {tool}" for tool in wanted.tools if tool not in agent.tools]
    reasons += [f"its tool {tool} is disabled" for tool in sorted(agent.disabled_tools)]
    return reasons


def _candidate(agent: Agent, wanted: Wanted) -> Candidate:
    reasons = []
    exactness = 0.0
    used = set()
    for capability in wanted.capabilities:
        held = min(
            (held for held in agent.capabilities if capabilities.covers(held, capability)),
            key=lambda held: (capabilities.distance(held, capability), held),
        )
        used.add(held)
        exactness += 1 / (1 + capabilities.distance(held, capability))
        reasons.append(
            f"has {capability}" if held == capability else f"has {held}, which is a kind of {capability}"
        )
    exactness /= len(wanted.capabilities)
    focus = len(used) / len(agent.capabilities)
    reasons.append(f"{len(used)} of its {len(agent.capabilities)} capabilities serve this task")
    reasons += [f"is bound to {tool}" for tool in wanted.tools]
    score = EXACTNESS_WEIGHT * exactness + FOCUS_WEIGHT * focus
    return Candidate(agent=agent, score=round(score, 6), reasons=tuple(reasons))
