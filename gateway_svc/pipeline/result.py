"""Step 12: what came out of the sandbox, judged: bounded, strict JSON, and as the output schema says."""

from datetime import datetime

from gateway_svc.errors import TOOL_CANCELED
from gateway_svc.pipeline.pending import Tool
from gateway_svc.schemas import SchemaCache, SchemaUnusable
from gateway_svc.tool_call import CallStatus, Outcome
from interlock_sandbox import Outcome as SandboxOutcome
from interlock_sandbox import OutcomeKind
from svc_kit.errors import InvalidArgument
from svc_kit.strict_json import canonical, parse

MAX_ERROR_CHARACTERS = 4096
# As many as a step's error may have.
_MAX_CLASS_CHARACTERS = 128
# The receipt is over all of it, so all of it has to fit a status.
_MAX_MESSAGE_CHARACTERS = 1000

_LIMITS = {
    OutcomeKind.MEMORY: "memory",
    OutcomeKind.CPU: "cpu",
    OutcomeKind.OUTPUT_LIMIT: "output",
}
# The sandbox was ended from outside in the middle; what had happened until then is not known.
_LOST = frozenset({OutcomeKind.KILLED, OutcomeKind.CANCELED})


class ResultCheck:
    """Turns the end of a program into the outcome of a call."""

    def __init__(self, schemas: SchemaCache) -> None:
        self._schemas = schemas

    def judge(self, ended: SandboxOutcome, tool: Tool, *, now: datetime) -> Outcome:
        """The outcome, without its receipt."""
        base = Outcome(status=CallStatus.FAILED, end_time=now, isolation=ended.level.name)
        if ended.kind is OutcomeKind.COMPLETED and ended.result_json is not None:
            return self._completed(ended.result_json, tool, base)
        if ended.kind is OutcomeKind.TIMEOUT:
            seconds = f"{ended.usage.wall_ms / 1000:.3g}"
            return _failed(base, "TOOL_TIMEOUT", f"The tool was ended after {seconds} s.")
        if ended.kind in _LIMITS:
            limit = _LIMITS[ended.kind]
            return _failed(base, "LIMIT_EXCEEDED", f"The tool used up its {limit}.", limit=limit)
        if ended.kind is OutcomeKind.BAD_RESULT:
            return _failed(base, "OUTPUT_INVALID", "The tool's result is not acceptable JSON.")
        if ended.kind in _LOST:
            return lost(now=now, isolation=base.isolation)
        return _tool_error(ended, base)

    def accept(self, result: bytes, tool: Tool, *, now: datetime) -> Outcome:
        """The outcome of a tool without code that answered."""
        return self._completed(result, tool, Outcome(status=CallStatus.FAILED, end_time=now, isolation=""))

    def _completed(self, result: bytes, tool: Tool, base: Outcome) -> Outcome:
        try:
            value = parse(result, field="result", max_bytes=tool.result_bytes)
            found = self._schemas.violations(tool.digest, tool.output_schema_json, "output", value)
        except (InvalidArgument, SchemaUnusable):
            return _failed(base, "OUTPUT_INVALID", "The tool's result is not acceptable JSON.")
        if found:
            places = ", ".join(violation.field or "the whole" for violation in found[:10])
            message = f"The tool's result does not fit its output schema at {places}."
            return _failed(base, "OUTPUT_INVALID", message)
        return Outcome(
            status=CallStatus.COMPLETED,
            end_time=base.end_time,
            isolation=base.isolation,
            result_json=canonical(value).decode(),
        )


def lost(*, now: datetime, isolation: str = "") -> Outcome:
    """The outcome of a call of which nobody knows how it ended."""
    return Outcome(
        status=CallStatus.UNKNOWN,
        end_time=now,
        isolation=isolation,
        reason="OUTCOME_UNKNOWN",
        message="The call was lost in the middle; whether it had an effect is not known.",
    )


def canceled(*, now: datetime, isolation: str, why: str) -> Outcome:
    """The outcome of a call whose tool was ended before it was done."""
    base = Outcome(status=CallStatus.FAILED, end_time=now, isolation=isolation)
    return _failed(base, TOOL_CANCELED, f"The tool was ended before it was done: {why}.")


def timed_out(*, now: datetime, seconds: float) -> Outcome:
    """The outcome of a tool without code that did not answer in time, and had no effect."""
    base = Outcome(status=CallStatus.FAILED, end_time=now, isolation="")
    return _failed(base, "TOOL_TIMEOUT", f"The tool was ended after {seconds:.3g} s.")


def tool_error(error_class: str, message: str, *, now: datetime, isolation: str = "") -> Outcome:
    """An error of the tool's own: the call as such went well."""
    return Outcome(
        status=CallStatus.FAILED,
        end_time=now,
        isolation=isolation,
        reason="TOOL_ERROR",
        message="The tool itself failed.",
        is_error=True,
        error_class=error_class,
        error_message=_storable(message, MAX_ERROR_CHARACTERS),
    )


def _tool_error(ended: SandboxOutcome, base: Outcome) -> Outcome:
    error_class = _printable(ended.error.type if ended.error else "", _MAX_CLASS_CHARACTERS)
    return tool_error(
        error_class or ended.kind,
        ended.error.message if ended.error else "",
        now=base.end_time,
        isolation=base.isolation,
    )


def _failed(base: Outcome, reason: str, message: str, *, limit: str = "") -> Outcome:
    return Outcome(
        status=CallStatus.FAILED,
        end_time=base.end_time,
        isolation=base.isolation,
        reason=reason,
        message=message[:_MAX_MESSAGE_CHARACTERS],
        limit=limit,
    )


def _storable(text: str, characters: int) -> str:
    """Text from a tool: bounded, and without what databases and protobuf refuse."""
    return text[:characters].encode(errors="replace").decode().replace("\0", "\ufffd")


def _printable(text: str, characters: int) -> str:
    """A name from a tool: bounded, on one line, and without what terminals would obey."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text[:characters])
