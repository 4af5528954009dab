"""What to run."""

import re
from dataclasses import dataclass

from interlock_sandbox.profile import DEFAULT

_IDENTIFIER = re.compile(r"[^\W\d]\w{0,127}\Z")
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolProgram:
    """One Python module and the call to make into it: `entrypoint(**arguments)`.

    The return value, a JSON value, is the result; an `async def` entrypoint is awaited. Only the standard
    library can be imported, and what its profile adds.
    """

    source: str
    arguments_json: bytes = b"{}"
    """A JSON object."""
    entrypoint: str = "run"
    filename: str = "tool.py"
    """The name shown in tracebacks."""
    profile: str = DEFAULT
    """Name of a profile of the sandbox: what else can be imported."""

    def __post_init__(self) -> None:
        if not self.source.isascii():
            self.source.encode()  # half a surrogate pair is a ValueError here rather than a failure later
        if len(self.filename) > _LONGEST_NAME:
            raise ValueError(f"filename must have at most {_LONGEST_NAME} characters")
        if not _IDENTIFIER.match(self.entrypoint):
            raise ValueError(f"entrypoint must be a Python name, not {self.entrypoint!r}")
