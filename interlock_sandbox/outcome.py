"""How a call ended."""

from dataclasses import dataclass
from enum import StrEnum

from interlock_sandbox.levels import IsolationLevel


class OutcomeKind(StrEnum):
    """The one way a call ended; every way but COMPLETED leaves `result_json` empty."""

    COMPLETED = "COMPLETED"
    TOOL_ERROR = "TOOL_ERROR"
    """The tool raised; the error is its own."""
    TIMEOUT = "TIMEOUT"
    """The deadline or the wall-clock limit passed."""
    MEMORY = "MEMORY"
    """The memory limit was reached."""
    CPU = "CPU"
    """The processor time was used up."""
    OUTPUT_LIMIT = "OUTPUT_LIMIT"
    """The result is too large, or stdout or stderr were flooded."""
    KILLED = "KILLED"
    """Somebody outside killed it, such as the host when out of memory."""
    BAD_RESULT = "BAD_RESULT"
    """The result is not acceptable JSON, or the channel was misused."""
    CRASHED = "CRASHED"
    """The process ended by itself before it returned, or the zygote died."""
    CANCELED = "CANCELED"
    """The sandbox was closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFailure:
    """What went wrong, in the words of the tool (for TOOL_ERROR and MEMORY) or ours."""

    type: str
    """An exception's class name, or the outcome's kind."""
    message: str
    """At most 4 KiB; from the tool, so not to be trusted."""
    traceback: str = ""
    """The tool's own frames, at most 16 KiB; empty unless the tool raised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """What the tool wrote to one of its streams."""

    data: bytes = b""
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the call took, as the kernel counts it."""

    wall_ms: float = 0.0
    cpu_ms: float = 0.0
    peak_rss_bytes: int = 0
    """Of the whole process, pages shared with the runtime included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of one call."""

    kind: OutcomeKind
    level: IsolationLevel
    """How well the program was isolated."""
    started: bool
    """False if the program was never handed to a sandbox, so that it is safe to run it again."""
    result_json: bytes | None = None
    """Compact UTF-8 JSON, written by us from what was parsed; None unless COMPLETED."""
    error: ToolFailure | None = None
    """None if and only if COMPLETED."""
    stdout: Captured = Captured()
    stderr: Captured = Captured()
    usage: Usage = Usage()
