"""What is known about the RPC that runs now: its ids, its trace and its deadline."""

import re
import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass

import grpc

from interlock.common.remote_error import REQUEST_ID_KEY
from svc_kit.ids import uuid7

TRACEPARENT_KEY = "traceparent"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}\Z")
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})\Z")

_current: ContextVar["Call | None"] = ContextVar("interlock_call", default=None)


@dataclass(slots=True, kw_only=True)
class Call:
    """One RPC being served. Mutable only in `code`, which the errors interceptor sets."""

    method: str  # "/interlock.orchestrator.v1.OrchestratorService/SubmitTask"
    request_id: str  # the caller's, if it sent a sensible one
    trace_id: str  # 32 hex digits of W3C trace context
    span_id: str  # 16 hex digits: this call
    parent_span_id: str = ""  # the caller's span; "" if this call began the trace
    trace_flags: str = "01"
    deadline: float | None = None  # on the event loop's clock
    code: grpc.StatusCode | None = None  # None: no failure so far

    @property
    def traceparent(self) -> str:
        """What calls made on behalf of this one send along."""
        return f"00-{self.trace_id}-{self.span_id}-{self.trace_flags}"


def current_call() -> Call | None:
    """The RPC that runs in this context; None in background work."""
    return _current.get()


def enter_call(call: Call) -> None:
    """Make `call` the current one for the rest of this task (each RPC is a task of its own)."""
    _current.set(call)


def call_from_metadata(method: str, metadata: Mapping[str, str], deadline: float | None) -> Call:
    """Ids sent by the caller are kept where they are well formed, and made where they are not."""
    request_id = metadata.get(REQUEST_ID_KEY, "")
    if not _REQUEST_ID.match(request_id):
        request_id = str(uuid7())
    parent = _TRACEPARENT.match(metadata.get(TRACEPARENT_KEY, ""))
    return Call(
        method=method,
        request_id=request_id,
        trace_id=parent[1] if parent else secrets.token_hex(16),
        span_id=secrets.token_hex(8),
        parent_span_id=parent[2] if parent else "",
        trace_flags=parent[3] if parent else "01",
        deadline=deadline,
    )
