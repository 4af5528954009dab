"""Requests that are wrong whatever the state of the world: every violation is named at once."""

import json
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from interlock.common.v1 import permit_pb2
from interlock.orchestrator.v1 import orchestrator_service_pb2, task_pb2, worker_service_pb2
from orchestrator_svc import checks, field_checks, worker_checks
from svc_kit.errors import InvalidArgument
from tests.orchestrator.world import request

UUID = "01900000-0000-7000-8000-000000000001"


def violations(call: Any, *arguments: Any, **named: Any) -> dict[str, str]:
    """Field → message of everything that a check refuses."""
    with pytest.raises(InvalidArgument) as caught:
        call(*arguments, **named)
    return {violation.field: violation.message for violation in caught.value.violations}


def test_every_wrong_field_of_a_submission_is_named_at_once() -> None:
    found = violations(
        checks.submission,
        request(
            agent="Not An Agent",
            agent_version="1.0\0",
            task_type="a b",
            input_json="[1, 2",
            request_id="not-a-uuid",
            labels={"UPPER": "x", "long": "v" * 256, "nul": "\0"},
        ),
    )
    assert set(found) == {
        "agent",
        "agent_version",
        "task_type",
        "input_json",
        "request_id",
        "labels",
        "labels.long",
        "labels.nul",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "NaN"),
        ('{"a": 1, "a": 2}', "duplicate key"),
        ('{"a": "\\u0000"}', "NUL"),
        ('{"a": "\\ud800"}', "surrogate"),
        ('{"a": ' + "[" * 70 + "]" * 70 + "}", "nested deeper"),
        ('{"a": "' + "x" * 262_144 + '"}', "more than the 262144 allowed"),
        ("[1]", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ("", "not valid JSON"),
        ('{"a": 1e999}', "out of range"),
    ],
)
def test_input_that_is_not_strict_json_of_an_object_is_refused_with_what_and_where(
    text: str, said: str
) -> None:
    assert said in violations(checks.submission, request(input_json=text))["input_json"]


def test_a_submission_without_any_input_is_refused() -> None:
    missing = orchestrator_service_pb2.SubmitTaskRequest(agent="a")
    assert "required" in violations(checks.submission, missing)["input"]


def test_a_struct_and_the_same_json_text_are_one_submission() -> None:
    struct = Struct()
    struct.update({"rows": 3, "path": "a.csv"})
    by_struct = checks.submission(request(input=struct))
    by_text = checks.submission(request(input_json='{ "path": "a.csv", "rows": 3 }'))
    assert by_struct.input_json == by_text.input_json == '{"path":"a.csv","rows":3}'
    assert by_struct.digest() == by_text.digest()


def test_a_struct_with_nan_or_too_deep_is_refused() -> None:
    struct = Struct()
    struct.update({"rows": float("nan")})
    assert "not JSON" in violations(checks.submission, request(input=struct))["input"]


def test_33_labels_are_too_many() -> None:
    labels = {f"l{n}": "" for n in range(33)}
    assert "33 labels" in violations(checks.submission, request(labels=labels))["labels"]


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5),
        st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text('ab"\\é', max_size=5)),
        max_size=5,
    )
)
def test_exact_json_survives_as_it_is(value: dict[str, Any]) -> None:
    asked = checks.submission(request(input_json=json.dumps(value)))
    assert json.loads(asked.input_json) == value


@pytest.mark.parametrize("text", ["", "x", UUID + " ", "{" + UUID + "}", UUID.replace("-", "")])
def test_a_task_id_has_one_spelling(text: str) -> None:
    assert "task_id" in violations(field_checks.task_id, text)


def test_every_wrong_field_of_an_opened_session_is_named() -> None:
    opened = worker_service_pb2.OpenSession(
        session_id="x", slot="a b", incarnation=-1, pools=["no/slash"], capacity=0
    )
    found = violations(worker_checks.session, opened, subject="w")
    assert set(found) == {
        "open.session_id",
        "open.slot",
        "open.incarnation",
        "open.pools[0]",
        "open.capacity",
    }


def test_a_recorded_step_needs_a_beginning_or_an_end() -> None:
    assert "begin" in violations(worker_checks.record_step, worker_service_pb2.RecordStepRequest())


def test_a_completed_step_needs_its_receipt_and_strict_json() -> None:
    finish = worker_service_pb2.FinishStep(
        step_key="read me", status=task_pb2.STEP_STATUS_COMPLETED, output_json="{"
    )
    found = violations(worker_checks.record_step, worker_service_pb2.RecordStepRequest(finish=finish))
    assert set(found) == {"finish.step_key", "finish.receipt", "finish.output_json"}


def test_a_refused_step_needs_no_receipt_but_a_reason() -> None:
    finish = worker_service_pb2.FinishStep(step_key="read", status=task_pb2.STEP_STATUS_REFUSED)
    found = violations(worker_checks.record_step, worker_service_pb2.RecordStepRequest(finish=finish))
    assert set(found) == {"finish.error.error_class"}


def test_arguments_of_a_tool_are_an_object_and_become_canonical() -> None:
    begin = worker_service_pb2.BeginStep(
        step_key="read", kind=task_pb2.STEP_KIND_TOOL_CALL, name="read_csv", input_json="[1]"
    )
    assert (
        "object"
        in violations(worker_checks.record_step, worker_service_pb2.RecordStepRequest(begin=begin))[
            "begin.input_json"
        ]
    )
    begin.input_json = '{ "b": 1, "a": 2.50 }'
    _, asked, _ = worker_checks.record_step(worker_service_pb2.RecordStepRequest(begin=begin))
    assert asked is not None and asked.input_json == '{"a":2.5,"b":1}'


def test_a_failure_is_told_whatever_its_text() -> None:
    error = task_pb2.TaskError(error_class="E", message="\0" + "x" * 20_000)
    _, failed = worker_checks.failure(worker_service_pb2.FailTaskRequest(error=error))
    assert len(failed.error.message) == worker_checks.MAX_ERROR_MESSAGE and "\0" not in failed.error.message


def test_a_result_must_be_strict_json_of_at_most_256_kib() -> None:
    request = worker_service_pb2.CompleteTaskRequest(
        attempt_token=permit_pb2.Signed(), result_json='"' + "x" * 262_144 + '"'
    )
    assert "result_json" in violations(worker_checks.completion, request)
