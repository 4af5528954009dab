"""What callers of a group commit may rely on, whatever the batch around them does."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.common.v1.errors_pb2 import ErrorReason
from svc_kit.errors import AlreadyExists, DomainError, ResourceExhausted, Unavailable
from svc_kit.group_commit import GroupCommit, in_row_order


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A row: what its caller expects back is `number`; the flags say what goes wrong with it."""

    number: int
    tenant: str = "default"
    size: int = 1
    conflict: bool = False
    poison: bool = False


Outcome = int | DomainError


class Store:
    """A table in memory that behaves as a transaction does: all rows of a batch or none; numbers are keys."""

    def __init__(self) -> None:
        self.rows: set[int] = set()
        self.batches: list[list[Write]] = []
        self.away = 0  # attempts that fail with Unavailable before anything is stored
        self.lost_replies = 0  # attempts that store everything and then fail with Unavailable
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    async def commit(self, rows: Sequence[Write]) -> list[Outcome]:
        self.batches.append(list(rows))
        self.entered.set()
        await self.gate.wait()
        await asyncio.sleep(0)
        if self.away:
            self.away -= 1
            raise unavailable()
        if any(row.poison for row in rows):
            raise ValueError("poison")
        self.rows |= {row.number for row in rows if not row.conflict}
        if self.lost_replies:
            self.lost_replies -= 1
            raise unavailable()
        return [conflict(row) if row.conflict else row.number for row in rows]


def unavailable() -> Unavailable:
    return Unavailable(ErrorReason.ERROR_REASON_DATABASE_UNAVAILABLE, "away", retry_after=1.0)


def conflict(row: Write) -> AlreadyExists:
    return AlreadyExists(ErrorReason.ERROR_REASON_NAME_TAKEN, f"{row.number} is taken")


def group_of(
    commit: Callable[[Sequence[Write]], Awaitable[Sequence[Outcome]]],
    *,
    max_rows: int = 256,
    max_bytes: int = 1_000,
    max_queued_rows: int = 4096,
    max_queued_bytes: int = 1_000_000,
) -> GroupCommit[Write, int]:
    return GroupCommit(
        commit,
        size_of=lambda row: row.size,
        tenant_of=lambda row: row.tenant,
        max_rows=max_rows,
        max_bytes=max_bytes,
        max_queued_rows=max_queued_rows,
        max_queued_bytes=max_queued_bytes,
    )


async def submit_all(group: GroupCommit[Write, int], rows: Sequence[Write]) -> list[int | BaseException]:
    return await asyncio.gather(*(group.submit(row) for row in rows), return_exceptions=True)


async def blocked(store: Store, group: GroupCommit[Write, int]) -> "asyncio.Task[int]":
    """A first row that commits only when the gate opens, so that what follows gathers behind it."""
    store.gate.clear()
    first = asyncio.create_task(group.submit(Write(number=-1, tenant="first")))
    await store.entered.wait()
    return first


async def queued(group: GroupCommit[Write, int], rows: Sequence[Write]) -> "list[asyncio.Task[int]]":
    tasks = [asyncio.create_task(group.submit(row)) for row in rows]
    await asyncio.sleep(0)
    return tasks


async def test_a_row_of_an_idle_group_is_committed_within_the_next_turns_of_the_loop() -> None:
    store = Store()
    group = group_of(store.commit)
    task = asyncio.create_task(group.submit(Write(number=1)))
    for _ in range(2):  # one turn for the caller, one for the batch: no timer in between
        await asyncio.sleep(0)
    assert [len(batch) for batch in store.batches] == [1]
    assert await task == 1


async def test_rows_that_arrive_during_a_commit_share_the_next_one() -> None:
    store = Store()
    group = group_of(store.commit)
    first = await blocked(store, group)
    rest = await queued(group, [Write(number=n) for n in range(50)])
    assert group.queued == 50
    store.gate.set()
    assert await first == -1
    assert await asyncio.gather(*rest) == list(range(50))
    assert [len(batch) for batch in store.batches] == [1, 50]


