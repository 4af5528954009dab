"""What a policy looks at: every path into `context` that its conditions read.

Cedar computes no attribute names, so the paths are known from the text alone, and exactly.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Path = tuple[str, ...]

# What a request's context has, and what the records in it have; None = anything.
CONTEXT: Mapping[str, frozenset[str] | None] = {
    "agent_version": frozenset(),
    "arguments": None,
    "attempt": frozenset(),
    "submitter": frozenset({"roles", "subject", "tenant"}),
}
_SUBJECTLESS = frozenset({".", "has", "getTag", "hasTag"})


class UnknownAttribute(Exception):
    """A policy reads what no request ever has, so it could never do what its writer means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """Paths from `context` on; `("arguments", "amount")` for `context.arguments.amount`."""

    values: frozenset[Path]
    """Read as values, with all that is below them."""
    presences: frozenset[Path]
    """Only asked for with `has`."""

    @property
    def arguments(self) -> bool:
        """Whether anything of the call's arguments is looked at."""
        return any(path[:1] in ((), ("arguments",)) for path in self.values | self.presences)

    def touch(self, opaque: Iterable[Path]) -> bool:
        """Whether one of the `opaque` values is looked at, inside or as part of something larger.

        Asking whether the value is there is not a look at it.
        """
        return any(
            any(_overlap(path, hidden) for path in self.values)
            or any(path[:-1][: len(hidden)] == hidden for path in self.presences)
            for hidden in opaque
        )


def reads_of(conditions: Iterable[Mapping[str, Any]]) -> Reads:
    """What the conditions of one policy (in Cedar's JSON form) read; raises UnknownAttribute."""
    values: set[Path] = set()
    presences: set[Path] = set()
    for condition in conditions:
        for path, is_presence in _walk(condition["body"]):
            _check(path)
            (presences if is_presence else values).add(path)
    return Reads(values=frozenset(values), presences=frozenset(presences))


def _overlap(one: Path, other: Path) -> bool:
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]


def _walk(expression: Any) -> Iterator[tuple[Path, bool]]:
    """Each longest path read in an expression, and whether only its presence is asked for."""
    path = _path(expression)
    if path is not None:
        yield path, False
        return
    if isinstance(expression, list):
        for item in expression:
            yield from _walk(item)
        return
    if not isinstance(expression, dict):
        return
    for operator, operands in expression.items():
        if operator in ("Value", "Var"):
            continue
        if operator == "Record":
            yield from _walk(list(operands.values()))
        elif operator in _SUBJECTLESS:
            yield from _walk_access(operator, operands)
        elif isinstance(operands, dict):
            yield from _walk(list(operands.values()))
        else:
            yield from _walk(operands)


def _walk_access(operator: str, operands: Mapping[str, Any]) -> Iterator[tuple[Path, bool]]:
    left = operands["left"]
    if isinstance(left, dict) and left.get("Var") in ("principal", "action", "resource"):
        raise UnknownAttribute(f"`{left['Var']}` has no attributes or tags here; only `context` has")
    path = _path(left)
    if operator == "has" and path is not None:
        yield (*path, operands["attr"]), True
        return
    yield from _walk(left)
    if operator not in ("has", "."):
        yield from _walk(operands["right"])


def _path(expression: Any) -> Path | None:
    """The path of `context.a.b`; None for any other expression."""
    if not isinstance(expression, dict):
        return None
    if expression.get("Var") == "context":
        return ()
    access = expression.get(".")
    if access is None:
        return None
    left = _path(access["left"])
    return None if left is None else (*left, access["attr"])


def _check(path: Path) -> None:
    if not path:
        return
    if path[0] not in CONTEXT:
        raise UnknownAttribute(f"`context` has no attribute `{path[0]}`; it has {', '.join(sorted(CONTEXT))}")
    inside = CONTEXT[path[0]]
    if inside is not None and len(path) > 1 and path[1] not in inside:
        raise UnknownAttribute(f"`context.{path[0]}` has no attribute `{path[1]}`")
