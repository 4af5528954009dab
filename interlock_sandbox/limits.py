"""How much one call may use."""

from dataclasses import dataclass, fields

MIB = 1024 * 1024
_LEAST_FILES = 8
_LEAST_MEMORY = 8 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one call; every one is enforced by the kernel or the parent, none by the tool's goodwill."""

    wall_seconds: float = 5.0
    """From the moment the program is sent; includes loading the module."""
    cpu_seconds: float = 5.0
    """Processor time over all threads; the kernel counts whole seconds, so it is rounded up."""
    memory_bytes: int = 256 * MIB
    """Address space beyond that of the bare interpreter."""
    processes: int = 32
    """Threads, the first one included; tools start no processes."""
    open_files: int = 64
    """Descriptors, the standard ones and the result channel included."""
    stdout_bytes: int = 64 * 1024
    """Kept; what follows is dropped and flagged, and a flood ends the call."""
    stderr_bytes: int = 64 * 1024
    """As `stdout_bytes`."""
    result_bytes: int = 1 * MIB
    """Length of the result's JSON text."""
    disk_bytes: int = 16 * MIB
    """Size of the scratch folder /tmp (held in memory); 0 makes it read-only."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int and not isinstance(value, int):
                raise TypeError(f"{field.name} must be a whole number, not {value!r}")
            least = 0 if field.name in ("stdout_bytes", "stderr_bytes", "disk_bytes") else 1e-3
            if not least <= value <= 2**40:
                raise ValueError(f"{field.name} must be between {least:g} and 2**40, not {value!r}")
        if self.open_files < _LEAST_FILES:
            raise ValueError(f"open_files must be at least {_LEAST_FILES}, not {self.open_files}")
        if self.memory_bytes < _LEAST_MEMORY:
            raise ValueError(f"memory_bytes must be at least 8 MiB, not {self.memory_bytes}")