async def test_batches_stay_under_the_caps_and_an_oversized_row_goes_alone() -> None:
    store = Store()
    group = group_of(store.commit, max_rows=4, max_bytes=10)
    rows = [Write(number=n, size=size) for n, size in enumerate([1, 1, 1, 1, 1, 6, 6, 25, 1])]
    assert await submit_all(group, rows) == list(range(9))
    assert [[row.number for row in batch] for batch in store.batches] == [[0, 1, 2, 3], [4, 5], [6], [7], [8]]


async def test_a_tenant_with_few_rows_does_not_wait_behind_a_tenant_with_many() -> None:
    store = Store()
    group = group_of(store.commit, max_rows=4)
    first = await blocked(store, group)
    flood = await queued(group, [Write(number=n, tenant="loud") for n in range(40)])
    quiet = await queued(group, [Write(number=100 + n, tenant="quiet") for n in range(3)])
    store.gate.set()
    await asyncio.gather(first, *flood, *quiet)
    shares = [[row.tenant for row in batch].count("quiet") for batch in store.batches[1:]]
    assert shares[:2] == [2, 1]
    order = [row.number for batch in store.batches for row in batch if row.tenant == "loud"]
    assert order == sorted(order)


async def test_an_expected_conflict_fails_its_own_caller_only() -> None:
    store = Store()
    group = group_of(store.commit)
    results = await submit_all(group, [Write(number=1), Write(number=2, conflict=True), Write(number=3)])
    assert results[0] == 1
    assert isinstance(results[1], AlreadyExists)
    assert results[2] == 3
    assert len(store.batches) == 1


async def test_a_batch_spoiled_by_one_row_is_split_until_only_that_row_fails() -> None:
    store = Store()
    group = group_of(store.commit)
    results = await submit_all(group, [Write(number=n, poison=n == 37) for n in range(256)])
    assert isinstance(results[37], ValueError)
    assert [result for result in results if not isinstance(result, BaseException)] == [
        n for n in range(256) if n != 37
    ]
    assert len(store.batches) <= 1 + 2 * 8


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.builds(
            Write,
            number=st.just(0),
            tenant=st.sampled_from("abc"),
            size=st.integers(0, 12),
            conflict=st.booleans(),
            poison=st.booleans(),
        ),
        max_size=40,
    ),
    max_rows=st.integers(1, 9),
    max_bytes=st.integers(1, 30),
)
async def test_every_caller_gets_its_own_answer_whatever_the_others_do(
    rows: list[Write], max_rows: int, max_bytes: int
) -> None:
    rows = [
        Write(number=n, tenant=row.tenant, size=row.size, conflict=row.conflict, poison=row.poison)
        for n, row in enumerate(rows)
    ]
    store = Store()
    group = group_of(store.commit, max_rows=max_rows, max_bytes=max_bytes)
    for row, result in zip(rows, await submit_all(group, rows), strict=True):
        if row.poison:
            assert isinstance(result, ValueError)
        elif row.conflict:
            assert isinstance(result, AlreadyExists)
            assert str(row.number) in str(result)
        else:
            assert result == row.number
    for batch in store.batches:
        assert len(batch) <= max_rows
        assert len(batch) == 1 or sum(row.size for row in batch) <= max_bytes
    assert store.rows == {row.number for row in rows if not row.poison and not row.conflict}
    assert group.queued == 0


async def test_a_commit_whose_reply_was_lost_is_run_again() -> None:
    store = Store()
    store.lost_replies = 1
    group = group_of(store.commit)
    assert await submit_all(group, [Write(number=1), Write(number=2)]) == [1, 2]
    assert [len(batch) for batch in store.batches] == [2, 2]


async def test_a_database_that_stays_away_is_told_to_every_caller_and_the_batch_is_not_split() -> None:
    store = Store()
    store.away = 2
    group = group_of(store.commit)
    results = await submit_all(group, [Write(number=n) for n in range(10)])
    assert all(isinstance(result, Unavailable) and result.retry_after == 1.0 for result in results)
    assert len(store.batches) == 2
    assert await group.submit(Write(number=11)) == 11


