"""JSON Schema 2020-12 as all services understand it: offline, in bounded time, every violation by its place.

The registry publishes only what compiles here, so that orchestrator and gateway can check with it.
"""

import itertools
import json
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import jsonschema_rs

from svc_kit.errors import Violation
from svc_kit.schema_work import WorkUnbounded, work_by_depth
from svc_kit.strict_json import JsonValue

MAX_VIOLATIONS = 100
_MAX_MESSAGE = 300
_MAX_COMPILED = 1024
# The validator makes every error, with its text, before it gives the first one. So much (weight of the value
# times bytes of the schema) was measured to take 0.1 s at the most; a value of 256 KiB took 27 s.
_MAX_LISTING = 100_000
_CHARACTERS_OF_A_NODE = 1024
# Applications of schemas to places of one value: 0.1 s, measured.
_MAX_WORK = 5_000_000
# With the texts of what is wrong each costs so much more.
_MAX_LISTING_WORK = _MAX_WORK // 100
# A value of 256 KiB has no more.
_MAX_PLACES = 131_072


class SchemaUnusable(Exception):
    """The schema does not compile under our rules; its text says why, on one line."""


class Schema:
    """A compiled schema."""

    def __init__(
        self, validator: jsonschema_rs.Draft202012Validator, *, size: int, work: tuple[int, ...]
    ) -> None:
        self._validator = validator
        self._max_weight = _MAX_LISTING // max(size, 1)
        self._work = work
        self._is_light = max(work) * _MAX_PLACES <= _MAX_WORK

    def is_valid(self, value: JsonValue) -> bool:
        """Whether `value` fits; one that would take too long to look at does not."""
        return self._is_quick(value) and self._validator.is_valid(value)

    def violations(self, value: JsonValue, *, limit: int = MAX_VIOLATIONS) -> list[Violation]:
        """Everything wrong with `value`; `field` is a JSON pointer into it, empty for the whole of it.

        Beyond `limit` a last one, without a place, says that there are more. Of a value that is too large for
        its schema only this is said: a hostile one shall not hold up the service.
        """
        if not self._is_quick(value):
            return [Violation("", "is too large, or nested too deep, for all that its schema asks of it")]
        if self._validator.is_valid(value):
            return []
        if not (_is_within(self._max_weight, value) and self._is_quick(value, _MAX_LISTING_WORK)):
            return [Violation("", "does not fit the schema, and is too large to tell where")]
        listed = list(itertools.islice(self._each(value), limit + 1))
        if len(listed) > limit:
            listed[limit:] = [Violation("", f"and more: only the first {limit} are listed")]
        return listed

    def _is_quick(self, value: JsonValue, most: int = _MAX_WORK) -> bool:
        """Whether no more is to do for a value, at the worst."""
        if self._is_light and most == _MAX_WORK:
            return True
        left, level, depth = most, [value], 0
        while level:
            left -= len(level) * max(self._work[min(depth, len(self._work) - 1)], 1)
            if left < 0:
                return False
            depth += 1
            level = [
                each
                for node in level
                if isinstance(node, (list, dict))
                for each in (node.values() if isinstance(node, dict) else node)
            ]
        return True

    def _each(self, value: JsonValue) -> Iterator[Violation]:
        for error in self._validator.iter_errors(value):
            path = list(error.instance_path)
            members = _members(error.kind)
            for member, message in members:
                yield Violation(pointer([*path, member]), message)
            if not members:
                yield Violation(pointer(path), error.message[:_MAX_MESSAGE])


class SchemaCache:
    """Compiled schemas by the digest of what they stand in; the longest unused are forgotten first."""

    def __init__(self, *, size: int = _MAX_COMPILED) -> None:
        self._size = size
        self._compiled: OrderedDict[str, Schema] = OrderedDict()

    def __len__(self) -> int:
        return len(self._compiled)

    def get(self, key: str, schema_json: str) -> Schema:
        """The schema of this text; SchemaUnusable when it does not compile.

        `key` never means another text: the digest of an agent or tool version, and which of its schemas.
        """
        schema = self._compiled.get(key)
        if schema is None:
            schema = self._compiled[key] = compile_schema(schema_json)
            if len(self._compiled) > self._size:
                self._compiled.popitem(last=False)
        else:
            self._compiled.move_to_end(key)
        return schema


def compile_schema(schema: JsonValue) -> Schema:
    """Compile a schema, given as its JSON text or as its value; SchemaUnusable when that cannot be done.

    Nothing is fetched, and the regex engine refuses what could run exponentially (look-arounds and
    back-references).
    """
    try:
        value: Any = json.loads(schema) if isinstance(schema, str) else schema
        size = len(schema) if isinstance(schema, str) else len(json.dumps(schema))
        work = work_by_depth(value) if isinstance(value, dict) else (1,)
        if work[0] > _MAX_WORK:
            raise WorkUnbounded("it would take too long to check any value at all")
        return Schema(
            jsonschema_rs.Draft202012Validator(
                value,
                validate_formats=False,
                offline=True,
                pattern_options=jsonschema_rs.RegexOptions(),
            ),
            size=size,
            work=work,
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise SchemaUnusable(str(error).split("\n", 1)[0][:_MAX_MESSAGE]) from None


def _is_within(weight: int, value: JsonValue) -> bool:
    """Whether a value weighs no more: its nodes, and its long strings; looks no further than that."""
    left, waiting = weight, [value]
    while waiting:
        node = waiting.pop()
        left -= 1 + (len(node) // _CHARACTERS_OF_A_NODE if isinstance(node, str) else 0)
        if isinstance(node, (list, dict)):
            if len(node) > left:
                return False
            waiting += node.values() if isinstance(node, dict) else node
        if left < 0:
            return False
    return True


def _members(kind: Any) -> list[tuple[str, str]]:
    """The members that are missing or should not be there, when the error is about such, as its places."""
    if kind.name == "required":
        return [(kind.property, "is required")]
    if kind.name in ("additionalProperties", "unevaluatedProperties"):
        return [(member, "is not a member that the schema knows") for member in kind.unexpected]
    return []


def pointer(path: list[str | int]) -> str:
    """The JSON pointer (RFC 6901) of a path."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
