"""What a submitter may set apart from the agent version: how failures are repeated, and the clocks. Pure."""

from dataclasses import dataclass, field, replace
from typing import Any

from google.protobuf.duration_pb2 import Duration

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.registry.v1 import agent_pb2
from orchestrator_svc.records import AgentPin, Timeouts
from svc_kit.errors import Violation
from svc_kit.strict_json import JsonValue

MIN_SECONDS = 0.001
MAX_FAILURES = 100
MAX_COEFFICIENT = 100.0
MAX_CLASSES = 64
MAX_CLASS = 128
MAX_INITIAL_SECONDS = 3600.0
MAX_WAIT_SECONDS = 24 * 3600.0
MAX_ATTEMPT_SECONDS = 24 * 3600.0
MAX_TASK_SECONDS = 366 * 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Only what was set; times in seconds."""

    retry: "dict[str, Any]" = field(default_factory=dict)  # fields of RetryPolicy
    start_to_close: float | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)

    def applied(self, pin: AgentPin) -> AgentPin:
        """The agent version as this task runs it."""
        policy = replace(pin.retry, **self.retry)
        return replace(pin, retry=policy, start_to_close=self.start_to_close or pin.start_to_close)

    def body(self) -> dict[str, JsonValue]:
        """Its part of what makes two requests the same; empty when nothing was set."""
        clocks = {
            "start_to_close": self.start_to_close,
            "schedule_to_start": self.timeouts.schedule_to_start,
            "schedule_to_close": self.timeouts.schedule_to_close,
        }
        body: dict[str, JsonValue] = {name: value for name, value in clocks.items() if value is not None}
        retry: dict[str, JsonValue] = {
            name: list(value) if isinstance(value, tuple) else value for name, value in self.retry.items()
        }
        return body | {"retry": retry} if retry else body


def overrides(request: messages.SubmitTaskRequest, found: list[Violation]) -> Overrides:
    """What a request sets; what is wrong with it joins `found`."""

    def clock(name: str, most: float) -> float | None:
        if not request.HasField(name):  # type: ignore[arg-type]
            return None
        return _seconds(getattr(request, name), name, most, found)

    return Overrides(
        retry=_retry(request.retry, found),
        start_to_close=clock("start_to_close_timeout", MAX_ATTEMPT_SECONDS),
        timeouts=Timeouts(
            schedule_to_start=clock("schedule_to_start_timeout", MAX_TASK_SECONDS),
            schedule_to_close=clock("schedule_to_close_timeout", MAX_TASK_SECONDS),
        ),
    )


def _retry(policy: agent_pb2.RetryPolicy, found: list[Violation]) -> dict[str, Any]:
    retry: dict[str, Any] = {}
    if not 0 <= policy.max_failures <= MAX_FAILURES:
        found.append(Violation("retry.max_failures", f"must be 1 to {MAX_FAILURES}, or 0 for the agent's"))
    elif policy.max_failures:
        retry["max_failures"] = policy.max_failures
    if policy.HasField("initial_interval"):
        retry["initial"] = _seconds(
            policy.initial_interval, "retry.initial_interval", MAX_INITIAL_SECONDS, found
        )
    if policy.HasField("maximum_interval"):
        retry["maximum"] = _seconds(
            policy.maximum_interval, "retry.maximum_interval", MAX_WAIT_SECONDS, found
        )
    # Not a number is no number in the range either.
    if policy.coefficient and not 1 <= policy.coefficient <= MAX_COEFFICIENT:
        found.append(
            Violation("retry.coefficient", f"must be 1 to {MAX_COEFFICIENT:g}, or 0 for the agent's")
        )
    elif policy.coefficient:
        retry["coefficient"] = policy.coefficient
    classes = policy.non_retryable_classes
    if len(classes) > MAX_CLASSES or any(not 1 <= len(each) <= MAX_CLASS or "\0" in each for each in classes):
        said = f"at most {MAX_CLASSES} classes of 1 to {MAX_CLASS} characters"
        found.append(Violation("retry.non_retryable_classes", said))
    elif classes:
        retry["non_retryable"] = tuple(classes)
    return retry


def _seconds(duration: Duration, field: str, most: float, found: list[Violation]) -> float:
    seconds = duration.seconds + duration.nanos / 1e9
    if not MIN_SECONDS <= seconds <= most:
        found.append(Violation(field, f"must be {MIN_SECONDS:g} s to {most:g} s"))
    return seconds
