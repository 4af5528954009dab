"""Arguments and results against JSON Schema: every violation, by its place."""

import json
import time
from typing import Any

import pytest

from gateway_svc.errors import arguments_invalid
from gateway_svc.schemas import MAX_VIOLATIONS, SchemaCache, SchemaUnusable


def places(schema: dict[str, Any], value: Any) -> list[str]:
    return sorted(v.field for v in SchemaCache().violations("sha256:x", json.dumps(schema), "input", value))


def test_every_violation_is_listed_by_its_json_pointer() -> None:
    schema = {
        "type": "object",
        "required": ["path", "mode"],
        "additionalProperties": False,
        "properties": {
            "path": {"type": "string"},
            "mode": {"enum": ["r", "w"]},
            "a/b~c": {"type": "integer"},
            "rows": {"type": "array", "items": {"type": "object", "required": ["id"]}},
        },
    }
    value = {"mode": "x", "a/b~c": "1", "rows": [{"id": 1}, {}], "extra": 1, "more": 2}
    assert places(schema, value) == ["/a~1b~0c", "/extra", "/mode", "/more", "/path", "/rows/1/id"]


def test_a_value_that_fits_has_no_violations() -> None:
    assert places({"type": "object", "properties": {"n": {"type": "integer"}}}, {"n": 2**53 + 1}) == []


def test_an_empty_schema_takes_everything() -> None:
    assert SchemaCache().violations("sha256:x", "", "output", [1, None]) == []


def test_a_flood_of_violations_is_cut_and_says_so() -> None:
    found = SchemaCache().violations(
        "sha256:x", json.dumps({"items": {"type": "string"}}), "input", list(range(1000))
    )
    assert len(found) == MAX_VIOLATIONS + 1
    assert found[-1].message.startswith("and more")


def test_input_and_output_schema_of_one_tool_are_told_apart() -> None:
    cache = SchemaCache()
    assert cache.violations("sha256:x", '{"type": "object"}', "input", {}) == []
    assert cache.violations("sha256:x", '{"type": "array"}', "output", {}) != []


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "file:///etc/hostname"},
        {"pattern": r"(a)\1"},
        {"type": "objekt"},
    ],
)
def test_a_schema_that_reaches_out_or_cannot_run_in_linear_time_is_unusable(schema: dict[str, Any]) -> None:
    with pytest.raises(SchemaUnusable):
        places(schema, {})


def test_a_pattern_made_to_explode_does_not() -> None:
    # Processor time of this thread: an exponential one would take longer than anybody lives.
    began = time.thread_time()
    assert places({"properties": {"x": {"pattern": "^(a+)+$"}}}, {"x": "a" * 5000 + "!"}) == ["/x"]
    assert time.thread_time() - began < 5.0


def test_names_that_a_caller_chose_do_not_swell_the_message_that_is_kept_with_the_call() -> None:
    schema = json.dumps({"properties": {"a": {}}, "additionalProperties": False})
    found = SchemaCache().violations(
        "sha256:a", schema, "input", {f"{n}{'k' * 20_000}": 1 for n in range(12)}
    )
    error = arguments_invalid(found)
    assert "/0kkk" in error.message
    assert len(error.message) < 1000
    assert len(error.violations) == 12
