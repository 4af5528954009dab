"""What a task did, as its leaves tell it: attempts, calls within them, entries within those."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TypeAlias

from interlock.verify.entry import Leaf

_ROOT = "task"
_OF_MODELS = frozenset({"PROMPT", "MODEL_OUTPUT"})
_ENDS = frozenset({"TOOL_RESULT", "MODEL_OUTPUT"})
_BEGINS = frozenset({"TOOL_CALL", "PROMPT"})
_TERMINAL = frozenset({"COMPLETED", "FAILED", "CANCELED"})
_REFUSED = "REFUSED"
_LONG = 19
# A statement of a connection that a running tool has run: within its call, and no call of its own.
_STATEMENT = "QUERY"


class StepKind(StrEnum):
    """What a step of a trail is; the names are those of the contract."""

    TASK = "TASK"
    ATTEMPT = "ATTEMPT"
    TOOL_CALL = "TOOL_CALL"
    MODEL_CALL = "MODEL_CALL"
    CHILD_TASK = "CHILD_TASK"
    OTHER = "OTHER"


class ProofState(IntEnum):
    """How much of what is told holds; the worse, the higher. The names are those of the contract."""

    PROVEN = 1
    """The leaf is in the signed tree, and every content is the one that it committed to."""
    CONTENT_REMOVED = 2
    """Proven; a content is gone, and a proven entry says why."""
    BROKEN = 3
    """Something does not hold: the leaf, its place, a column, or a content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailEntry:
    """An entry of the trail, and how much of it holds."""

    index: int
    leaf: Leaf
    state: ProofState

    # What is stored may be anybody's work: nothing is taken for granted of its form.

    def text(self, name: str) -> str:
        """A field of the leaf that is a text; empty where it is none."""
        value = self.leaf.fields.get(name)
        return value if isinstance(value, str) else ""

    def attribute(self, name: str) -> str:
        """An attribute; empty where there is none."""
        attributes = self.leaf.fields.get("attributes")
        return str(attributes.get(name, "")) if isinstance(attributes, dict) else ""

    @property
    def attempt(self) -> int:
        """Which attempt it tells of; 0 for none."""
        value = self.leaf.fields.get("attempt")
        return value if isinstance(value, int) else 0

    @property
    def revision(self) -> int:
        """Which change of its task it tells of, from 1; 0 for none."""
        value = self.attribute("revision")
        return int(value) if value.isdecimal() and len(value) < _LONG else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step; times are as leaves have them, and `end_time` is empty while no entry tells of an end."""

    step_id: str
    parent_id: str
    kind: StepKind
    attempt: int
    step_key: str
    call_id: str
    tool: str
    status: str
    reason: str
    begin_time: str
    end_time: str
    state: ProofState
    """The worst of its own entries, and of the steps below."""
    entries: tuple[TrailEntry, ...]
    """Its own, in the order of the log."""


def steps_of(entries: Sequence[TrailEntry]) -> list[Step]:
    """The steps of one task, each behind its parent, side by side in the order of time; none of nothing.

    The log has entries in the order in which it was told, which is not quite that of time.
    """
    attempts = _attempts_of_calls(entries)
    own: dict[tuple[str, ...], list[TrailEntry]] = {}
    under: dict[tuple[str, ...], list[TrailEntry]] = {}
    for each in entries:
        path = _path(each, attempts)
        for length in range(1, len(path) + 1):
            own.setdefault(path[:length], [])
            under.setdefault(path[:length], []).append(each)
        own[path].append(each)
    begins = {path: min(each.text("event_time") for each in found) for path, found in under.items()}

    def place(path: tuple[str, ...]) -> list[tuple[str, str]]:
        return [(begins[path[:length]], path[length - 1]) for length in range(1, len(path) + 1)]

    return [_step(path, own[path], under[path]) for path in sorted(own, key=place)]


def _attempts_of_calls(entries: Iterable[TrailEntry]) -> Mapping[str, int]:
    """The first attempt that a call is told of in: approvals and refusals name none."""
    found: dict[str, int] = {}
    for each in entries:
        if each.attempt:
            found.setdefault(each.text("call"), each.attempt)
    return found


def _path(entry: TrailEntry, attempts: Mapping[str, int]) -> tuple[str, ...]:
    call_id, step_key = entry.text("call"), entry.text("step")
    attempt = attempts.get(call_id, entry.attempt) if call_id else entry.attempt
    path = [_ROOT]
    if attempt:
        path.append(f"attempt:{attempt}")
    if call_id:
        path.append(f"call:{call_id}")
    elif step_key:
        path.append(f"step:{attempt}:{step_key}")
    return tuple(path)


def _step(path: tuple[str, ...], own: Sequence[TrailEntry], under: Sequence[TrailEntry]) -> Step:
    kind = _kind(path[-1], own)
    in_time = sorted(under, key=lambda each: (each.text("event_time"), each.index))
    telling, status, over = _TOLD[kind](in_time)
    return Step(
        step_id=path[-1],
        parent_id=path[-2] if len(path) > 1 else "",
        kind=kind,
        attempt=max((each.attempt for each in in_time), default=0) if kind is not StepKind.TASK else 0,
        step_key=_first(own, "step"),
        call_id=_first(own, "call"),
        tool=next((name for each in own if (name := _acted_on(each))), ""),
        status=status,
        reason=telling.text("reason"),
        begin_time=in_time[0].text("event_time"),
        end_time=telling.text("event_time") if over else "",
        state=max(each.state for each in under),
        entries=tuple(sorted(own, key=lambda each: each.index)),
    )


def _kind(step_id: str, own: Sequence[TrailEntry]) -> StepKind:
    named = step_id.partition(":")[0]
    if named == "call":
        if any(each.attribute("child_task_id") for each in own):
            return StepKind.CHILD_TASK
        asks_model = any(each.leaf.type in _OF_MODELS for each in own)
        return StepKind.MODEL_CALL if asks_model else StepKind.TOOL_CALL
    return {"task": StepKind.TASK, "attempt": StepKind.ATTEMPT}.get(named, StepKind.OTHER)


_Told: TypeAlias = tuple[TrailEntry, str, bool]
"""The entry that says how a step stands, the word for that, and whether it is over."""


def _of_task(in_time: Sequence[TrailEntry]) -> _Told:
    changes = [each for each in in_time if each.leaf.type == "STATE_CHANGE" and each.revision]
    if not changes:
        return in_time[-1], "", False
    last = max(changes, key=lambda each: each.revision)
    return last, last.text("status"), last.text("status") in _TERMINAL


def _of_attempt(in_time: Sequence[TrailEntry]) -> _Told:
    ended = [each for each in in_time if each.attribute("outcome")]
    return (ended[-1], ended[-1].attribute("outcome"), True) if ended else (in_time[0], "RUNNING", False)


def _of_call(in_time: Sequence[TrailEntry]) -> _Told:
    """As its end says, or else its beginning, or else whatever was told last of it (an approval)."""
    for types in (_ENDS, _BEGINS):
        told = [each for each in in_time if each.leaf.type in types and each.text("status") != _STATEMENT]
        if told:
            status = told[-1].text("status")
            return told[-1], status, types is _ENDS or status == _REFUSED
    return in_time[-1], in_time[-1].text("status"), False


def _of_child(in_time: Sequence[TrailEntry]) -> _Told:
    ended = [each for each in in_time if each.attribute("child_state")]
    return (ended[-1], ended[-1].attribute("child_state"), True) if ended else (in_time[0], "RUNNING", False)


def _of_other(in_time: Sequence[TrailEntry]) -> _Told:
    return in_time[-1], in_time[-1].text("status"), True


_TOLD = {
    StepKind.TASK: _of_task,
    StepKind.ATTEMPT: _of_attempt,
    StepKind.TOOL_CALL: _of_call,
    StepKind.MODEL_CALL: _of_call,
    StepKind.CHILD_TASK: _of_child,
    StepKind.OTHER: _of_other,
}


def _acted_on(entry: TrailEntry) -> str:
    return entry.text("tool") or entry.attribute("connection") or entry.attribute("child_agent")


def _first(entries: Iterable[TrailEntry], name: str) -> str:
    return next((each.text(name) for each in entries if each.text(name)), "")
