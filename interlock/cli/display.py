"""How things look: short and aligned, coloured on a terminal alone, and never driven by foreign text."""

import functools
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any

from interlock.cli.escaping import json_line, one_line, printable

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp
    from rich.console import Console

# Wide enough for every line where nobody looks at the lines' ends.
_UNBOUNDED = 10_000
_STYLES = {
    "COMPLETED": "green",
    "FAILED": "red",
    "REFUSED": "red",
    "CANCELED": "yellow",
    "CANCELING": "yellow",
    "RUNNING": "cyan",
}


def emit_json(value: Any) -> None:
    """One JSON document a line to standard output."""
    print(json_line(value), flush=True)


def emit(text: str = "") -> None:
    """Lines to standard output, at once: the reader may be watching."""
    print(printable(text), flush=True)


@functools.cache
def console() -> "Console":
    """Standard output by way of rich: no markup, no cut lines in pipes, colours on a terminal alone."""
    from rich.console import Console

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNBOUNDED
    return Console(width=width, markup=False, emoji=False, highlight=False, soft_wrap=True)


def emit_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns, aligned; the first is never cut, since it is what the reader copies."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading, no_wrap=True, overflow="ignore" if index == 0 else "ellipsis")
    for row in rows:
        table.add_row(*(Text(one_line(cell), style=style_of(cell)) for cell in row))
    with console().capture() as drawn:
        console().print(table, soft_wrap=False, crop=False)
    # Without the blanks that fill the last column.
    print("\n".join(line.rstrip() for line in drawn.get().splitlines()), flush=True)


def style_of(word: str) -> str:
    """The colour of a state or status, whatever is said behind it; none for other words."""
    return _STYLES.get(word.partition(" ")[0], "")


def clock_time(when: "Timestamp") -> str:
    """The local time of day, to the millisecond."""
    return when.ToDatetime(tzinfo=UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]


def short_time(when: "Timestamp") -> str:
    """Local date and time, to the second."""
    return when.ToDatetime(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def name_of(enum_name: str, prefix: str) -> str:
    """An enum's name without its prefix."""
    return enum_name.removeprefix(prefix)
