"""What the demo claims, and whether it held."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Claims:
    """Collects what was checked; the demo succeeds only if all of it held."""

    held: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def check(self, claim: str, holds: bool, found: str = "") -> bool:  # noqa: FBT001 - as an assertion reads
        """Note a claim and whether it holds; `found` says what was there instead."""
        if holds:
            self.held.append(claim)
        else:
            self.broken.append(f"{claim}{f'; instead: {found}' if found else ''}")
        return holds
