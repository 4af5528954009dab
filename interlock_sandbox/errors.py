"""What can go wrong with the sandbox itself; a tool's own failures are outcomes, not exceptions."""

from collections.abc import Collection

from interlock_sandbox.levels import SandboxStatus


class SandboxError(Exception):
    """Base of this package's exceptions."""


class SandboxUnavailable(SandboxError):
    """This host cannot isolate code as well as was demanded, so none is run.

    The message names each missing layer with its remedy; `status` holds the same as data.
    """

    def __init__(self, message: str, *, status: SandboxStatus | None = None) -> None:
        super().__init__(message)
        self.status = status


class ProfileUnknown(SandboxError):
    """The sandbox has no such profile."""

    def __init__(self, profile: str, known: Collection[str]) -> None:
        there = ", ".join(sorted(name for name in known if name)) or "none"
        super().__init__(f"there is no runtime profile {profile!r} here; there is {there}")


class SandboxClosed(SandboxError):
    """The sandbox was not started, or is closed."""


class ProtocolViolation(SandboxError):
    """The other side of a channel sent what no honest one sends."""
