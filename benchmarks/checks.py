"""The checks of a call that read nothing but memory: its policies, and its arguments' schema."""

import json
import statistics
import time
from collections.abc import Callable, Iterator

import cedarpy
import jsonschema_rs

from benchmarks.report import Row
from gateway_svc.cedar.decision import PolicyIndex, Question, Submitter
from gateway_svc.cedar.text import ParsedPolicy, parse_policy
from gateway_svc.schemas import SchemaCache
from svc_kit.strict_json import JsonValue

_POLICIES = 5000
_LOOKED_AT = 40
_AGENT, _TOOL = "agent-7", "tool-7"
_ARGUMENTS: dict[str, JsonValue] = {"account": "A-1", "amount": 12, "lines": ["one", "two", "three"]}
_SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "account": {"type": "string", "pattern": "^[A-Z]-[0-9]+$"},
            "amount": {"type": "integer", "minimum": 0, "maximum": 1000},
            "lines": {"type": "array", "items": {"type": "string", "maxLength": 100}, "maxItems": 10},
        },
        "required": ["account", "amount", "lines"],
        "additionalProperties": False,
    }
)
_QUESTION = Question(
    agent=_AGENT,
    agent_version="1.0.0",
    tool=_TOOL,
    arguments=_ARGUMENTS,
    attempt=1,
    submitter=Submitter(tenant="default", subject="bench", roles=("DEVELOPER",)),
)


def _texts() -> Iterator[str]:
    """A few that look at the call, and the mass of them about other agents and tools."""
    agents, tools = f'principal == Interlock::Agent::"{_AGENT}"', f'resource == Interlock::Tool::"{_TOOL}"'
    action = 'action == Interlock::Action::"call_tool"'
    yield f"permit ({agents}, {action}, {tools}) when {{ context.arguments.amount < 100 }};"
    scopes = ((agents, tools), (agents, "resource"), ("principal", tools), ("principal", "resource"))
    for number in range(_LOOKED_AT - 1):
        principal, resource = scopes[number % len(scopes)]
        yield f"forbid ({principal}, {action}, {resource}) when {{ context.attempt > {number + 10} }};"
    for number in range(_POLICIES - _LOOKED_AT):
        other = f'principal == Interlock::Agent::"other-{number % 100}"'
        tool = tools if number % 2 else f'resource == Interlock::Tool::"tool-{number // 100 + 8}"'
        yield f"permit ({other}, {action}, {tool}) when {{ context.attempt < 10 }};"


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


async def measure(rounds: int = 2000) -> list[Row]:
    """A decision among 5,000 stored policies together with the check of the arguments."""
    policies = [parse_policy(f"policy-{number}", text) for number, text in enumerate(_texts())]
    index, schemas = PolicyIndex(policies), SchemaCache()

    def checks() -> None:
        decision = index.decide(_QUESTION)
        if not decision.allowed or schemas.violations("sha256:bench", _SCHEMA, "input", _ARGUMENTS):
            raise RuntimeError(f"what is allowed was refused: {decision.explanation}")

    bare = _bare(policies)
    first = _timed(checks)
    took, floors = [], []
    for _ in range(rounds):
        took.append(_timed(checks))
        floors.append(_timed(bare))
    return [
        Row(
            what=f"policies ({_POLICIES:,} stored, {_LOOKED_AT} looked at) and schema p50",
            load="idle",
            value=statistics.median(took) * 1000,
            unit="ms",
            floor=statistics.median(floors) * 1000,
            note="floor: the same libraries with the one policy that allows it",
        ),
        Row(
            what="the same, first call of that agent and tool since a policy changed",
            load="idle",
            value=first * 1000,
            unit="ms",
        ),
    ]


def _bare(policies: list[ParsedPolicy]) -> Callable[[], object]:
    document = {"staticPolicies": {"only": policies[0].body}, "templates": {}, "templateLinks": []}
    policy_set = cedarpy.PolicySet.from_json_str(json.dumps(document))
    entities = cedarpy.Entities.from_json_str("[]")
    validator = jsonschema_rs.validator_for(json.loads(_SCHEMA))
    request = {
        "principal": {"type": "Interlock::Agent", "id": _AGENT},
        "action": {"type": "Interlock::Action", "id": "call_tool"},
        "resource": {"type": "Interlock::Tool", "id": _TOOL},
        "context": {"arguments": {"amount": 12}, "attempt": 1},
    }

    def check() -> None:
        allowed = cedarpy.is_authorized(request, policy_set, entities).decision is cedarpy.Decision.Allow
        if not (allowed and validator.is_valid(_ARGUMENTS)):
            raise RuntimeError("the floor refuses")

    return check
