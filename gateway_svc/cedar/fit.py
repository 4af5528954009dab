"""Whether a policy fits the input schema of the tool that it names.

Cedar's own validator judges the types; what it reads is known from the text, and looked up here, because the
validator takes a misspelt name after `has` for one that is merely absent.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import cedarpy

from gateway_svc.cedar.reads import Path
from gateway_svc.cedar.text import ACTION_TYPE, AGENT_TYPE, CALL_TOOL, TOOL_TYPE, ParsedPolicy

_MAX_MISFITS = 10
_MAX_DEPTH = 32
_NAMESPACE = ACTION_TYPE.partition("::")[0]
_CEDAR_TYPES = {"string": "String", "integer": "Long", "number": "Long", "boolean": "Boolean"}
# In the validator's words, less the policy's own number.
_MISTYPED = re.compile(
    r"unexpected type: expected (.+) but saw (.+)|the types (.+) and (.+) are not compatible"
)
_UNGUARDED = re.compile(r"access to optional attribute `arguments\.([^`]+)`")

_Schema: TypeAlias = Mapping[str, Any]
_CedarType: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """Where a policy does not fit."""

    message: str
    certain: bool
    """Whether it fits no call at all; if not, it stumbles over some."""


def flaws_of(policy: ParsedPolicy, input_schema_json: str) -> list[Flaw]:
    """Where what a policy reads of the arguments is not in their schema, or is of another type there.

    What the schema leaves open (no `properties`, `anyOf`, a `$ref`) is not judged.
    """
    paths = sorted(
        path for path in policy.reads.values | policy.reads.presences if path[:1] == ("arguments",)
    )
    if not paths:
        return []
    schema = json.loads(input_schema_json) if input_schema_json else {}
    found = [Flaw(message=each, certain=True) for path in paths for each in _unknown(schema, path[1:])]
    if not found and all(_is_typed(schema, path[1:]) for path in paths):
        found = list(_type_flaws(policy, schema, paths))
    return found[:_MAX_MISFITS]


def _unknown(schema: Any, path: Path) -> Iterator[str]:
    """A name that the schema does not have where it names what there is."""
    at: list[str] = []
    for name in path:
        members = _members(schema)
        if members is None:
            return
        if name not in members:
            where = f"`{'.'.join(at)}` has no member" if at else "the tool has no argument"
            there = ", ".join(f"`{each}`" for each in sorted(members)) or "none"
            yield f"{where} `{name}`; there is {there}"
            return
        at.append(name)
        schema = members[name]


def _members(schema: Any) -> Mapping[str, Any] | None:
    """The members of an object that says which it has; None when anything goes."""
    if not isinstance(schema, dict) or not isinstance(schema.get("properties"), dict):
        return None
    if any(each in schema for each in ("anyOf", "oneOf", "allOf", "$ref", "patternProperties")):
        return None
    if isinstance(schema.get("additionalProperties"), dict):
        return None
    return dict(schema["properties"])


def _is_typed(schema: Any, path: Path) -> bool:
    for name in path:
        members = _members(schema)
        if members is None:
            return False
        schema = members.get(name)
    return _cedar_type(schema, 0) is not None


def _cedar_type(schema: Any, depth: int) -> _CedarType | None:
    """The type of values that fit a schema; None when that cannot be told."""
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return None
    kinds = schema.get("type")
    # A null counts as not sent.
    named = [kind for kind in ([kinds] if isinstance(kinds, str) else kinds or []) if kind != "null"]
    if len(named) != 1:
        return None
    (kind,) = named
    if kind == "array":
        element = _cedar_type(schema.get("items"), depth + 1)
        return {"type": "Set", "element": element} if element is not None else None
    if kind == "object":
        return _record(schema, depth)
    return {"type": _CEDAR_TYPES[kind]} if kind in _CEDAR_TYPES else None


def _record(schema: _Schema, depth: int) -> _CedarType | None:
    """A record of the members whose type can be told."""
    members = _members(schema)
    if members is None:
        return None
    required = schema.get("required", [])
    attributes = {}
    for name, member in members.items():
        kind = _cedar_type(member, depth + 1)
        if kind is not None:
            nullable = "null" in (member.get("type") or ())
            attributes[name] = kind | {"required": name in required and not nullable}
    return {"type": "Record", "attributes": attributes}


def _type_flaws(policy: ParsedPolicy, schema: _Schema, paths: Sequence[Path]) -> Iterator[Flaw]:
    arguments = _record(schema, 0)
    if arguments is None:
        return
    answer = cedarpy.validate_policies(policy.text, _cedar_schema(arguments))
    said = {str(error) for error in answer.errors}
    for error in sorted(said):
        unguarded = _UNGUARDED.search(error)
        mistyped = _MISTYPED.search(error)
        if unguarded is not None:
            name = unguarded[1]
            yield Flaw(
                message=f"the argument `{name}` may be left out, and then the call is refused; "
                f"ask with `has` before it is read",
                certain=False,
            )
        elif mistyped is not None:
            wanted, given = mistyped[1] or mistyped[3], mistyped[2] or mistyped[4]
            there = ", ".join(f"`{'.'.join(path[1:])}` is {_spoken(schema, path[1:])}" for path in paths)
            yield Flaw(message=f"{wanted} and {given} do not go together; {there}", certain=True)


def _spoken(schema: Any, path: Path) -> str:
    """The type at a path, as Cedar calls it."""
    for name in path:
        schema = schema["properties"][name]
    kind = _cedar_type(schema, 0) or {"type": "of any type"}
    return f"Set of {kind['element']['type']}" if "element" in kind else str(kind["type"])


def _cedar_schema(arguments: _CedarType) -> dict[str, Any]:
    def name(entity_type: str) -> str:
        return entity_type.removeprefix(f"{_NAMESPACE}::")

    text = {"type": "String"}
    roles = {"type": "Set", "element": text}
    # Always there in what is judged here: whether it is guarded says nothing of the tool.
    submitter = {"type": "Record", "attributes": {"tenant": text, "subject": text, "roles": roles}}
    context = {
        "arguments": arguments,
        "agent_version": text,
        "attempt": {"type": "Long"},
        "submitter": submitter,
    }
    applies = {
        "principalTypes": [name(AGENT_TYPE)],
        "resourceTypes": [name(TOOL_TYPE)],
        "context": {"type": "Record", "attributes": context},
    }
    return {
        _NAMESPACE: {
            "entityTypes": {name(AGENT_TYPE): {}, name(TOOL_TYPE): {}},
            "actions": {CALL_TOOL: {"appliesTo": applies}},
        }
    }
