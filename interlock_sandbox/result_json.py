"""The strict reading of what a tool returned."""

import json
import math
import re
from typing import NoReturn

from interlock_sandbox.errors import SandboxError

MAX_DEPTH = 64

# A NUL in a string is written \u0000; an even number of backslashes before it would be text about one.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_write = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class BadResult(SandboxError):
    """The bytes are not JSON that we accept; the message says why."""


def check_and_rewrite(data: bytes) -> bytes:
    """The value's compact JSON text, written by us, so that nobody downstream reads the tool's own bytes.

    Refuses whatever readers of JSON disagree on: other encodings, duplicate keys, NaN and infinities (also by
    overflow), lone surrogates, NUL, and nesting beyond `MAX_DEPTH`.
    """
    try:
        text = data.decode("utf-8")
        value = _DECODER.decode(text)
    except UnicodeDecodeError:
        raise BadResult("the result is not UTF-8") from None
    except RecursionError:
        raise BadResult(f"the result is nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise BadResult(f"the result is not JSON: {error}") from None
    # Counting brackets is quick and settles nearly every case.
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _refuse_depth(value)
    return _rewrite(value)


def _rewrite(value: object) -> bytes:
    text = _write(value)
    if "\\u0000" in text and _ESCAPED_NUL.search(text):
        raise BadResult("the result contains a NUL character")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadResult("the result contains half of a surrogate pair") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:32]} is out of range")
    return number


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has the same key twice")
    return members


def _refuse_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _containers_in(outer)]
        if not level:
            return
    raise BadResult(f"the result is nested deeper than {MAX_DEPTH}")


def _containers_in(value: object) -> list[object]:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [child for child in children if isinstance(child, dict | list)]


_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_no_duplicates
)
