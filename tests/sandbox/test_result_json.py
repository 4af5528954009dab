import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock_sandbox.result_json import MAX_DEPTH, BadResult, check_and_rewrite

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**50), 10**50)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
)


@given(values)
def test_what_is_accepted_keeps_its_value(value: Any) -> None:
    assert json.loads(check_and_rewrite(json.dumps(value, indent=1).encode())) == value


@given(st.binary())
def test_any_bytes_are_either_refused_or_rewritten_to_what_is_accepted_again(data: bytes) -> None:
    try:
        rewritten = check_and_rewrite(data)
    except BadResult:
        return
    assert check_and_rewrite(rewritten) == rewritten


def test_what_is_passed_on_is_compact_utf8() -> None:
    assert check_and_rewrite(b' { "b" : [1.0, "\\u00fc\\ud83d\\ude00"] , "a":null}') == (
        '{"b":[1.0,"ü😀"],"a":null}'.encode()
    )


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b"1 2", "not JSON"),
        (b'"\xff"', "UTF-8"),
        (b"NaN", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"1e999", "out of range"),
        (b"-1e999", "out of range"),
        (b'{"a":1,"b":{"c":1,"c":1}}', "twice"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udfff":1}', "surrogate"),
        (b'"\\u0000"', "NUL"),
        (b'{"\\u0000":1}', "NUL"),
        (b'"\\\\\\u0000"', "NUL"),
        (b'"a\x00"', "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"[" * 100_000, "nested"),
        (b"[" * 65 + b"]" * 65, "nested"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested"),
    ],
)
def test_what_readers_disagree_on_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(BadResult, match=why):
        check_and_rewrite(data)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
        b'"\\\\u0000"',
        b"[" + b"[]," * 1000 + b"{}]",
        b'"[[[[' + b"[" * 100 + b'"',
    ],
)
def test_what_only_looks_wrong_is_accepted(data: bytes) -> None:
    assert json.loads(check_and_rewrite(data)) == json.loads(data)


def test_numbers_stay_exact() -> None:
    assert check_and_rewrite(b"[12345678901234567890123, 0.1, 1E2]") == b"[12345678901234567890123,0.1,100.0]"
    assert math.isfinite(json.loads(check_and_rewrite(b"1.7976931348623157e308")))
