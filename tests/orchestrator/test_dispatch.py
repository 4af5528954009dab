"""The rule by which a queue's waiting tasks are chosen, against what is promised of it."""

import uuid
from collections import Counter, defaultdict
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.dispatch import Candidate, choose

_KEYS = ("", "a", "b", "c")
_waiting = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(_KEYS), st.sampled_from(_KEYS)), max_size=30)


def in_order(waiting: list[tuple[int, str, str]], turns: list[str]) -> list[Candidate]:
    """Candidates as the store reads them: the place in `waiting` is the age."""
    made = [
        Candidate(
            task_id=uuid.UUID(int=age), priority=priority, fairness_key=fairness, concurrency_key=concurrency
        )
        for age, (priority, fairness, concurrency) in enumerate(waiting)
    ]
    return sorted(
        made,
        key=lambda each: (
            -each.priority,
            each.fairness_key <= turns[each.priority],
            each.fairness_key,
            each.task_id.int,
        ),
    )


@given(
    waiting=_waiting,
    turns=st.lists(st.sampled_from(_KEYS), min_size=10, max_size=10),
    running=st.dictionaries(st.sampled_from(_KEYS[1:]), st.integers(1, 3)),
    room=st.integers(0, 12),
    per_key=st.integers(1, 3),
)
def test_the_choice_keeps_every_limit_and_leaves_nothing_that_could_run(
    waiting: list[tuple[int, str, str]],
    turns: list[str],
    running: dict[str, int],
    room: int,
    per_key: int,
) -> None:
    candidates = in_order(waiting, turns)
    choice = choose(candidates, room=room, max_running_per_key=per_key, running=running, turns=turns)
    chosen = [candidate for candidate in candidates if candidate.task_id in choice.task_ids]
    assert len(choice.task_ids) == len(set(choice.task_ids)) <= room
    started = Counter(each.concurrency_key for each in chosen if each.concurrency_key)
    for key, count in started.items():
        assert count + running.get(key, 0) <= per_key
    left = [each for each in candidates if each.task_id not in choice.task_ids]
    can_run = [
        each
        for each in left
        if not each.concurrency_key
        or started[each.concurrency_key] + running.get(each.concurrency_key, 0) < per_key
    ]
    # Only a full room leaves waiting what could run, and nothing of a lower priority goes before it.
    assert not can_run or len(chosen) == room
    by_id = {each.task_id: each for each in candidates}
    priorities = [by_id[task_id].priority for task_id in choice.task_ids]
    assert priorities == sorted(priorities, reverse=True)
    if can_run and chosen:
        assert max(each.priority for each in can_run) <= min(priorities)


@given(
    waiting=st.lists(st.sampled_from(_KEYS), max_size=40),
    last=st.sampled_from(_KEYS),
    room=st.integers(1, 12),
)
def test_between_two_turns_of_a_key_every_other_that_waits_has_one_however_many_claims_it_takes(
    waiting: list[str], last: str, room: int
) -> None:
    left = [(0, key, "") for key in waiting]
    turns = [last] * 10
    order: list[str] = []
    while left:
        candidates = in_order(left, turns)
        choice = choose(candidates, room=room, max_running_per_key=1, running={}, turns=turns)
        order += [left[task_id.int][1] for task_id in choice.task_ids]
        taken = {task_id.int for task_id in choice.task_ids}
        left = [each for age, each in enumerate(left) if age not in taken]
        turns = list(choice.turns)
    assert Counter(order) == Counter(waiting)
    places = defaultdict(list)
    for place, key in enumerate(order):
        places[key].append(place)
    for key, mine in places.items():
        for before, after in pairwise(mine):
            served = set(order[before + 1 : after])
            still_waiting = {other for other in places if other != key and places[other][-1] > after}
            assert still_waiting <= served
