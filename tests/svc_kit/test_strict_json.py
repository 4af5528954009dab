import json
import time

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from interlock.common.v1.errors_pb2 import ErrorReason
from svc_kit import strict_json
from svc_kit.errors import InvalidArgument
from svc_kit.strict_json import JsonValue, canonical, parse

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(strict_json.MIN_INTEGER, strict_json.MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5)
)


def messages(text: str | bytes, **options: int) -> list[str]:
    with pytest.raises(InvalidArgument) as caught:
        parse(text, field="input_json", **options)
    assert caught.value.reason == ErrorReason.ERROR_REASON_INVALID_FIELDS
    assert {violation.field for violation in caught.value.violations} == {"input_json"}
    return [violation.message for violation in caught.value.violations]


@given(values)
def test_what_is_written_canonically_parses_back_to_the_same_value(value: JsonValue) -> None:
    parsed = parse(canonical(value), field="x")
    assert parsed == value
    assert canonical(parsed) == canonical(value)


@given(values)
def test_canonical_bytes_do_not_depend_on_spacing_escapes_or_key_order(value: JsonValue) -> None:
    other_spelling = json.dumps(value, indent=3, ensure_ascii=True)
    assert canonical(parse(other_spelling, field="x")) == canonical(value)


@given(st.text(alphabet='[]{}"\\,:a1 ', max_size=200) | st.binary(max_size=100))
def test_any_text_is_parsed_or_refused_and_never_crashes(text: str | bytes) -> None:
    try:
        value = parse(text, field="x")
    except InvalidArgument:
        return
    assert value == json.loads(text)


def test_numbers_keep_their_kind_and_their_digits() -> None:
    assert (
        canonical(parse("[1, 1.0, 9007199254740993, -0, 1e2]", field="x"))
        == b"[1,1.0,9007199254740993,0,100.0]"
    )


def test_every_flaw_is_named_with_its_path() -> None:
    text = (
        '{"a": [1, NaN, {"k": 1, "k": 2}], "b c": -Infinity, "n": 1e999, "i": 123456789012345678901234567890}'
    )
    assert messages(text) == [
        "at $.a[1]: NaN is not JSON",
        'at $.a[2]: duplicate key "k"',
        'at $["b c"]: -Infinity is not JSON',
        "at $.n: number 1e999 is out of range",
        "at $.i: integer 123456789012345678901234567890 does not fit 64 bits; send it as a string",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (r'{"a": "x\u0000y"}', "at $.a: NUL character"),
        (r'{"x\u0000y": 1}', r'at $: key "x\u0000y" has a NUL character'),
        (r'["\ud800"]', "at $[0]: lone surrogate"),
        ('"\ud800"', "lone surrogate at character 1"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        ("1e-999", "at $: number 1e-999 is too close to zero to be kept"),
        (
            "9223372036854775808",
            "at $: integer 9223372036854775808 does not fit 64 bits; send it as a string",
        ),
        ('{"a": 1,}', "not valid JSON: "),
        ("", "not valid JSON: Expecting value at line 1, column 1"),
        ("1 2", "not valid JSON: Extra data at line 1, column 3"),
        ("\ufeff{}", "not valid JSON: "),
    ],
)
def test_bad_text_is_refused_and_the_message_says_where(text: str | bytes, message: str) -> None:
    (found,) = messages(text)
    assert found.startswith(message)


def test_a_pair_of_surrogate_escapes_is_one_character() -> None:
    assert parse(r'"\ud83d\ude82"', field="x") == "🚂"


def test_zero_may_be_written_with_any_exponent() -> None:
    assert parse("[0e-999, 0.000e19]", field="x") == [0.0, 0.0]


def test_depth_is_counted_outside_strings_only() -> None:
    assert parse("[" * 64 + "]" * 64, field="x")
    assert messages("[" * 65 + "]" * 65) == ["nested deeper than 64 at character 64"]
    assert messages('{"a":' * 100_000, max_bytes=10**7) == ["nested deeper than 64 at character 320"]
    brackets = json.dumps(["[{" * 500, 'quoted \\" [' * 50])
    assert parse(brackets, field="x") == json.loads(brackets)


def test_a_text_over_the_cap_is_refused_by_its_utf8_size() -> None:
    assert messages('"éé"', max_bytes=5) == ["6 bytes, more than the 5 allowed"]
    assert parse('"éé"', field="x", max_bytes=6) == "éé"


def test_at_most_twenty_violations_are_listed() -> None:
    assert len(messages("[" + ",".join(["NaN"] * 1000) + "]")) == 20


@pytest.mark.parametrize(
    "hostile", ['"\\' * 130_000, "[" * 65 + '\\"' * 130_000, '["' + '\\"' * 130_000, "1" * 262_144]
)
def test_hostile_text_is_refused_in_linear_time(hostile: str) -> None:
    started = time.process_time()
    messages(hostile, max_bytes=10**6)
    assert time.process_time() - started < 0.5


def test_digest_names_its_algorithm() -> None:
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert strict_json.digest(b"") == empty


@given(st.dictionaries(texts, values.filter(strict_json.fits_struct), max_size=4))
def test_a_struct_carries_every_value_whose_integers_stay_within_2_to_the_53(
    value: dict[str, JsonValue],
) -> None:
    assert strict_json.struct_to_json(strict_json.json_to_struct(value)) == value


@given(st.integers(2**53 + 1, strict_json.MAX_INTEGER))
def test_an_integer_beyond_2_to_the_53_is_rounded_like_a_double_and_known_not_to_fit(number: int) -> None:
    assert not strict_json.fits_struct({"n": [number]})
    assert strict_json.struct_to_json(strict_json.json_to_struct({"n": number})) == {"n": float(number)}


def test_whole_numbers_of_a_struct_come_back_as_integers() -> None:
    struct = strict_json.json_to_struct({"n": 2**53, "half": 0.5, "whole": 3.0})
    assert canonical(strict_json.struct_to_json(struct)) == b'{"half":0.5,"n":9007199254740992,"whole":3}'
    assert not strict_json.fits_struct([{"n": 2**53 + 1}])


def test_a_struct_is_checked_like_text() -> None:
    struct = Struct()
    struct.fields["nan"].number_value = float("nan")
    struct.fields["nul"].string_value = "a\0b"
    struct.fields["nothing"].SetInParent()
    with pytest.raises(InvalidArgument) as caught:
        strict_json.struct_to_json(struct, field="input")
    assert sorted(violation.message for violation in caught.value.violations) == [
        "at $.nan: nan is not JSON",
        "at $.nothing: a Value without a kind",
        "at $.nul: NUL character",
    ]
