"""Text of tasks, tools and models, made harmless: it must not drive the terminal or pass for our lines."""

import json
from typing import Any


def printable(text: str) -> str:
    """`text` with control and formatting characters escaped; line breaks and tabs stay."""
    return "".join(each if each.isprintable() or each in "\n\t" else _escaped(each) for each in text)


def one_line(text: str) -> str:
    """`text` with everything escaped that could begin a line or hide one."""
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def json_line(value: Any) -> str:
    """`value` as one line of JSON that a terminal shows as it is."""
    text = json.dumps(value, ensure_ascii=False)
    # Such characters stand within strings alone, where JSON has its own escapes for them.
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
