"""People's and machines' JSON, parsed strictly once and written one way.

Refused: duplicate keys, NaN and Infinity, numbers that a double or a 64-bit integer cannot hold, lone
surrogates, NUL, nesting past 64, texts past the cap. What parses here is stored, digested, validated and
executed as the same bytes.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from google.protobuf.struct_pb2 import NULL_VALUE, Struct, Value

from svc_kit.errors import Violation, invalid

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

MAX_BYTES = 262_144
MAX_DEPTH = 64
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1

_MAX_SAFE_INTEGER = 2**53
_MAX_VIOLATIONS = 20
_MAX_SHOWN = 60
_MAX_INTEGER_DIGITS = len(str(MIN_INTEGER))
# Possessive, and an unterminated string runs to the end: linear in the text however hostile it is.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_NON_ZERO_MANTISSA = re.compile(r"[-0.]*[1-9]")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class _Flaw:
    """Stands in the parsed tree where something refused was, until its path is known."""

    message: str


class _FlawedObject(dict[str, Any]):
    """An object in which some keys came more than once."""

    def __init__(self, items: list[tuple[str, Any]]) -> None:
        super().__init__(items)
        self.repeated = [key for key, count in Counter(key for key, _ in items).items() if count > 1]


class _Hooks:
    """What the parser calls for each number, constant and object; it goes inside out, so paths come later."""

    flawed = False

    def integer(self, digits: str) -> int | _Flaw:
        # The length goes first: int() of a megabyte of digits is slow, or refused by the interpreter.
        if len(digits) > _MAX_INTEGER_DIGITS or not MIN_INTEGER <= (value := int(digits)) <= MAX_INTEGER:
            return self._flaw(f"integer {_shorten(digits)} does not fit 64 bits; send it as a string")
        return value

    def real(self, digits: str) -> float | _Flaw:
        value = float(digits)
        if math.isinf(value):
            return self._flaw(f"number {_shorten(digits)} is out of range")
        if value == 0 and _NON_ZERO_MANTISSA.match(digits):
            return self._flaw(f"number {_shorten(digits)} is too close to zero to be kept")
        return value

    def constant(self, name: str) -> _Flaw:
        return self._flaw(f"{name} is not JSON")

    def pairs(self, items: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(items)
        if len(value) == len(items):
            return value
        self.flawed = True
        return _FlawedObject(items)

    def _flaw(self, message: str) -> _Flaw:
        self.flawed = True
        return _Flaw(message)


def parse(text: str | bytes, *, field: str, max_bytes: int = MAX_BYTES) -> JsonValue:
    """The value of `text`; InvalidArgument with what is wrong and where (JSON path or line) on `field`."""
    decoded = _decode(text, field, max_bytes)
    _check_depth(decoded, field)
    hooks = _Hooks()
    try:
        value = json.loads(
            decoded,
            parse_int=hooks.integer,
            parse_float=hooks.real,
            parse_constant=hooks.constant,
            object_pairs_hook=hooks.pairs,
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _refuse(field, f"not valid JSON: {error.msg} at {where}") from None
    # Raw NUL is no JSON and raw surrogates are no UTF-8, so bad characters can only have come as \u escapes.
    if hooks.flawed or "\\u" in decoded:
        _raise_flaws(value, field)
    return cast(JsonValue, value)


def canonical(value: JsonValue) -> bytes:
    """The one way to write `value`: keys by code point, no spaces, UTF-8, floats by repr, exact integers."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest(data: bytes) -> str:
    """The SHA-256 of `data`, written "sha256:<hex>"."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def struct_to_json(
    struct: Struct, *, field: str = "input", max_bytes: int = MAX_BYTES
) -> dict[str, JsonValue]:
    """`struct` under the rules of `parse`; whole numbers within 2^53 become ints: it has only doubles."""
    size = struct.ByteSize()
    if size > max_bytes:
        raise _refuse(field, f"{size} bytes, more than the {max_bytes} allowed")
    value: dict[str, JsonValue] = {key: _from_proto(item, 2) for key, item in struct.fields.items()}
    _raise_flaws(value, field)
    return value


def json_to_struct(value: dict[str, JsonValue]) -> Struct:
    """`value` as Struct; integers beyond 2^53 become the nearest double, see `fits_struct`."""
    struct = Struct()
    for key, item in value.items():
        _to_proto(item, struct.fields[key])
    return struct


def fits_struct(value: JsonValue) -> bool:
    """Whether a Struct holds `value` without rounding any integer."""
    if isinstance(value, bool):
        return True
    if isinstance(value, int):
        return abs(value) <= _MAX_SAFE_INTEGER
    if isinstance(value, list):
        return all(fits_struct(item) for item in value)
    if isinstance(value, dict):
        return all(fits_struct(item) for item in value.values())
    return True


def _decode(text: str | bytes, field: str, max_bytes: int) -> str:
    try:
        data = text.encode() if isinstance(text, str) else text
        if len(data) > max_bytes:
            raise _refuse(field, f"{len(data)} bytes, more than the {max_bytes} allowed")
        return text if isinstance(text, str) else data.decode()
    except UnicodeDecodeError as error:
        raise _refuse(field, f"not UTF-8 at byte {error.start}") from None
    except UnicodeEncodeError as error:
        raise _refuse(field, f"lone surrogate at character {error.start}") from None


def _check_depth(text: str, field: str) -> None:
    """Refuse deep nesting before the recursive parser meets it."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        bracket = match[0]
        if bracket in ("[", "{"):
            depth += 1
            if depth > MAX_DEPTH:
                raise _refuse(field, f"nested deeper than {MAX_DEPTH} at character {match.start()}")
        elif bracket in ("]", "}"):
            depth -= 1


