"""Step 8: how much may be called at a time, in a minute and in a day, and who is let in. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from gateway_svc.errors import quota_exceeded
from gateway_svc.tool_call import CallKind, Reserve
from svc_kit.errors import DomainError


class Bound(StrEnum):
    """What is counted."""

    RUNNING = "max_running"
    """Calls at a time."""
    PER_MINUTE = "max_per_minute"
    """Calls that began in the last sixty seconds."""
    TOKENS_PER_DAY = "max_tokens_per_day"
    """Tokens of calls that began since midnight, UTC: used, or reserved."""
    COST_PER_DAY = "max_cost_micros_per_day"
    """What they cost, in millionths of a currency."""


class Gate(NamedTuple):
    """Where it is counted: at one tool or connection of a tenant, or at all its tools (an empty name)."""

    tenant: str
    kind: CallKind
    name: str

    def __str__(self) -> str:
        what = "tool" if self.kind is CallKind.TOOL else "connection"
        return f"{what} {self.name}" if self.name else f"the tools of tenant {self.tenant}"


class Counter(NamedTuple):
    """One count at one gate."""

    gate: Gate
    bound: Bound


class Count(NamedTuple):
    """How high it stands, and the seconds after which it may be lower."""

    used: int
    wait: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """How high a count may go."""

    counter: Counter
    most: int
    said_by: str
    """For people: whose limit it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One call that wants in."""

    ceilings: tuple[Ceiling, ...]
    reserve: Reserve | None


def ceilings(gate: Gate, *, said_by: str, **most: int) -> tuple[Ceiling, ...]:
    """Those that are set, by the names of their bounds; 0 sets none."""
    return tuple(
        Ceiling(counter=Counter(gate, Bound(name)), most=value, said_by=said_by)
        for name, value in most.items()
        if value
    )


def admit(wishes: Sequence[Wish], counts: Mapping[Counter, Count]) -> list[DomainError | None]:
    """For each in its turn: None when there is room under all its ceilings, which it takes; else why not."""
    used = {counter: count.used for counter, count in counts.items()}
    answers: list[DomainError | None] = []
    for wish in wishes:
        full = next(
            (each for each in wish.ceilings if used[each.counter] + _need(wish, each) > each.most), None
        )
        if full is None:
            for counter, need in {each.counter: _need(wish, each) for each in wish.ceilings}.items():
                used[counter] += need
            answers.append(None)
        else:
            answers.append(_refusal(full, counts[full.counter].wait))
    return answers


def _need(wish: Wish, ceiling: Ceiling) -> int:
    bound = ceiling.counter.bound
    if bound in (Bound.RUNNING, Bound.PER_MINUTE):
        return 1
    reserve = wish.reserve or Reserve(tokens=0, cost_micros=0)
    return reserve.tokens if bound is Bound.TOKENS_PER_DAY else reserve.cost_micros


def _refusal(full: Ceiling, wait: float) -> DomainError:
    gate, bound = full.counter
    return quota_exceeded(str(gate), bound, most=full.most, said_by=full.said_by, retry_after=wait)
