"""JSON Schema: one set of rules for all services."""

import time

import pytest

from svc_kit import json_schema
from svc_kit.json_schema import SchemaCache, SchemaUnusable, compile_schema
from svc_kit.strict_json import JsonValue


def test_text_and_value_compile_to_the_same_rules() -> None:
    for schema in (compile_schema('{"type": "integer"}'), compile_schema({"type": "integer"})):
        assert schema.is_valid(1)
        assert [violation.field for violation in schema.violations("1")] == [""]


def test_violations_beyond_the_limit_are_one_that_says_so() -> None:
    found = compile_schema({"items": {"type": "string"}}).violations(list(range(10)), limit=3)
    assert [violation.field for violation in found] == ["/0", "/1", "/2", ""]
    assert found[-1].message == "and more: only the first 3 are listed"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"items": {"type": "integer"}}, ["x"] * 60_000),
        ({"items": {"enum": [str(number) for number in range(1000)]}}, ["x"] * 60_000),
        (
            {"anyOf": [{"items": {"enum": [str(each) for each in range(1000)]}}, {"type": "object"}]},
            ["x"] * 60_000,
        ),
        ({"additionalProperties": {"type": "integer"}}, {f"k{number}": "x" for number in range(25_000)}),
        ({"required": [f"k{number}" for number in range(5000)]}, {"k": ["x" * 1000] * 250}),
    ],
)
def test_a_hostile_value_is_refused_at_once_without_every_place(schema: JsonValue, value: JsonValue) -> None:
    compiled = compile_schema(schema)
    # Processor time of this thread; listing every place took up to 27 s.
    began = time.thread_time()
    found = compiled.violations(value)
    assert time.thread_time() - began < 2.0
    assert [(violation.field, "too large" in violation.message) for violation in found] == [("", True)]


def test_a_long_text_in_a_small_value_does_not_keep_its_violations_from_being_listed() -> None:
    schema = compile_schema({"required": ["path"], "properties": {"text": {"type": "string"}}})
    assert [violation.field for violation in schema.violations({"text": "x" * 100_000})] == ["/path"]


@pytest.mark.parametrize(
    "schema", [{"type": "objekt"}, {"$ref": "http://127.0.0.1:9/x"}, {"pattern": r"(a)\1"}, "{", "[1]", 3]
)
def test_what_does_not_compile_is_said_on_one_line(schema: JsonValue) -> None:
    with pytest.raises(SchemaUnusable) as refused:
        compile_schema(schema)
    assert str(refused.value) and "\n" not in str(refused.value)


def test_a_schema_is_compiled_once_and_the_longest_unused_is_forgotten_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[object] = []
    real = json_schema.compile_schema

    def counting(schema: JsonValue) -> json_schema.Schema:
        compiled.append(schema)
        return real(schema)

    monkeypatch.setattr(json_schema, "compile_schema", counting)
    cache = SchemaCache(size=2)
    for text in ("{}", "true", "{}", "false", "{}", "true"):
        cache.get(f"sha256:{text}", text)
    assert compiled == ["{}", "true", "false", "true"]
    assert len(cache) == 2
