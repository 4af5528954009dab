"""The permission model in five lines, as it spoke of one call."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Check(StrEnum):
    """One line of the permission model, in its order."""

    ROLE = "role"
    BINDING = "binding"
    ALLOW = "allow"
    APPROVAL = "approval"
    REACH = "reach"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one line said."""

    check: Check
    passed: bool
    explanation: str
    skipped: bool = False
    """An earlier check had refused already."""


class Verdicts:
    """Collects what each line says while a call goes through the checks."""

    def __init__(self) -> None:
        self._spoken: dict[Check, Verdict] = {}
        self.policy_ids: tuple[str, ...] = ()  # that decided
        self.shadow_policy_ids: tuple[str, ...] = ()  # that would have changed the decision
        self.approval_id: uuid.UUID | None = None  # that was asked for

    def passed(self, check: Check, explanation: str) -> None:
        """It lets the call pass."""
        self._spoken[check] = Verdict(check=check, passed=True, explanation=explanation)

    def failed(self, check: Check, explanation: str) -> None:
        """It refuses the call."""
        self._spoken[check] = Verdict(check=check, passed=False, explanation=explanation)

    def all(self) -> tuple[Verdict, ...]:
        """All five, in order; those never asked are skipped."""
        return tuple(self._fill())

    def _fill(self) -> Iterator[Verdict]:
        for check in Check:
            yield self._spoken.get(check) or Verdict(
                check=check, passed=False, skipped=True, explanation="Not asked: the call was refused before."
            )
