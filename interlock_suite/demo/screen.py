"""What the demo says, and how it looks: colours on a terminal alone."""

import shutil
import sys
from pathlib import Path

from rich.text import Text

from interlock.cli.display import console, style_of
from interlock.cli.escaping import one_line
from interlock_suite.demo.table_file import examples

_INDENT = "   "
_SHOWN_CHARACTERS = 110


class Screen:
    """Prints the acts of the demo, each with the commands that do the same."""

    def __init__(self, data_dir: Path, *, silent: bool = False) -> None:
        self.data_dir = data_dir
        self._silent = silent
        self._acts = 0
        self.interlock = _command_name()

    def title(self, text: str) -> None:
        """The first line."""
        self._print(Text(text, style="bold"))

    def act(self, heading: str) -> None:
        """Begin an act."""
        self._acts += 1
        self._print(Text(f"\n{self._acts}. {heading}", style="bold"))

    def command(self, text: str, note: str = "") -> None:
        """What a person would type to get what follows."""
        line = Text(f"{_INDENT}$ {self.interlock} {text}", style="cyan")
        if note:
            line.append(f"   {note}", style="default dim")
        self._print(line)

    def line(self, text: str, *, style: str = "") -> None:
        """One line; texts of tasks and tools may stand in it."""
        shown = one_line(text)
        if len(shown) > _SHOWN_CHARACTERS:
            shown = f"{shown[: _SHOWN_CHARACTERS - 1]}…"
        self._print(Text(f"{_INDENT}{shown}", style=style))

    def happened(self, time: str, what: str, more: str = "") -> None:
        """Something that just happened, coloured by its outcome."""
        line = Text(f"{_INDENT}{time}  {one_line(what)}")
        if more:
            line.append(f"  {one_line(more)}", style=style_of(more))
        elif style_of(what):
            line.stylize(style_of(what), len(_INDENT) + len(time))
        self._print(line)

    def whole(self, text: str) -> None:
        """A line to be copied: never cut."""
        self._print(Text(f"{_INDENT}{text}"))

    def verdict(self, text: str, *, good: bool) -> None:
        """How it all ended."""
        self._print(Text(text, style="bold green" if good else "bold red"))

    def gap(self) -> None:
        """An empty line."""
        self._print()

    def _print(self, text: Text | str = "") -> None:
        if not self._silent:
            console().print(text)


def _command_name() -> str:
    """How the reader reaches the command from where they stand."""
    if shutil.which("interlock") is not None:
        return "interlock"
    door = examples().parent / "dev"
    if not door.is_file():
        script = Path(sys.executable).with_name("interlock")
        return str(script) if script.exists() else f"{sys.executable} -m interlock.cli"
    here = Path.cwd()
    return f"./{door.relative_to(here)} cli" if door.is_relative_to(here) else f"{door} cli"
