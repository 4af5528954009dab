"""What the service finds when it verifies its whole log."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from interlock.audit.v1 import audit_service_pb2 as messages
from interlock.cli.escaping import one_line
from interlock.cli.message_json import message_json
from interlock.client.client import Client

_TELL_EVERY = 100_000


@dataclass(slots=True, kw_only=True)
class LogReport:
    """The last message, and the findings of all."""

    last: messages.VerifyRangeResponse
    findings: list[messages.LogFinding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything was looked at, down to the signed root, and nothing was wrong."""
        return not self.findings and self.last.complete and self.last.root_checked


async def checked_log(suite: Client, *, progress: Callable[[str], None] | None) -> LogReport:
    """Verify all of the log; tells how far it is, now and then."""
    report = LogReport(last=messages.VerifyRangeResponse())
    told = 0
    async for message in suite.stream(suite.audit.VerifyRange, messages.VerifyRangeRequest()):
        report.last = message
        report.findings += message.findings
        if progress is not None and message.checked - told >= _TELL_EVERY:
            told = message.checked
            progress(f"{message.checked:,} of {message.total:,} entries")
    return report


def report_json(report: LogReport) -> dict[str, Any]:
    """For programs."""
    return {
        "ok": report.ok,
        "checked": report.last.checked,
        "root_checked": report.last.root_checked,
        "complete": report.last.complete,
        "checkpoint": message_json(report.last.checkpoint),
        "findings": [message_json(each) for each in report.findings],
    }


def report_lines(report: LogReport) -> Iterator[str]:
    """For people."""
    for each in report.findings:
        kind = messages.LogFlaw.Name(each.flaw).removeprefix("LOG_FLAW_")
        yield f"#{each.index}  {kind}  {one_line(each.message)}"
    against = "and they lead to the signed root" if report.last.root_checked else "the root was not reached"
    yield f"{report.last.checked:,} entries checked, {against}"
    if not report.last.complete:
        yield "So much is wrong that the rest was not looked at."
    yield "EVERYTHING HELD" if report.ok else "NOT WHAT WAS RECORDED"