def _raise_flaws(value: Any, field: str) -> None:
    found: list[Violation] = []
    for path, message in _flaws(value, "$"):
        found.append(Violation(field, f"at {path}: {message}"))
        if len(found) == _MAX_VIOLATIONS:
            break
    if found:
        raise invalid(found)


def _flaws(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Paths and what is wrong there, outermost first."""
    match value:
        case _Flaw():
            yield path, value.message
        case str():
            if message := _text_flaw(value):
                yield path, message
        case list():
            for index, item in enumerate(value):
                yield from _flaws(item, f"{path}[{index}]")
        case dict():
            for key in getattr(value, "repeated", ()):
                yield path, f"duplicate key {_quote(key)}"
            for key, item in value.items():
                if message := _text_flaw(key):
                    yield path, f"key {_quote(key)} has a {message}"
                yield from _flaws(item, _member(path, key))


def _text_flaw(text: str) -> str:
    if "\0" in text:
        return "NUL character"
    if text.isascii():
        return ""
    return "lone surrogate" if any("\ud800" <= character <= "\udfff" for character in text) else ""


def _member(path: str, key: str) -> str:
    return f"{path}.{key}" if _PLAIN_KEY.match(key) else f"{path}[{_quote(key)}]"


def _quote(text: str) -> str:
    return json.dumps(_shorten(text))


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def _refuse(field: str, message: str) -> Exception:
    return invalid([Violation(field, message)])


def _from_proto(value: Value, depth: int) -> Any:
    """`depth` is the one that `value` would have if it is a container; the outermost object has 1."""
    kind = value.WhichOneof("kind")
    if kind is None:
        return _Flaw("a Value without a kind")
    if kind in ("list_value", "struct_value"):
        if depth > MAX_DEPTH:
            return _Flaw(f"nested deeper than {MAX_DEPTH}")
        if kind == "list_value":
            return [_from_proto(item, depth + 1) for item in value.list_value.values]
        return {key: _from_proto(item, depth + 1) for key, item in value.struct_value.fields.items()}
    return _from_double(value.number_value) if kind == "number_value" else _from_scalar(value, kind)


def _from_scalar(value: Value, kind: str) -> Any:
    return None if kind == "null_value" else getattr(value, kind)


def _from_double(number: float) -> int | float | _Flaw:
    if not math.isfinite(number):
        return _Flaw(f"{number} is not JSON")
    if number.is_integer() and abs(number) <= _MAX_SAFE_INTEGER:
        return int(number)
    return number


def _to_proto(value: JsonValue, target: Value) -> None:
    if value is None:
        target.null_value = NULL_VALUE
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int | float):
        target.number_value = value
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, list):
        target.list_value.SetInParent()
        for item in value:
            _to_proto(item, target.list_value.values.add())
    else:
        target.struct_value.SetInParent()
        for key, item in value.items():
            _to_proto(item, target.struct_value.fields[key])
