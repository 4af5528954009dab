"""What `interlock watch` prints of a task's words and of what its model calls have used up."""

import json

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from interlock.cli.escaping import json_line
from interlock.cli.events import event_line, task_text
from interlock.cli.message_json import message_json
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2

USAGE = task_pb2.TaskUsage(model_calls=2, input_tokens=310, output_tokens=42, cost_micros=352)


def word(message: str, done: float | None = None) -> task_pb2.Progress:
    return task_pb2.Progress(attempt=1, number=3, message=message, done=done, time=Timestamp(seconds=1))


def finished(kind: task_pb2.StepKind.ValueType) -> messages.WatchTaskResponse:
    step = task_pb2.Step(step_key="m", kind=kind, name="small", status=task_pb2.STEP_STATUS_COMPLETED)
    event = task_pb2.TaskEvent(
        type=task_pb2.EVENT_TYPE_STEP_FINISHED, step=step, usage=USAGE, time=Timestamp(seconds=1)
    )
    return messages.WatchTaskResponse(event=event)


def test_each_line_that_an_agent_says_stands_on_its_own_with_the_share_that_is_done() -> None:
    lines = event_line(messages.WatchTaskResponse(progress=word("read\nwrote", 0.4))).splitlines()
    assert [line.split()[1:] for line in lines] == [["says", "40%", "read"], ["says", "40%", "wrote"]]


def test_words_that_are_withheld_still_show_how_far_the_agent_is() -> None:
    line = event_line(messages.WatchTaskResponse(progress=word("", 1.0)))
    assert line.split()[1:] == ["says", "100%"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_nothing_that_an_agent_says_reaches_the_terminal_as_a_control_character(said: str) -> None:
    shown = event_line(messages.WatchTaskResponse(progress=word(said)))
    assert all(line.isprintable() for line in shown.split("\n"))
    task = task_pb2.Task(attempts=[task_pb2.Attempt(attempt=1, progress=word(said))])
    assert all(line.isprintable() for line in task_text(task).split("\n"))


def test_the_end_of_a_model_call_tells_the_sum_so_far_and_that_of_a_tool_call_does_not() -> None:
    total = "so far 2 model calls, 310 tokens in, 42 out, cost 0.000352"
    assert total in event_line(finished(task_pb2.STEP_KIND_MODEL_CALL))
    assert "so far" not in event_line(finished(task_pb2.STEP_KIND_TOOL_CALL))
    assert total.removeprefix("so far ") in task_text(task_pb2.Task(usage=USAGE))


def test_json_carries_the_words_and_the_sum() -> None:
    said = json.loads(json_line(message_json(messages.WatchTaskResponse(progress=word("\x1b[2J", 0.5)))))
    assert (said["progress"]["message"], said["progress"]["done"]) == ("\x1b[2J", 0.5)
    told = json.loads(json_line(message_json(finished(task_pb2.STEP_KIND_MODEL_CALL))))
    assert {name: int(value) for name, value in told["event"]["usage"].items()} == {
        "model_calls": 2,
        "input_tokens": 310,
        "output_tokens": 42,
        "cost_micros": 352,
    }
