"""Whether a policy fits the input schema of the tool that it names."""

import json
from typing import Any

import pytest

from gateway_svc.cedar.fit import flaws_of
from gateway_svc.cedar.text import parse_policy

SCHEMA = {
    "type": "object",
    "properties": {
        "rows": {"type": "integer"},
        "name": {"type": "string"},
        "ratio": {"type": "number"},
        "note": {"type": ["string", "null"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "place": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
        "free": {},
        "bag": {"type": "object"},
        "dotted.name-x": {"type": "boolean"},
    },
    "required": ["rows", "name", "ratio", "note", "tags", "place", "dotted.name-x"],
}


def flaws(condition: str, schema: Any = SCHEMA) -> list[tuple[str, bool]]:
    text = f'permit (principal, action, resource == Interlock::Tool::"t") when {{ {condition} }};'
    found = flaws_of(parse_policy("p", text), json.dumps(schema))
    return [(flaw.message, flaw.certain) for flaw in found]


@pytest.mark.parametrize(
    "condition",
    [
        "context.arguments.rows <= 100",
        'context.arguments.name like "x*" && context.arguments["dotted.name-x"]',
        'context.arguments.tags.contains("a")',
        'context.arguments.place.town == "A"',
        "context.arguments.ratio < 3",
        'context.arguments has note && context.arguments.note == "x"',
        "ip(context.arguments.name).isLoopback()",
        'context.submitter.subject == "ada" && context.attempt < 2',
        # What the schema leaves open may be anything.
        "context.arguments.free.what.ever == 1",
        "context.arguments.bag.x == 1",
        "context.arguments has free",
    ],
)
def test_a_policy_that_reads_what_there_is_as_what_it_is_fits(condition: str) -> None:
    assert flaws(condition) == []


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("context.arguments.row <= 100", ["no argument `row`", "`rows`"]),
        ("context.arguments has row && context.arguments.row <= 100", ["no argument `row`"]),
        ('context.arguments.place.city == "A"', ["`place` has no member `city`", "`town`"]),
        ("context.arguments.name <= 100", ["Long and String", "`name` is String"]),
        ('context.arguments.rows == "100"', ["Long", "`rows` is Long"]),
        ("context.arguments.tags.contains(1)", ["`tags` is Set of String"]),
    ],
)
def test_a_misspelt_name_or_a_wrong_type_is_told_with_what_there_is(condition: str, told: list[str]) -> None:
    found = flaws(condition)
    assert found
    assert all(certain for _, certain in found)
    assert all(any(each in message for message, _ in found) for each in told), found


def test_an_argument_that_may_be_left_out_is_to_be_asked_for_first() -> None:
    optional = {**SCHEMA, "required": []}
    assert flaws("context.arguments has rows && context.arguments.rows < 9", optional) == []
    ((message, certain),) = flaws("context.arguments.rows < 9", optional)
    assert "`rows` may be left out" in message
    assert not certain
    # A null counts as not sent.
    ((message, certain),) = flaws('context.arguments.note == "x"')
    assert "`note` may be left out" in message
    assert not certain


@pytest.mark.parametrize("schema", [{}, {"type": "object"}, {"anyOf": [{"properties": {"a": {}}}]}])
def test_a_schema_that_leaves_everything_open_judges_nothing(schema: Any) -> None:
    assert flaws("context.arguments.what.ever == 1", schema) == []
