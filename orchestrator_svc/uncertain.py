"""A step whose outcome nobody knows, and what a person says became of it. Pure."""

import json
import uuid
from dataclasses import replace
from enum import StrEnum

from orchestrator_svc.lifecycle import TaskError
from orchestrator_svc.records import Answer, Step, StepStatus
from svc_kit.strict_json import canonical

# What the failure of a task is called whose person had it fail.
UNCERTAIN_STEP = "UNCERTAIN_STEP"
PREFIX = "uncertain-"

_MAX_MESSAGE = 2000


class Decision(StrEnum):
    """What a person may say; the contract's InputKind has the words."""

    HAPPENED = "HAPPENED"
    REPEAT = "REPEAT"
    FAIL = "FAIL"


def _form(decision: Decision, required: tuple[str, ...] = (), **more: object) -> dict[str, object]:
    return {
        "properties": {"decision": {"const": str(decision)}, **more},
        "required": ["decision", *required],
        "additionalProperties": False,
    }


SCHEMA_JSON = json.dumps(
    {
        "type": "object",
        "oneOf": [
            _form(Decision.HAPPENED, ("output",), output={}),
            _form(Decision.REPEAT),
            _form(Decision.FAIL, message={"type": "string", "maxLength": _MAX_MESSAGE}),
        ],
    }
)


def input_id(call_id: uuid.UUID) -> str:
    """Names the question about one call: a step that is done again is another call, and another question."""
    return f"{PREFIX}{call_id}"


def settle(step: Step | None, asked: str, answer: Answer, attempt: int) -> tuple[Step, Decision] | None:
    """The step as the answer to the question `asked` has it, or None when that is not open any more."""
    if (
        step is None
        or step.status is not StepStatus.STARTED
        or step.attempt != attempt
        or asked != input_id(step.call_id)
    ):
        return None
    said = json.loads(answer.json)
    decision = Decision(said["decision"])
    match decision:
        case Decision.HAPPENED:
            output = canonical(said["output"]).decode()
            return replace(step, status=StepStatus.COMPLETED, output_json=output), decision
        case Decision.REPEAT:
            # The gateway keeps the lost call under its id for good: this is a new one.
            return replace(step, call_id=uuid.uuid5(step.call_id, str(decision))), decision
        case Decision.FAIL:
            message = (
                said.get("message") or f"{answer.subject} had the task fail: nobody knows what became of it"
            )
            error = TaskError(error_class=UNCERTAIN_STEP, message=message, step_key=step.step_key)
            return replace(step, status=StepStatus.FAILED, error=error), decision
