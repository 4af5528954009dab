"""From a call's JSON arguments to what Cedar can hold, without giving any policy a wrong idea of them.

Cedar knows whole numbers, texts, booleans, sets and records, but no fractions and no null, and reads the
keys `__entity`, `__extn` and `__expr` as orders of its own. What it cannot hold becomes *opaque*: it is still
there for `has`, and a policy that looks at it is not decided (so the call is refused).
"""

from dataclasses import dataclass
from typing import Any

from gateway_svc.cedar.reads import Path
from svc_kit.strict_json import MAX_INTEGER, MIN_INTEGER, JsonValue

_ESCAPES = frozenset({"__entity", "__extn", "__expr"})
_OPAQUE: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class CedarArguments:
    """The arguments as a Cedar record, and where something in them could not be told."""

    record: dict[str, Any]
    opaque: frozenset[Path]


def to_cedar(arguments: dict[str, JsonValue]) -> CedarArguments:
    """Members that are null are left out, as if they had not been sent; 100.0 is the whole number it is."""
    opaque: set[Path] = set()
    record = _convert(arguments, ("arguments",), opaque)
    return CedarArguments(record=record, opaque=frozenset(opaque))


def _convert(value: JsonValue, path: Path, opaque: set[Path]) -> Any:
    if isinstance(value, dict):
        if not _ESCAPES.isdisjoint(value):
            opaque.add(path)
            return _OPAQUE
        return {
            key: _convert(member, (*path, key), opaque) for key, member in value.items() if member is not None
        }
    if isinstance(value, list):
        return _convert_list(value, path, opaque)
    if isinstance(value, float):
        if value.is_integer() and MIN_INTEGER <= value <= MAX_INTEGER:
            return int(value)
        opaque.add(path)
        return _OPAQUE
    return value


def _convert_list(items: list[JsonValue], path: Path, opaque: set[Path]) -> Any:
    """A set has no places, so that one item which cannot be told makes the whole list opaque."""
    inside: set[Path] = set()
    converted = [_convert(item, path, inside) for item in items]
    if inside or _has_null(items):
        opaque.add(path)
        return _OPAQUE
    return converted


def _has_null(items: list[JsonValue]) -> bool:
    return any(item is None for item in items)
