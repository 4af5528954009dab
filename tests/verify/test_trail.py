"""A trail that was tampered with in any of the ways we know of does not verify, and the report says where."""

import json
from dataclasses import replace
from typing import Any

import pytest

from interlock.verify import (
    EntryError,
    PartBytes,
    Problem,
    Trail,
    TrailEntry,
    TrailReport,
    commit,
    open_checkpoint,
    parse_leaf,
    verify_trail,
)
from tests.verify.slow_log import LogKey, consistency, inclusion

LOG = LogKey("example.org/log")
TASK = "01900000-0000-7000-8000-000000000001"
SALT = bytes(range(32))
PROMPT = PartBytes(salt=SALT, body=b'{"ask":"why"}')


def leaf(number: int, *, task: str = TASK, **changes: Any) -> bytes:
    digest = commit(PROMPT.salt, PROMPT.body).hex()
    part = {
        "name": "input",
        "alg": "hmac-sha256",
        "digest": digest,
        "size": len(PROMPT.body),
        "ctype": "application/json",
    }
    fields = {
        "v": 1,
        "id": f"event-{number}",
        "log": "example.org/log",
        "producer": "orchestrator",
        "type": "PROMPT",
        "task": task,
        "parts": [part],
    }
    return json.dumps({**fields, **changes}, sort_keys=True, separators=(",", ":")).encode()


# The trail's entries stand among those of other tasks.
LEAVES = [leaf(i, task=TASK if i % 2 else "another") for i in range(11)]
INDEXES = [1, 3, 5, 7, 9]


def trail_of(leaves: list[bytes], indexes: list[int] = INDEXES) -> Trail:
    entries = [
        TrailEntry(index=i, leaf=leaves[i], proof=inclusion(i, leaves), parts={"input": PROMPT})
        for i in indexes
    ]
    return Trail(task_id=TASK, checkpoint=LOG.checkpoint(leaves), entries=tuple(entries))


def with_entry(trail: Trail, place: int, **changes: Any) -> Trail:
    entries = list(trail.entries)
    entries[place] = replace(entries[place], **changes)
    return replace(trail, entries=tuple(entries))


def problems(report: TrailReport) -> list[tuple[Problem, int | None]]:
    return [(finding.problem, finding.index) for finding in report.findings]


def test_an_untouched_trail_verifies_and_says_what_it_shows() -> None:
    report = verify_trail(trail_of(LEAVES), key=LOG.key)
    assert report.ok and report.first_bad_index is None
    assert (report.entries, report.entries_included, report.parts_matched, report.parts_withheld) == (
        5,
        5,
        5,
        0,
    )
    assert report.checkpoint is not None and report.checkpoint.size == 11
    assert any("5 entries stand" in line for line in report.proven)
    assert any("left out" in line for line in report.not_excluded)
    assert any("first look" in line for line in report.not_excluded)


def test_a_withheld_payload_is_counted_and_not_claimed() -> None:
    report = verify_trail(with_entry(trail_of(LEAVES), 2, parts={}), key=LOG.key)
    assert report.ok
    assert (report.parts_matched, report.parts_withheld) == (4, 1)
    assert any("1 payload parts" in line for line in report.not_excluded)


def test_a_changed_leaf_is_found_at_its_index() -> None:
    forged = LEAVES[5].replace(b"orchestrator", b"Orchestrator")
    report = verify_trail(with_entry(trail_of(LEAVES), 2, leaf=forged), key=LOG.key)
    assert problems(report) == [(Problem.INCLUSION, 5)]
    assert report.first_bad_index == 5 and report.entries_included == 4


def test_a_changed_payload_is_found_at_its_index() -> None:
    for part in (PartBytes(salt=SALT, body=b'{"ask":"how"}'), PartBytes(salt=SALT[::-1], body=PROMPT.body)):
        report = verify_trail(with_entry(trail_of(LEAVES), 3, parts={"input": part}), key=LOG.key)
        assert problems(report) == [(Problem.PAYLOAD, 7)]
        assert report.parts_matched == 4


