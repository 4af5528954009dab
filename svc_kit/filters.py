"""The filter of list methods: comparisons joined by AND, a subset of google.aip.dev/160.

    state = "RUNNING" AND agent = "csv-analyst" AND create_time > "2026-05-01T00:00:00Z"

Values are quoted texts, or bare words and numbers. Texts and enums compare with = and !=, numbers and times
also with < <= > >=.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import TypeAlias
from uuid import UUID

from interlock.common.v1.errors_pb2 import ErrorReason
from svc_kit.errors import InvalidArgument, Violation

FilterValue: TypeAlias = "str | int | float | bool | datetime | UUID"

_MAX_LENGTH = 2048
_MAX_CONDITIONS = 20
_MAX_INTEGER = 2**63 - 1

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\]|\\.)*+")
      | (?P<operator><=|>=|!=|=|<|>)
      | (?P<word>[A-Za-z0-9_.+:-]+)
    )""",
    re.VERBOSE | re.DOTALL,
)


class Operator(StrEnum):
    """How a field is compared with a value."""

    EQUAL = "="
    NOT_EQUAL = "!="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="


class FieldType(Enum):
    """What values a field takes; the type of `Condition.value` follows from it."""

    TEXT = "text"  # str
    INTEGER = "integer"  # int
    NUMBER = "number"  # float
    BOOLEAN = "boolean"  # bool: true or false
    UUID = "uuid"  # uuid.UUID
    TIME = "time"  # aware datetime, from RFC 3339


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterField:
    """One field that a method can be filtered by."""

    type: FieldType = FieldType.TEXT
    values: frozenset[str] | None = None  # the only texts allowed, for an enum

    @property
    def operators(self) -> frozenset[Operator]:
        """Those that make sense for its type."""
        ordered = self.type in (FieldType.INTEGER, FieldType.NUMBER, FieldType.TIME)
        return frozenset(Operator) if ordered else frozenset({Operator.EQUAL, Operator.NOT_EQUAL})


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison; a row passes if all of them hold."""

    field: str
    operator: Operator
    value: FilterValue


def parse_filter(text: str, fields: Mapping[str, FilterField]) -> tuple[Condition, ...]:
    """The conditions of `text`, none for an empty one; or FILTER_INVALID, naming what is allowed."""
    if not text.strip():
        return ()
    if len(text) > _MAX_LENGTH:
        raise _refuse(f"longer than {_MAX_LENGTH} characters", "", fields)
    words = _Words(text, fields)
    conditions = [_condition(words, fields)]
    while not words.done:
        joint = words.next("AND")
        if joint != "AND":
            raise _refuse(
                f"expected AND, found {joint[:20]}; comparisons are joined by AND alone", "", fields
            )
        conditions.append(_condition(words, fields))
        if len(conditions) > _MAX_CONDITIONS:
            raise _refuse(f"more than {_MAX_CONDITIONS} comparisons", "", fields)
    return tuple(conditions)


class _Words:
    """The tokens of a filter, one after the other."""

    def __init__(self, text: str, fields: Mapping[str, FilterField]) -> None:
        self._text = text.rstrip()
        self._fields = fields
        self._position = 0

    @property
    def done(self) -> bool:
        return self._position >= len(self._text)

    def next(self, expected: str) -> str:
        match = _TOKEN.match(self._text, self._position)
        if match is None:
            what = "the end" if self.done else f"{self._text[self._position :].lstrip()[:20]!r}"
            raise _refuse(
                f"expected {expected} at character {self._position}, found {what}", "", self._fields
            )
        self._position = match.end()
        return match[0].strip()


def _condition(words: _Words, fields: Mapping[str, FilterField]) -> Condition:
    name = words.next("a field")
    field = fields.get(name)
    if field is None:
        raise _refuse(f"unknown field {name[:64]}", name, fields)
    sign = words.next("an operator")
    if sign not in field.operators:
        allowed = " ".join(operator for operator in Operator if operator in field.operators)
        raise _refuse(f"{name} is compared with {allowed}, not {sign[:20]}", name, fields)
    return Condition(name, Operator(sign), _value(name, field, words.next("a value"), fields))


def _value(name: str, field: FilterField, word: str, fields: Mapping[str, FilterField]) -> FilterValue:
    try:
        text = json.loads(word) if word.startswith('"') else word
        text.encode()  # an escaped lone surrogate is no text
        if "\0" in text:
            raise ValueError("NUL")
        value = _READERS[field.type](text)
    except (ValueError, OverflowError):
        raise _refuse(f"{name} needs a {field.type.value}, not {word[:64]}", name, fields) from None
    if field.values is not None and value not in field.values:
        raise _refuse(f"{name} is one of {', '.join(sorted(field.values))}, not {word[:64]}", name, fields)
    return value


def _read_integer(text: str) -> int:
    value = int(text)
    if abs(value) > _MAX_INTEGER:
        raise ValueError("beyond 64 bits")
    return value


def _read_number(text: str) -> float:
    value = float(text)
    if not abs(value) < float("inf"):
        raise ValueError("not finite")
    return value


def _read_boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("neither true nor false")
    return text == "true"


def _read_time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("without a zone")
    return time.astimezone(UTC)


_READERS: Mapping[FieldType, Callable[[str], FilterValue]] = {
    FieldType.TEXT: str,
    FieldType.INTEGER: _read_integer,
    FieldType.NUMBER: _read_number,
    FieldType.BOOLEAN: _read_boolean,
    FieldType.UUID: UUID,
    FieldType.TIME: _read_time,
}


def _refuse(message: str, field: str, fields: Mapping[str, FilterField]) -> InvalidArgument:
    allowed = ", ".join(sorted(fields))
    return InvalidArgument(
        ErrorReason.ERROR_REASON_FILTER_INVALID,
        f"filter: {message}; fields: {allowed}",
        metadata={"field": field[:64], "allowed": allowed},
        violations=[Violation("filter", message)],
    )
