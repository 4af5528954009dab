import base64
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svc_kit.errors import InvalidArgument
from svc_kit.filters import Condition, FieldType, FilterField, Operator, parse_filter
from svc_kit.paging import Question, decode_page_token, encode_page_token, page_size

QUESTION = Question(
    method="/interlock.x.v1.X/ListThings", tenant="default", filter='state = "A"', order_by=""
)
KINDS = (datetime, UUID, int, str)

FIELDS = {
    "state": FilterField(values=frozenset({"RUNNING", "FAILED"})),
    "agent": FilterField(),
    "create_time": FilterField(type=FieldType.TIME),
    "attempt": FilterField(type=FieldType.INTEGER),
    "score": FilterField(type=FieldType.NUMBER),
    "dead": FilterField(type=FieldType.BOOLEAN),
}


def bad_token(token: str, question: Question = QUESTION, kinds: Any = KINDS) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode_page_token(token, question, kinds)
    assert caught.value.reason_name == "PAGE_TOKEN_INVALID"
    assert [violation.field for violation in caught.value.violations] == ["page_token"]


def spell(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@given(
    st.tuples(
        st.datetimes(timezones=st.just(UTC)),
        st.uuids(),
        st.integers(-(2**63) + 1, 2**63 - 1),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=100),
    )
)
def test_the_keys_of_a_page_token_come_back_exactly(keys: tuple[Any, ...]) -> None:
    assert decode_page_token(encode_page_token(keys, QUESTION), QUESTION, KINDS) == keys


def test_no_token_means_the_first_page() -> None:
    assert decode_page_token("", QUESTION, KINDS) is None


@pytest.mark.parametrize("changed", ["method", "tenant", "filter", "order_by"])
def test_a_page_token_is_good_for_its_own_question_alone(changed: str) -> None:
    parts = {name: getattr(QUESTION, name) for name in ("method", "tenant", "filter", "order_by")}
    token = encode_page_token(["x"], QUESTION)
    bad_token(token, Question(**(parts | {changed: "other"})), (str,))


@given(st.text(max_size=60))
def test_any_other_text_is_a_bad_page_token(token: str) -> None:
    if token:
        bad_token(token)


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [1],
        ["x", "y"],
        [None],
        [["x"]],
        ["a\0b"],
    ],
)
def test_a_page_token_with_keys_of_another_shape_is_refused(keys: list[Any]) -> None:
    bad_token(spell([QUESTION.digest(), *keys]), kinds=(str,))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, True),
        (int, 2**63),
        (int, 1.5),
        (datetime, "2026-01-01"),
        (datetime, "later"),
        (UUID, "x"),
        (UUID, 7),
    ],
)
def test_a_forged_key_never_reaches_the_database(kind: Any, value: Any) -> None:
    bad_token(spell([QUESTION.digest(), value]), kinds=(kind,))


def test_a_huge_or_deep_page_token_is_refused() -> None:
    bad_token("A" * 10_000)
    bad_token(base64.urlsafe_b64encode(b"[" * 1500).decode())


def test_page_sizes_have_a_default_and_a_cap() -> None:
    assert [page_size(size) for size in (0, 1, 1000, 5000)] == [50, 1, 1000, 1000]
    with pytest.raises(InvalidArgument) as caught:
        page_size(-1)
    assert [violation.field for violation in caught.value.violations] == ["page_size"]


def test_a_filter_is_comparisons_joined_by_and() -> None:
    text = (
        'state="RUNNING" AND agent != "a \\"b\\" é" '
        'AND create_time > "2026-05-01T02:00:00+02:00" AND attempt>=2'
    )
    assert parse_filter(text, FIELDS) == (
        Condition("state", Operator.EQUAL, "RUNNING"),
        Condition("agent", Operator.NOT_EQUAL, 'a "b" é'),
        Condition("create_time", Operator.GREATER, datetime(2026, 5, 1, tzinfo=UTC)),
        Condition("attempt", Operator.GREATER_OR_EQUAL, 2),
    )


def test_values_may_be_bare_words() -> None:
    text = "state = FAILED AND dead = true AND score < -0.5 AND create_time <= 2026-05-01T00:00:00Z"
    assert [condition.value for condition in parse_filter(text, FIELDS)] == [
        "FAILED",
        True,
        -0.5,
        datetime(2026, 5, 1, tzinfo=UTC),
    ]


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_empty_filter_has_no_conditions(text: str) -> None:
    assert parse_filter(text, FIELDS) == ()


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ('color = "red"', "color", "unknown field color"),
        ('state = "SLEEPING"', "state", 'state is one of FAILED, RUNNING, not "SLEEPING"'),
        ('state > "RUNNING"', "state", "state is compared with = !=, not >"),
        ("dead = yes", "dead", "dead needs a boolean, not yes"),
        ("attempt = 1.5", "attempt", "attempt needs a integer, not 1.5"),
        ("attempt = 99999999999999999999", "attempt", "attempt needs a integer"),
        ("score = nan", "score", "score needs a number, not nan"),
        ("create_time > yesterday", "create_time", "create_time needs a time, not yesterday"),
        ('create_time > "2026-05-01T00:00:00"', "create_time", "create_time needs a time"),
        (r'agent = "\u0000"', "agent", "agent needs a text"),
        (r'agent = "\ud800"', "agent", "agent needs a text"),
        (r'agent = "\x"', "agent", "agent needs a text"),
        ("agent", "", "expected an operator at character 5, found the end"),
        ("agent =", "", "expected a value at character 7, found the end"),
        ('agent = "open', "", "expected a value at character 7, found '\"open'"),
        ('agent = "a" OR agent = "b"', "", "expected AND, found OR"),
        ('(agent = "a")', "", "expected a field at character 0, found"),
        ('agent = "a" AND', "", "expected a field at character 15, found the end"),
        ('agent = "' + "x" * 3000 + '"', "", "longer than 2048 characters"),
        (" AND ".join(["attempt = 1"] * 21), "", "more than 20 comparisons"),
    ],
)
def test_a_bad_filter_says_what_is_wrong_and_what_is_allowed(text: str, field: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_filter(text, FIELDS)
    error = caught.value
    assert error.reason_name == "FILTER_INVALID"
    assert error.metadata["field"] == field
    assert error.metadata["allowed"] == "agent, attempt, create_time, dead, score, state"
    assert [violation.field for violation in error.violations] == ["filter"]
    assert error.violations[0].message.startswith(message)


@given(st.text(max_size=80) | st.text(alphabet='agent state=!<>"\\AND1.-', max_size=80))
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    try:
        conditions = parse_filter(text, FIELDS)
    except InvalidArgument:
        return
    assert {condition.field for condition in conditions} <= FIELDS.keys()
