"""The CSV file that the demo's agent works on."""

import sysconfig
from dataclasses import dataclass
from pathlib import Path

import interlock_suite
from interlock_suite.errors import SuiteError

# A task's input may hold 256 KiB of JSON; quotes and line breaks grow on the way into it.
MAX_BYTES = 200 * 1024
_KIBIBYTE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table as text."""

    name: str
    text: str

    @property
    def size(self) -> str:
        """For example `1.2 KiB, 32 lines`."""
        lines = self.text.count("\n") + (not self.text.endswith("\n"))
        return f"{len(self.text.encode()) / _KIBIBYTE:.1f} KiB, {lines} lines"


def read_table(path: Path | None) -> Table:
    """The file, or the example's; SuiteError says why it cannot be used."""
    file = path or examples() / "data" / "moons.csv"
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise SuiteError(
                f"{file} has {size / _KIBIBYTE:,.0f} KiB; the demo takes {MAX_BYTES // _KIBIBYTE} at most.",
                f"Give a part of it, for example: head -n 1000 {file} > part.csv",
            )
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"{file} cannot be read: {error}.", "Give a CSV file in UTF-8.") from None
    if not text.strip() or "\0" in text:
        raise SuiteError(f"{file} is no table.", "Give a CSV file with a header and rows.")
    return Table(name=file.name, text=text)


def examples() -> Path:
    """The folder of examples: beside the packages in a checkout, else where the installation put it."""
    checkout = Path(interlock_suite.__file__).parent.parent / "examples"
    installed = Path(sysconfig.get_path("data")) / "share" / "interlock" / "examples"
    return checkout if checkout.is_dir() else installed
