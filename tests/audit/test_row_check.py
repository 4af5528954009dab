"""The short way over a row never passes what the long way would tell."""

import json
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_svc.event import NewEvent, Part
from audit_svc.leaf import build_leaf, commitments
from audit_svc.verification import COLUMNS, Promises, Row, agrees, promise_of, row_findings
from interlock.verify.merkle import leaf_hash
from tests.audit.events import new_event

ORIGIN = "example.org/default"
FULL = new_event(
    producer_sequence=7,
    agent_version="1.2.0",
    attempt=2,
    step_key="plan",
    tool="fetch",
    call_id="c-1",
    status="COMPLETED",
    reason="OK",
    trace_id="a" * 32,
    span_id="b" * 16,
    attributes={"model": 'qu"oted', "note": "naïve\n\u2028"},
    parts=(
        Part(name="input", content_type="application/json", body=b"{}"),
        Part(name="error", content_type='text/plain; of="all"', body=b""),
    ),
)
_COLUMN_OF_FIELD = {
    "id": "event_id",
    "pseq": "producer_sequence",
    "task": "task_id",
    "trace": "trace_id",
    "span": "span_id",
    "recorded_at": "recorded_time",
}
_ABSENT = {"pseq": 0, "producer_sequence": 0}


def stored(event: NewEvent) -> tuple[Row, Promises]:
    """The row of an event, and its contents, as the log has them."""
    salts = {part.name: bytes(32) for part in event.parts}
    leaf = build_leaf(
        event,
        origin=ORIGIN,
        recorded_at="2026-05-06T07:08:09.123456000Z",
        pseudonym="0" * 32,
        parts=commitments(event, salts),
    )
    contents = {p.name: promise_of(p.name, p.content_type, salts[p.name], p.body) for p in event.parts}
    return row_of(leaf), contents


def row_of(leaf: bytes) -> Row:
    """A row whose columns say what the leaf does; raises TypeError where none can say so."""
    fields = json.loads(leaf)
    said = {_COLUMN_OF_FIELD.get(name, name): value for name, value in fields.items()}
    for name in ("event_time", "recorded_time"):
        said[name] = said[name][:26]
    columns = tuple(said.get(name, _ABSENT.get(name, "")) for name in COLUMNS)
    for name, value in zip(COLUMNS, columns, strict=True):
        if type(value) is not (int if name == "producer_sequence" else str):
            raise TypeError(f"no column {name} holds {value!r}")
    return Row(0, leaf, leaf_hash(leaf), columns)


def found(row: Row, contents: Promises) -> list[str]:
    return [str(each.flaw) for each in row_findings(ORIGIN, row, contents, frozenset())]


@pytest.mark.parametrize(
    "event",
    [FULL, new_event(), new_event(parts=(), task_id=None, actor="", agent="")],
    ids=("full", "plain", "bare"),
)
def test_every_row_as_the_log_writes_it_goes_the_short_way(event: NewEvent) -> None:
    row, contents = stored(event)
    assert agrees(ORIGIN, row, contents)
    assert found(row, contents) == []


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("value", ["x", "", None, 0, 1])
def test_no_column_that_was_changed_alone_passes(column: str, value: object) -> None:
    row, contents = stored(FULL)
    place = COLUMNS.index(column)
    changed = row._replace(columns=(*row.columns[:place], value, *row.columns[place + 1 :]))
    assert not agrees(ORIGIN, changed, contents)
    assert found(changed, contents) == ["COLUMNS"]


@pytest.mark.parametrize("name", ["input", "error"])
def test_no_content_that_was_changed_passes(name: str) -> None:
    row, contents = stored(FULL)
    other = promise_of("other", "text/plain", bytes(32), b"")
    for changed in (
        {each: promise for each, promise in contents.items() if each != name},
        {**contents, "other": other},
        {**contents, name: other},
        {**contents, name: promise_of(name, "text/plain", bytes(31), b"{}")},
        {**contents, name: promise_of(name, str(contents[name]["ctype"]), bytes(31), b"{}")},
    ):
        assert not agrees(ORIGIN, row, changed)
        assert set(found(row, changed)) == {"PAYLOAD"}


@pytest.mark.parametrize(
    ("old", "new", "passes"),
    [
        (b'"v":1', b'"v":1 ', True),
        (b'"v":1', b'"v":1,"v":1', False),
        (b'"v":1', b'"v":2,"v":1', False),
        (b'"v":1', b'"v":1.0', True),
        (b'"v":1', b'"v":2', False),
        (b'"v":1', b'"v":1,"x":NaN', False),
        (b'"size":2', b'"size":2.0', False),
        (b'"size":2', b'"size":2,"size":2', False),
        (b'"name":"input"', b'"name":"error"', False),
        (b'"name":"input"', b'"name":["input"]', False),
        (b'"agent":"summariser"', b'"agent":"s\\u0075mmariser"', True),
        (b'"agent":"summariser"', b'"agent":"summariser","agent":"summariser"', False),
        (b'"alg":"hmac-sha256"', b'"alg":"none"', False),
        (b'"producer":"orchestrator"', b'"producer":""', False),
        (b'"log":"example.org/default"', b'"log":"example.org/other"', False),
        (b'{"actor"', b'[{"actor"', False),
    ],
)
def test_a_leaf_that_is_written_otherwise_is_told_as_ever(old: bytes, new: bytes, *, passes: bool) -> None:
    row, contents = stored(FULL)
    leaf = row.leaf.replace(old, new)
    assert leaf != row.leaf
    changed = row._replace(leaf=leaf, leaf_hash=leaf_hash(leaf))
    assert agrees(ORIGIN, changed, contents) <= passes
    assert (found(changed, contents) == []) is passes


_VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 8), st.floats(), st.text(max_size=3), st.just([]), st.just({})
)


@st.composite
def changed_leaves(draw: st.DrawFn) -> bytes:
    """A leaf of which anything may be wrong: members, parts, or bytes."""
    fields = json.loads(stored(FULL)[0].leaf)
    part = draw(st.sampled_from(fields["parts"]))
    for owner in (fields, part):
        for name in draw(st.lists(st.sampled_from(sorted(owner)), max_size=1)):
            owner[name] = draw(_VALUES)
    data = json.dumps(fields, separators=(",", ":"), ensure_ascii=draw(st.booleans())).encode(
        errors="surrogatepass"
    )
    place = draw(st.integers(0, len(data)))
    return data[:place] + draw(st.binary(max_size=1)) + data[place + draw(st.integers(0, 1)) :]


@settings(deadline=None, max_examples=150)
@given(leaf=changed_leaves(), follows=st.booleans())
def test_whatever_the_short_way_passes_the_long_way_passes_too(leaf: bytes, *, follows: bool) -> None:
    """With the columns as they were, and as they would be had they been changed with the leaf."""
    row, contents = stored(FULL)
    changed = row._replace(leaf=leaf, leaf_hash=leaf_hash(leaf))
    if follows:
        try:
            changed = row_of(leaf)
        except (ValueError, TypeError, LookupError, AttributeError):
            return
    if agrees(ORIGIN, changed, contents):
        assert found(changed, contents) == []


def test_a_task_that_is_named_but_empty_is_no_leaf() -> None:
    row, contents = stored(replace(FULL, task_id=None))
    leaf = row.leaf.replace(b'"tool"', b'"task":"","tool"')
    changed = row_of(leaf)
    assert not agrees(ORIGIN, changed, contents)
    assert found(changed, contents) == ["LEAF"]
    assert uuid.UUID(changed.event_id) == FULL.event_id
