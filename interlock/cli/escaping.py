"""Text of tasks, tools and models, made harmless: it must not drive the terminal or pass for our lines."""

import json
from typing import Any

# Count as printable, and show as nothing or as a blank: a name with one is not the name that it looks like.
_UNSEEN = frozenset(
    [
        *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
        *(0x180B, 0x180C, 0x180D, 0x180F, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)),
    ]
)


def printable(text: str) -> str:
    """`text` with control and formatting characters escaped; line breaks and tabs stay."""
    return "".join(each if each.isprintable() or each in "\n\t" else _escaped(each) for each in text)


def one_line(text: str) -> str:
    """`text` with everything escaped that could begin a line, or hide one, or itself."""
    return "".join(each if _is_seen(each) else _escaped(each) for each in text)


def json_line(value: Any) -> str:
    """`value` as one line of JSON that a terminal shows as it is."""
    text = json.dumps(value, ensure_ascii=False)
    # Such characters stand within strings alone, where JSON has its own escapes for them.
    return "".join(each if _is_seen(each) else json.dumps(each)[1:-1] for each in text)


def _is_seen(character: str) -> bool:
    return character.isprintable() and ord(character) not in _UNSEEN


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
