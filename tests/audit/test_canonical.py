"""Leaf bytes against an RFC 8785 library that nobody here wrote."""

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_svc.canonical import MAX_INTEGER, MAX_LEAF_BYTES, LeafError, leaf_bytes

keys = st.text("".join(map(chr, range(128))), max_size=12)
values = st.recursive(
    st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=15,
)


@settings(deadline=None)  # a shared machine may pause anywhere
@given(st.dictionaries(keys, values, max_size=6))
def test_leaf_bytes_are_those_of_rfc_8785(fields: dict[str, Any]) -> None:
    data = leaf_bytes(fields)
    assert data == rfc8785.dumps(fields)
    assert json.loads(data) == fields


@pytest.mark.parametrize(
    "value",
    [1.0, float("nan"), None, 2**53, -(2**53), b"bytes", "\ud800", {"ä": 1}, {1: "a"}, (1,), {"a": [1.5]}],
)
def test_a_value_outside_the_domain_has_no_leaf_bytes(value: Any) -> None:
    with pytest.raises(LeafError):
        leaf_bytes({"field": value})


def test_a_leaf_beyond_its_limit_is_refused() -> None:
    room = MAX_LEAF_BYTES - len(leaf_bytes({"text": ""}))
    assert len(leaf_bytes({"text": "x" * room})) == MAX_LEAF_BYTES
    with pytest.raises(LeafError, match="limit"):
        leaf_bytes({"text": "x" * (room + 1)})