async def test_a_cancelled_caller_leaves_its_batch_whole() -> None:
    store = Store()
    group = group_of(store.commit)
    first = await blocked(store, group)
    kept, dropped, also_kept = await queued(group, [Write(number=n) for n in range(3)])
    first.cancel()  # already in a batch: committed all the same
    dropped.cancel()  # not in a batch yet: never written
    await asyncio.sleep(0)
    store.gate.set()
    assert (await kept, await also_kept) == (0, 2)
    assert first.cancelled()
    assert dropped.cancelled()
    assert store.rows == {-1, 0, 2}


async def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    store = Store()
    group = group_of(store.commit, max_queued_rows=3)
    first = await blocked(store, group)
    waiting = await queued(group, [Write(number=n) for n in range(3)])
    with pytest.raises(ResourceExhausted) as refused:
        await group.submit(Write(number=4))
    assert refused.value.retry_after == 1.0
    store.gate.set()
    assert await asyncio.gather(first, *waiting) == [-1, 0, 1, 2]


@pytest.mark.parametrize("bound", ["rows", "bytes"])
async def test_a_tenant_that_fills_the_queue_is_refused_and_the_others_are_not(bound: str) -> None:
    store = Store()
    group = group_of(store.commit, **{f"max_queued_{bound}": 10})
    first = await blocked(store, group)
    flood = await queued(group, [Write(number=n, tenant="loud") for n in range(10)])
    quiet = await queued(group, [Write(number=100 + n, tenant="quiet") for n in range(3)])
    store.gate.set()
    assert await asyncio.gather(first, *quiet) == [-1, 100, 101, 102]
    results = await asyncio.gather(*flood, return_exceptions=True)
    assert results[:7] == list(range(7))
    assert all(isinstance(result, ResourceExhausted) for result in results[7:])


async def test_close_answers_what_was_accepted_and_refuses_what_comes_after() -> None:
    store = Store()
    group = group_of(store.commit, max_rows=2)
    first = await blocked(store, group)
    waiting = await queued(group, [Write(number=n) for n in range(5)])
    closing = asyncio.create_task(group.close())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await group.submit(Write(number=9))
    store.gate.set()
    await closing
    assert [task.result() for task in (first, *waiting)] == [-1, 0, 1, 2, 3, 4]


async def test_a_commit_that_answers_for_fewer_rows_fails_all_of_them() -> None:
    async def forgetful(rows: Sequence[Write]) -> list[Outcome]:
        return [row.number for row in rows[1:]]

    results = await submit_all(group_of(forgetful), [Write(number=1), Write(number=2)])
    assert [type(result) for result in results] == [RuntimeError, RuntimeError]


async def test_a_cancellation_inside_the_commit_is_an_unknown_outcome_and_the_group_goes_on() -> None:
    store = Store()
    cancellations = 2

    async def cancelled_below(rows: Sequence[Write]) -> list[Outcome]:
        nonlocal cancellations
        if cancellations:
            cancellations -= 1
            raise asyncio.CancelledError
        return await store.commit(rows)

    group = group_of(cancelled_below)
    with pytest.raises(Unavailable):
        await group.submit(Write(number=1))
    assert await group.submit(Write(number=2)) == 2


async def test_every_commit_is_observed_with_its_rows() -> None:
    store = Store()
    seen: list[int] = []
    group: GroupCommit[Write, int] = GroupCommit(
        store.commit,
        size_of=lambda row: row.size,
        tenant_of=lambda row: row.tenant,
        observe=lambda rows, seconds: seen.append(rows) if seconds >= 0 else None,
    )
    await submit_all(group, [Write(number=1), Write(number=2), Write(number=3)])
    assert seen == [3]


def test_replies_of_a_shared_statement_are_put_in_row_order() -> None:
    assert in_row_order(["a", "b", "a"], [(3, "a", "z"), (1, "a", "x"), (2, "b", "y")]) == ["x", "y", "z"]


@pytest.mark.parametrize(
    "replies",
    [
        [(1, "a", "x")],
        [(1, "a", "x"), (1, "a", "x")],
        [(1, "b", "x"), (2, "b", "y")],
        [(1, "a", "x"), (3, "b", "y")],
    ],
    ids=["missing", "doubled", "of another tenant", "of no row"],
)
def test_a_reply_that_fits_no_row_is_never_handed_out(replies: list[tuple[int, str, str]]) -> None:
    with pytest.raises(RuntimeError):
        in_row_order(["a", "b"], replies)
