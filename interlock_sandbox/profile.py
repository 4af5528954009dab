"""What a program may import beside the standard library, as the operator of this host says."""

from dataclasses import dataclass

DEFAULT = ""
"""Name of the profile that is always there: this Python, and its standard library alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """An interpreter and a folder of packages; programs see the folder read-only, and nothing near it."""

    packages: str = ""
    """As `pip install --target` makes it; empty = none."""
    python: str = ""
    """Path of the interpreter, 3.11 or newer; empty = the one that runs us."""
    preload: tuple[str, ...] = ()
    """Modules that are loaded once for all calls; they may start no threads."""

    def __post_init__(self) -> None:
        for path in (self.packages, self.python):
            if path and not path.startswith("/"):
                raise ValueError(f"{path!r} must be an absolute path")
