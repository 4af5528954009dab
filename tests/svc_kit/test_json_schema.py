"""JSON Schema: one set of rules for all services."""

import time

import pytest

from svc_kit import json_schema
from svc_kit.json_schema import SchemaCache, SchemaUnusable, compile_schema
from svc_kit.schema_work import work_by_depth
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


def doubling(word: str, levels: int, **also: JsonValue) -> dict[str, JsonValue]:
    """Each level leads to the next one twice, and to the same value."""
    parts: dict[str, JsonValue] = {
        f"d{n}": {word: [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}], **also}
        for n in range(levels)
    }
    return {"$defs": {**parts, f"d{levels}": {"type": "object"}}, "$ref": "#/$defs/d0"}


def nested(depth: int) -> JsonValue:
    value: JsonValue = 1
    for _ in range(depth):
        value = {"a": value}
    return value


EVERY_BRANCH: dict[str, JsonValue] = {
    "anyOf": [
        {"properties": {"a": {"$ref": "#"}}, "required": ["x"]},
        {"properties": {"a": {"$ref": "#"}}, "required": ["y"]},
        {"type": "string"},
    ]
}
ANY_MEMBER: dict[str, JsonValue] = {
    "properties": {"a": {"$ref": "#"}},
    "patternProperties": {"^a": {"$ref": "#"}, "a$": {"$ref": "#"}},
}


@pytest.mark.parametrize(
    "schema",
    [
        *(doubling(word, 40) for word in ("allOf", "anyOf", "oneOf")),
        doubling("allOf", 14, unevaluatedProperties=False),
        {"allOf": [{"$ref": "#"}]},
        {"$dynamicAnchor": "me", "not": {"$dynamicRef": "#me"}},
        {"$ref": "https://json-schema.org/draft/2020-12/schema"},
    ],
)
def test_a_schema_that_would_hold_up_the_service_with_any_value_is_unusable(schema: JsonValue) -> None:
    with pytest.raises(SchemaUnusable):
        compile_schema(schema)


@pytest.mark.parametrize("schema", [EVERY_BRANCH, ANY_MEMBER])
def test_a_value_with_which_a_schema_would_hold_up_the_service_does_not_fit(
    schema: dict[str, JsonValue],
) -> None:
    compiled = compile_schema(schema)
    assert not compiled.is_valid(nested(60))
    assert "nested too deep" in compiled.violations(nested(60))[0].message
    assert compiled.is_valid("text")


def test_recursive_schemas_that_look_at_each_place_a_few_times_take_deep_and_large_values() -> None:
    anything: JsonValue = {
        "anyOf": [
            {"type": ["string", "number", "boolean", "null"]},
            {"type": "array", "items": {"$ref": "#"}},
            {"type": "object", "additionalProperties": {"$ref": "#"}},
        ]
    }
    compiled = compile_schema(anything)
    assert compiled.is_valid(nested(60))
    assert compiled.is_valid([1] * 100_000)
    tree: JsonValue = {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"left": {"$ref": "#/$defs/node"}, "right": {"$ref": "#/$defs/node"}},
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    }
    deep: JsonValue = {}
    for _ in range(60):
        deep = {"left": deep, "right": {}}
    assert compile_schema(tree).is_valid(deep)
    assert not compile_schema(tree).is_valid({"left": {"middle": {}}})


def test_how_often_schemas_are_applied_to_a_place_is_counted_by_its_depth() -> None:
    assert work_by_depth({}) == (1, 0, 0)
    assert work_by_depth({"properties": {"a": {"allOf": [{}, {}]}, "b": {}}})[:3] == (1, 3, 0)
    assert work_by_depth({"properties": {"a": {}}, "additionalProperties": {"items": {}}})[:3] == (1, 2, 1)
    assert work_by_depth({"allOf": [{"properties": {"a": {"$ref": "#"}}}] * 2})[:3] == (3, 8, 16)
    assert work_by_depth({"$defs": {"a/b": {"$anchor": "x"}}, "allOf": [{"$ref": "#x"}] * 3})[0] == 7
    assert work_by_depth({"prefixItems": [{}, {"not": {}}], "items": {}, "contains": {}})[1] == 4
