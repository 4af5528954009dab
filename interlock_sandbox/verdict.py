"""Judging how a call ended, from what the sandbox sent or how its process died."""

import asyncio
import json
import os
import signal
from dataclasses import dataclass

from interlock_sandbox.frames import FrameKind
from interlock_sandbox.outcome import OutcomeKind, ToolFailure
from interlock_sandbox.result_json import BadResult, check_and_rewrite
from interlock_sandbox.spare import ExitReport

_PARSE_ASIDE_BYTES = 64 * 1024
"""Larger results are parsed on a thread, so that one does not hold up the event loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The part of an outcome that is judged; the rest is measured."""

    kind: OutcomeKind
    error: ToolFailure | None = None
    result_json: bytes | None = None


def failed(kind: OutcomeKind, message: str) -> Verdict:
    """A failure in our own words."""
    return Verdict(kind=kind, error=ToolFailure(type=kind.value, message=message))


async def of_frame(kind: FrameKind, payload: bytes) -> Verdict:
    """What a frame means; the tool may have forged it, which gains it nothing it could not return."""
    if kind is FrameKind.RESULT:
        return await _of_result(payload)
    error = _read_failure(payload)
    if error is not None:
        match kind:
            case FrameKind.TOOL_ERROR if error.type == "MemoryError":
                return Verdict(kind=OutcomeKind.MEMORY, error=error)
            case FrameKind.TOOL_ERROR:
                return Verdict(kind=OutcomeKind.TOOL_ERROR, error=error)
            case FrameKind.RESULT_TOO_LARGE:
                return Verdict(kind=OutcomeKind.OUTPUT_LIMIT, error=error)
            case FrameKind.BAD_RESULT:
                return Verdict(kind=OutcomeKind.BAD_RESULT, error=error)
    return failed(OutcomeKind.BAD_RESULT, "the channel was misused")


async def _of_result(payload: bytes) -> Verdict:
    try:
        if len(payload) > _PARSE_ASIDE_BYTES:
            result = await asyncio.to_thread(check_and_rewrite, payload)
        else:
            result = check_and_rewrite(payload)
    except BadResult as error:
        return failed(OutcomeKind.BAD_RESULT, str(error))
    return Verdict(kind=OutcomeKind.COMPLETED, result_json=result)


def _read_failure(payload: bytes) -> ToolFailure | None:
    try:
        fields = json.loads(check_and_rewrite(payload))
    except BadResult:
        return None
    if not isinstance(fields, dict) or set(fields) != {"type", "message", "traceback"}:
        return None
    if not all(isinstance(value, str) for value in fields.values()):
        return None
    return ToolFailure(
        type=fields["type"][:200], message=fields["message"][:4096], traceback=fields["traceback"][:16384]
    )


def of_death(report: ExitReport | None, *, cpu_seconds: float, cpu_limit: float) -> Verdict:
    """Why a process ended before it reported; `report` is None if the zygote died with it."""
    if report is None:
        return failed(OutcomeKind.CRASHED, "the zygote died")
    if os.WIFEXITED(report.status):
        code = os.WEXITSTATUS(report.status)
        return failed(OutcomeKind.CRASHED, f"the process exited with code {code} before it returned")
    number = os.WTERMSIG(report.status)
    if number in (signal.SIGKILL, signal.SIGXCPU) and cpu_seconds >= 0.9 * cpu_limit:
        return failed(OutcomeKind.CPU, f"{cpu_seconds:.3g} s of processor time were used")
    if number == signal.SIGKILL:
        return failed(OutcomeKind.KILLED, "the process was killed from outside")
    return failed(OutcomeKind.CRASHED, f"the process died of {signal.Signals(number).name}")
