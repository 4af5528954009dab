from interlock.cli.message_json import message_json
from interlock.gateway.v1 import tool_call_pb2
from interlock.orchestrator.v1 import orchestrator_service_pb2, task_pb2
from interlock.registry.v1 import agent_pb2


def test_json_texts_become_json_and_win_over_the_struct_beside_them() -> None:
    task = task_pb2.Task(input_json='{"n": 9007199254740993, "input_json": "{}"}', result_json="[1, 2]")
    task.input.update({"n": 9007199254740992})
    shown = message_json(task)
    assert shown["input"] == {"n": 9007199254740993, "input_json": "{}"}
    assert shown["result"] == [1, 2]
    assert "input_json" not in shown and "result_json" not in shown


def test_texts_that_are_empty_are_null() -> None:
    shown = message_json(task_pb2.Task())
    assert (shown["input"], shown["result"], shown["attempt"], shown["attempts"]) == (None, None, 0, [])


def test_labels_are_never_taken_for_fields_of_the_contract() -> None:
    shown = message_json(task_pb2.Task(labels={"input_json": "{", "result_json": "x"}))
    assert shown["labels"] == {"input_json": "{", "result_json": "x"}


def test_nested_messages_are_unfolded_too() -> None:
    update = orchestrator_service_pb2.WatchTaskResponse()
    update.event.step.output_json = '{"a": 1}'
    assert message_json(update)["event"]["step"]["output"] == {"a": 1}
    version = agent_pb2.AgentVersion(spec=agent_pb2.AgentSpec(input_schema_json='{"type": "object"}'))
    assert message_json(version)["spec"]["input_schema"] == {"type": "object"}
    assert message_json(tool_call_pb2.ToolCall(call_id="c"))["verdicts"] == []
