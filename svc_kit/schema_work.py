"""How much checking a schema can ask for at each place of a value, at the worst. Pure.

Alternatives that all lead to one place multiply from level to level: a schema of one kilobyte can keep a
validator busy for longer than anybody lives. What is counted here is how often a schema is applied to one
place of a value, by how deep that place is; the validator's time goes with it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

MAX_DEPTH = 64
MOST = 10**12
"""Counts stop here."""
# What looking at a schema may take itself: applications and places, over all its parts.
_MAX_LOOKED_AT = 20_000
# A validator that has to know what was evaluated looks at the parts again; measured: 2.3 times.
_UNEVALUATED = 3

_LISTS = ("allOf", "anyOf", "oneOf")
_SINGLE = ("not", "if", "then", "else")
_NAMED = ("dependentSchemas", "dependencies")

Node = Mapping[str, Any]


class WorkUnbounded(ValueError):
    """Nobody can say; the message is for whoever wrote the schema."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """What meets one place of a value when one schema is applied to it."""

    applied: int
    slots: Sequence[Mapping[int, int]]
    """For each kind of place below it the schemas that are applied there, by number, and how often."""


@dataclass(slots=True)
class _Below:
    """The schemas for what is within a value."""

    by_name: dict[str, Counter[int]] = field(default_factory=dict)
    by_index: dict[int, Counter[int]] = field(default_factory=dict)
    members: Counter[int] = field(default_factory=Counter)
    items: Counter[int] = field(default_factory=Counter)
    names: Counter[int] = field(default_factory=Counter)


def work_by_depth(schema: Node) -> tuple[int, ...]:
    """For places 0, 1, … levels below the top, how many schemas are applied to one; raises WorkUnbounded.

    Deeper than the last, it is as many as there.
    """
    entries = _Schemas(schema).entries()
    level = [each.applied for each in entries]
    found = [level[0]]
    for _ in range(MAX_DEPTH):
        below = [
            max(
                (min(sum(level[n] * often for n, often in slot.items()), MOST) for slot in each.slots),
                default=0,
            )
            for each in entries
        ]
        found.append(below[0])
        if below == level:
            break
        level = below
    return tuple(found)


class _Schemas:
    """Every schema that is applied to a place, numbered as it is found; the first is the whole."""

    def __init__(self, root: Node) -> None:
        self._root = root
        self._anchors: dict[str, list[Node]] = {}
        self._numbers: dict[int, int] = {}
        self._waiting: list[Node] = []
        self._looked_at = 0
        self._collect(root)

    def entries(self) -> list[_Entry]:
        self._number(self._root)
        found: list[_Entry] = []
        while len(found) < len(self._waiting):
            found.append(self._entry(self._waiting[len(found)]))
        return found

    def _entry(self, node: Node) -> _Entry:
        met = self._met(node)
        below = _Below()
        for each, often in met:
            self._descend(each, often, below)
        others = [
            *(each + below.members for each in below.by_name.values()),
            below.members,
            *(each + below.items for each in below.by_index.values()),
            below.items,
            below.names,
        ]
        self._look(sum(map(len, others)))
        return _Entry(min(sum(often for _, often in met), MOST), others)

    def _met(self, node: Node) -> list[tuple[Node, int]]:
        """The schema and all that it has applied to the same place, each with how often."""
        order: list[Node] = []
        state: dict[int, bool] = {}
        waiting: list[tuple[Node, bool]] = [(node, False)]
        while waiting:
            each, done = waiting.pop()
            if done:
                state[id(each)] = True
                order.append(each)
                continue
            if id(each) in state:
                if not state[id(each)]:
                    raise WorkUnbounded("it applies itself to the same value again")
                continue
            state[id(each)] = False
            waiting.append((each, True))
            for other in self._same_place(each):
                if not state.get(id(other), True):
                    raise WorkUnbounded("it applies itself to the same value again")
                if id(other) not in state:
                    waiting.append((other, False))
            self._look(1)
        counts: Counter[int] = Counter({id(node): 1})
        for each in reversed(order):
            again = _UNEVALUATED if "unevaluatedProperties" in each or "unevaluatedItems" in each else 1
            for other in self._same_place(each):
                counts[id(other)] = min(counts[id(other)] + again * counts[id(each)], MOST)
        return [(each, counts[id(each)]) for each in order]

    def _same_place(self, node: Node) -> Iterator[Node]:
        for word in _LISTS:
            yield from _schemas(node.get(word))
        yield from _schemas([node.get(word) for word in _SINGLE])
        for word in _NAMED:
            named = node.get(word)
            yield from _schemas(named.values() if isinstance(named, dict) else ())
        for word in ("$ref", "$dynamicRef"):
            target = node.get(word)
            if isinstance(target, str):
                yield from self._resolve(target)

    def _descend(self, node: Node, often: int, below: _Below) -> None:
        own = node.get("properties")
        own = own if isinstance(own, dict) else {}
        for name, each in own.items():
            self._add(below.by_name.setdefault(name, Counter()), [each], often)
        patterns = node.get("patternProperties")
        self._add(below.members, patterns.values() if isinstance(patterns, dict) else (), often)
        self._add(below.members, [node.get("unevaluatedProperties")], often)
        self._add(below.members, [node.get("additionalProperties")], often)
        first = node.get("prefixItems")
        for index, each in enumerate(first if isinstance(first, list) else ()):
            self._add(below.by_index.setdefault(index, Counter()), [each], often)
        for word in ("items", "contains", "unevaluatedItems"):
            self._add(below.items, [node.get(word)], often)
        self._add(below.names, [node.get("propertyNames")], often)

    def _add(self, counter: Counter[int], schemas: Iterable[Any], often: int) -> None:
        for each in _schemas(schemas):
            number = self._number(each)
            counter[number] = min(counter[number] + often, MOST)

    def _number(self, node: Node) -> int:
        number = self._numbers.setdefault(id(node), len(self._waiting))
        if number == len(self._waiting):
            self._waiting.append(node)
        return number

    def _look(self, at: int) -> None:
        self._looked_at += at
        if self._looked_at > _MAX_LOOKED_AT:
            raise WorkUnbounded("its parts lead to each other in too many ways")

    def _resolve(self, reference: str) -> Sequence[Node]:
        if not reference.startswith("#"):
            raise WorkUnbounded(f"{reference[:100]} leads out of it")
        fragment = unquote(reference[1:])
        if fragment and not fragment.startswith("/"):
            return self._anchors.get(fragment, ())
        found: Any = self._root
        for part in fragment.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            else:
                found = found.get(key) if isinstance(found, dict) else None
        return [found] if isinstance(found, dict) else ()

    def _collect(self, root: Node) -> None:
        """Anchors, wherever they stand."""
        waiting: list[Any] = [root]
        while waiting:
            each = waiting.pop()
            if isinstance(each, list):
                waiting += each
            if not isinstance(each, dict):
                continue
            waiting += each.values()
            for word in ("$anchor", "$dynamicAnchor"):
                if isinstance(each.get(word), str):
                    self._anchors.setdefault(each[word], []).append(each)


def _schemas(of: Iterable[Any] | None) -> Iterator[Node]:
    """Those that ask for something: true and false cost nothing."""
    return (each for each in of or () if isinstance(each, dict)) if not isinstance(of, dict) else iter(())