def test_a_payload_that_no_leaf_promised_is_refused() -> None:
    report = verify_trail(with_entry(trail_of(LEAVES), 0, parts={"extra": PROMPT}), key=LOG.key)
    assert problems(report) == [(Problem.PAYLOAD, 1)]


def test_entries_in_another_order_are_refused() -> None:
    trail = trail_of(LEAVES)
    report = verify_trail(replace(trail, entries=trail.entries[::-1]), key=LOG.key)
    assert {problem for problem, _ in problems(report)} == {Problem.ORDER}


def test_an_entry_shown_twice_is_refused() -> None:
    trail = trail_of(LEAVES)
    report = verify_trail(replace(trail, entries=(*trail.entries, trail.entries[-1])), key=LOG.key)
    assert {problem for problem, _ in problems(report)} == {Problem.ORDER}


def test_one_event_at_two_places_is_refused() -> None:
    leaves = [*LEAVES[:9], LEAVES[1], LEAVES[10]]
    assert (Problem.ORDER, 9) in problems(verify_trail(trail_of(leaves), key=LOG.key))


def test_an_entry_of_another_task_or_log_is_refused() -> None:
    report = verify_trail(trail_of(LEAVES, [1, 2]), key=LOG.key)
    assert problems(report) == [(Problem.LEAF, 2)]
    leaves = [*LEAVES[:9], leaf(9, log="example.org/other"), LEAVES[10]]
    assert problems(verify_trail(trail_of(leaves), key=LOG.key)) == [(Problem.LEAF, 9)]


def test_a_checkpoint_of_another_key_proves_nothing() -> None:
    report = verify_trail(trail_of(LEAVES), key=LogKey("example.org/log", seed=2).key)
    assert problems(report) == [(Problem.SIGNATURE, None)]
    assert report.proven == () and report.entries_included == 0


def test_a_log_that_only_grew_is_consistent_with_the_pinned_one() -> None:
    pinned = open_checkpoint(LOG.checkpoint(LEAVES[:6]), key=LOG.key)
    report = verify_trail(trail_of(LEAVES), key=LOG.key, pinned=pinned, consistency=consistency(6, LEAVES))
    assert report.ok and report.consistent_from == 6
    assert any("all 6 entries of the pinned" in line for line in report.proven)


def test_a_rewritten_history_is_refused() -> None:
    rewritten = [leaf(100, task="another"), *LEAVES[1:]]
    pinned = open_checkpoint(LOG.checkpoint(LEAVES[:6]), key=LOG.key)
    report = verify_trail(
        trail_of(rewritten), key=LOG.key, pinned=pinned, consistency=consistency(6, rewritten)
    )
    assert problems(report) == [(Problem.HISTORY, None)]


def test_a_shrunken_log_is_refused() -> None:
    pinned = open_checkpoint(LOG.checkpoint(LEAVES), key=LOG.key)
    report = verify_trail(trail_of(LEAVES[:10]), key=LOG.key, pinned=pinned)
    assert problems(report) == [(Problem.HISTORY, None)]
    assert "shrank from 11 to 10" in report.findings[0].message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"v":2}',
        b'{"v":1,"v":1}',
        leaf(1, id=""),
        leaf(1, log=7),
        leaf(1, parts={}),
        leaf(1, parts=[1]),
        leaf(1, parts=[{"name": "a", "alg": "sha256", "digest": "00" * 32, "size": 1, "ctype": "a/b"}]),
        leaf(1, parts=[{"name": "a", "alg": "hmac-sha256", "digest": "0", "size": 1, "ctype": "a/b"}]),
        leaf(1, parts=[{"name": "a", "alg": "hmac-sha256", "digest": "00" * 32, "size": -1, "ctype": "a/b"}]),
        leaf(
            1, parts=[{"name": "a", "alg": "hmac-sha256", "digest": "00" * 32, "size": 1, "ctype": "a/b"}] * 2
        ),
        leaf(1).replace(b'"v":1', b'"v":NaN'),
        b"[" * 100_000,
    ],
)
def test_bytes_that_are_no_leaf_are_refused(data: bytes) -> None:
    with pytest.raises(EntryError):
        parse_leaf(data)
