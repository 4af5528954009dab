"""A call on its way through the checks, and what each step adds to it."""

import time
import uuid
from dataclasses import dataclass, field

from gateway_svc.connection import Connection
from gateway_svc.http_tool import HttpTool
from gateway_svc.quotas import Ceiling
from gateway_svc.tool_call import Asked, Reserve, ToolCall
from gateway_svc.verdicts import Verdicts
from interlock.common.v1.permit_pb2 import StepPermit
from svc_kit.strict_json import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """The tool version that the call's permit names, as far as running it goes. Times are seconds."""

    digest: str
    source: str = field(repr=False)
    entrypoint: str
    input_schema_json: str = field(repr=False)
    output_schema_json: str = field(repr=False)
    wall_seconds: float
    cpu_seconds: float
    memory_bytes: int
    result_bytes: int
    requires_approval: bool = False
    http: HttpTool | None = None
    """Of a tool without code: its request."""
    max_running: int = 0
    """Calls at a time, as its publisher says; 0 = any."""
    max_per_minute: int = 0
    connections: tuple[str, ...] = ()
    """That its code may ask for."""
    profile: str = ""
    """Runtime profile of its code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The model that the agent version names, behind a connection as it stood at the last check."""

    connection: Connection
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """Parsed once; the same bytes are checked, decided on, recorded and executed."""

    value: dict[str, JsonValue] = field(repr=False)
    canonical: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A call whose permit is genuine, and what the checks have said of it so far."""

    asked: Asked
    permit: StepPermit = field(repr=False)
    caller: str
    """Subject of whoever asks now."""
    arguments_json: str = field(repr=False)
    deadline: float
    """By the monotonic clock."""
    verdicts: Verdicts

    def seconds_left(self) -> float:
        """Until the caller's deadline; may be negative."""
        return self.deadline - time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """A call that every check lets pass."""

    pending: Pending
    called: Tool | Model
    arguments: Arguments
    policy_ids: tuple[str, ...]
    """That decided."""
    approval_id: uuid.UUID | None = None
    """That it starts with."""
    approval_role: str = ""
    """The least role that had to say yes; empty when nobody had to."""
    ceilings: tuple[Ceiling, ...] = ()
    """What its tool's publisher, or its connection, limits."""
    reserve: Reserve | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A call that the audit log holds: it may be executed now."""

    call: ToolCall
    audit_index: int
    cleared: Cleared
