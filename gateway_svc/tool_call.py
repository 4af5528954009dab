"""What a tool call is: who asks for what, what became of it, and what it left behind."""

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from gateway_svc.cedar.decision import Submitter
from gateway_svc.verdicts import Verdict


class CallStatus(StrEnum):
    """What became of a call; the names are those of the contract."""

    RUNNING = "RUNNING"
    """Written ahead and started."""
    COMPLETED = "COMPLETED"
    """The tool answered. Never changes."""
    FAILED = "FAILED"
    """The tool raised, ran out of a limit or answered what its schema forbids. Never changes."""
    REFUSED = "REFUSED"
    """Nothing was executed; the same call may be asked for again."""
    UNKNOWN = "UNKNOWN"
    """It had started when its gateway, or its sandbox, was lost."""


class CallKind(StrEnum):
    """What is called; the names are those of the contract."""

    TOOL = "TOOL"
    MODEL = "MODEL"


class CallKey(NamedTuple):
    """By which a call is known."""

    tenant: str
    call_id: uuid.UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A call as its step permit describes it."""

    tenant: str
    call_id: uuid.UUID
    task_id: uuid.UUID
    step_key: str
    attempt: int
    agent: str
    agent_version: str
    agent_digest: str
    kind: CallKind = CallKind.TOOL
    tool: str
    """Name of the tool, or of the connection of a model call."""
    tool_version: str
    """Of a model call: the name of the model, empty before the checks have found it."""
    tool_digest: str
    """Empty for a model call."""
    argument_digest: str
    worker: str
    """Subject of the worker that may start it."""
    submitters: tuple[Submitter, ...]
    """Who submitted the task, then those of the tasks above it."""

    @property
    def key(self) -> CallKey:
        """By which the call is known."""
        return CallKey(self.tenant, self.call_id)

    @property
    def submitter(self) -> Submitter | None:
        """The person or service at the top, for which all agents of the chain work."""
        return next((each for each in self.submitters if not each.agent), None)

    @property
    def ancestors(self) -> tuple[Submitter, ...]:
        """The agents above this one, nearest first."""
        return tuple(each for each in self.submitters if each.agent)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedReceipt:
    """A receipt as it was signed."""

    key_id: str
    payload: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a model call used up."""

    input_tokens: int
    output_tokens: int
    cost_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """What a model call may use up, set aside from the quotas of its connection until it is known."""

    tokens: int
    cost_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a started call ended.

    Either `result_json`, or an error of the tool itself (`is_error`), or a `reason` of ours.
    """

    status: CallStatus
    end_time: datetime
    isolation: str
    reason: str = ""
    message: str = ""
    result_json: str = field(default="", repr=False)
    is_error: bool = False
    error_class: str = ""
    error_message: str = field(default="", repr=False)
    limit: str = ""
    """Which limit was used up."""
    usage: Usage | None = None
    receipt: SignedReceipt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call as stored."""

    asked: Asked
    status: CallStatus
    verdicts: tuple[Verdict, ...]
    policy_ids: tuple[str, ...] = ()
    """That decided; each as `id@version`."""
    shadow_policy_ids: tuple[str, ...] = ()
    """In shadow mode, that would have changed the decision."""
    approval_id: uuid.UUID | None = None
    """That it waits for, or was started with."""
    reason: str = ""
    message: str = ""
    reserve: Reserve | None = None
    owner: uuid.UUID | None = None
    """The gateway process that took it; None when it was refused."""
    audit_event: uuid.UUID
    """Id of the entry that tells of it: the write-ahead entry, or that of the refusal."""
    audit_index: int | None = None
    create_time: datetime
    outcome: Outcome | None = None
