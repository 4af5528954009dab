"""Semantic versions: parsing and precedence (semver.org 2.0.0, build metadata left out)."""

import re
from dataclasses import dataclass
from functools import total_ordering

_NUMBER = r"(?:0|[1-9]\d{0,8})"
_IDENTIFIER = r"(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
_VERSION = re.compile(
    rf"(?P<major>{_NUMBER})\.(?P<minor>{_NUMBER})\.(?P<patch>{_NUMBER})"
    rf"(?:-(?P<pre>{_IDENTIFIER}(?:\.{_IDENTIFIER})*))?"
)
MAX_LENGTH = 64


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """One parsed version, ordered by precedence."""

    major: int
    minor: int
    patch: int
    pre: tuple[str, ...] = ()  # empty for a release, which ranks above its own pre-releases

    def __lt__(self, other: "Version") -> bool:
        return self._key() < other._key()

    def __str__(self) -> str:
        core = f"{self.major}.{self.minor}.{self.patch}"
        return f"{core}-{'.'.join(self.pre)}" if self.pre else core

    def _key(self) -> tuple[int, int, int, bool, tuple[tuple[int, int, str], ...]]:
        # Numeric identifiers rank below words and compare as numbers; words compare as text.
        identifiers = tuple((0, int(i), "") if i.isdigit() else (1, 0, i) for i in self.pre)
        return (self.major, self.minor, self.patch, not self.pre, identifiers)


def parse(text: str) -> Version | None:
    """The version that `text` spells, or None when it spells none."""
    if len(text) > MAX_LENGTH or (match := _VERSION.fullmatch(text)) is None:
        return None
    pre = tuple(match["pre"].split(".")) if match["pre"] else ()
    return Version(int(match["major"]), int(match["minor"]), int(match["patch"]), pre)
