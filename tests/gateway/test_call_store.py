"""Calls of many callers in one statement: each gets its own answer, and nothing is done or told twice."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from gateway_svc.call_store import CallStore
from gateway_svc.call_write_store import Beginning, Ending, Refusing, begin_calls, end_calls, refuse_calls
from gateway_svc.cedar.decision import Submitter
from gateway_svc.quota_store import begin_within_limits
from gateway_svc.quotas import Ceiling, Gate, ceilings
from gateway_svc.told_store import Told
from gateway_svc.tool_call import Asked, CallKind, CallStatus, Outcome, ToolCall
from gateway_svc.verdicts import Check, Verdict
from interlock_suite.databases import ServiceDatabase
from svc_kit.database import Database
from svc_kit.errors import DomainError
from svc_kit.ids import uuid7
from svc_kit.outbox import Message
from tests.suite_fixtures import PostgresServer

_numbers = itertools.count(1)
Row = TypeVar("Row")


@dataclass(kw_only=True)
class Stored:
    """A tenant of its own in the gateway's database."""

    tenant: str
    database: Database
    store: CallStore

    def call(self, status: CallStatus = CallStatus.RUNNING, *, of: ToolCall | None = None) -> ToolCall:
        """A call as the pipeline makes it; `of`: the same call, asked for anew."""
        asked = Asked(
            tenant=self.tenant,
            call_id=uuid.uuid4(),
            task_id=uuid.uuid4(),
            step_key="s1",
            attempt=1,
            agent="analyst",
            agent_version="1.0.0",
            agent_digest="sha256:a",
            tool="echo",
            tool_version="1.0.0",
            tool_digest="sha256:t",
            argument_digest="sha256:x",
            worker="worker-1",
            submitters=(Submitter(tenant=self.tenant, subject="ada", roles=("DEVELOPER",)),),
        )
        return ToolCall(
            asked=of.asked if of is not None else asked,
            status=status,
            verdicts=(Verdict(check=Check.ROLE, passed=True, explanation='It\'s fine; so "they" say.'),),
            policy_ids=("one", "system/two"),
            reason="" if status is CallStatus.RUNNING else "POLICY_DENIED",
            owner=uuid.uuid4() if status is CallStatus.RUNNING else None,
            audit_event=uuid7(),
            create_time=datetime.now(UTC),
        )

    def refusing(self, call: ToolCall) -> Refusing:
        return Refusing(call=call, told=replace(self.told(call.audit_event), part="arguments", body=b"{}"))

    def told(self, event_id: uuid.UUID) -> Told:
        return Told(message=Message(tenant=self.tenant, event_id=event_id, kind="tool_call", body={"a": 1}))

    def ending(self, call: ToolCall, status: CallStatus = CallStatus.COMPLETED) -> Ending:
        done = status is CallStatus.COMPLETED
        outcome = Outcome(
            status=status,
            end_time=datetime.now(UTC),
            isolation="FULL",
            result_json='{"a":"b"}' if done else "",
            reason="" if done else "OUTCOME_UNKNOWN",
        )
        return Ending(call=call, outcome=outcome, audit_index=7, told=self.told(uuid7()))

    async def run(
        self, statement: Callable[[Any, Sequence[Row]], Awaitable[Sequence[bool | None]]], *rows: Row
    ) -> Sequence[bool | None]:
        """One batch."""
        async with self.database.autocommit() as connection:
            return await statement(connection, rows)

    async def column(self, query: str) -> list[Any]:
        async with self.database.autocommit() as connection:
            return list((await connection.execute(sa.text(query), {"tenant": self.tenant})).scalars())

    async def events(self) -> list[Any]:
        """What waits for the audit log, in order."""
        return await self.column("SELECT event_id FROM outbox WHERE tenant = :tenant ORDER BY seq")

    async def status(self, call: ToolCall) -> CallStatus:
        found = await self.store.find(call.asked.key)
        assert found is not None
        return found.status


@pytest.fixture(scope="module")
def own_database(postgres_server: PostgresServer) -> ServiceDatabase:
    # What these tests put into the outbox is nothing that a gateway's relay could send.
    return postgres_server.migrated_database("gateway")


@pytest.fixture
async def stored(own_database: ServiceDatabase) -> AsyncIterator[Stored]:
    database = Database(own_database.service_url)
    store = CallStore(database)
    yield Stored(tenant=f"stored-{next(_numbers)}", database=database, store=store)
    await store.close()
    await database.close()


async def test_a_call_is_read_back_as_it_was_stored(stored: Stored) -> None:
    call, refused = stored.call(), stored.call(CallStatus.REFUSED)
    assert await stored.store.begin(call, repeatable=False)
    await stored.store.refuse(refused, stored.refusing(refused).told)
    began = await stored.store.find(call.asked.key)
    assert began is not None
    # When it began is what the database says: limits count by it.
    assert replace(began, create_time=call.create_time) == call
    assert began.create_time >= call.create_time
    found = await stored.store.find(refused.asked.key)
    assert found is not None
    assert found.outcome is not None
    assert replace(found, outcome=None) == refused


async def test_callers_at_the_same_time_share_commits_and_get_their_own_answers(stored: Stored) -> None:
    calls = [stored.call() for _ in range(40)]
    taken = calls[:10]
    for call in taken:
        assert await stored.store.begin(call, repeatable=False)
    again = [stored.call(of=call) for call in taken] + calls[10:]
    before = await stored.column("SELECT xmin::text FROM tool_call WHERE tenant = :tenant")
    begun = await asyncio.gather(*(stored.store.begin(call, repeatable=False) for call in again))
    assert begun == [False] * 10 + [True] * 30
    after = await stored.column("SELECT xmin::text FROM tool_call WHERE tenant = :tenant")
    assert len(set(after) - set(before)) <= 2, "the first may go alone, the others together"

    endings = [stored.ending(call) for call in calls]
    ended = await asyncio.gather(
        *(
            stored.store.finish(each.call, each.outcome, audit_index=each.audit_index, told=each.told)
            for each in endings
        )
    )
    assert all(ended)
    assert sorted(await stored.events()) == sorted(each.told.message.event_id for each in endings)


async def test_a_batch_that_runs_again_begins_ends_and_tells_nothing_twice(stored: Stored) -> None:
    calls = [stored.call(), stored.call()]
    beginnings = [Beginning(call=call, repeatable=False) for call in calls]
    for _ in range(2):
        assert await stored.run(begin_calls, *beginnings) == [True, True]
    endings = [stored.ending(calls[0]), stored.ending(calls[1], CallStatus.UNKNOWN)]
    for _ in range(2):
        assert await stored.run(end_calls, *endings) == [True, True]
    assert await stored.events() == [each.told.message.event_id for each in endings]


async def test_a_refusal_in_doubt_is_looked_for_and_never_told_again(stored: Stored) -> None:
    known, unknown = stored.refusing(stored.call(CallStatus.REFUSED)), stored.call(CallStatus.REFUSED)
    assert await stored.run(refuse_calls, known) == [True]
    known.in_doubt = True
    lost = replace(stored.refusing(unknown), in_doubt=True)
    fresh = stored.refusing(stored.call(CallStatus.REFUSED))
    assert await stored.run(refuse_calls, known, lost, fresh) == [True, False, True]
    assert await stored.store.find(unknown.asked.key) is None
    assert await stored.events() == [known.call.audit_event, fresh.call.audit_event]


async def test_a_refusal_leaves_a_standing_call_alone_and_is_told_all_the_same(stored: Stored) -> None:
    call = stored.call()
    assert await stored.store.begin(call, repeatable=False)
    refusals = [stored.refusing(stored.call(CallStatus.REFUSED, of=call)) for _ in range(2)]
    assert await stored.run(refuse_calls, *refusals) == [True, True]
    assert await stored.status(call) is CallStatus.RUNNING
    assert await stored.events() == [each.call.audit_event for each in refusals]


async def test_of_two_refusals_of_one_call_in_a_batch_the_later_stands_and_both_are_told(
    stored: Stored,
) -> None:
    first = stored.call(CallStatus.REFUSED)
    refusals = [stored.refusing(first), stored.refusing(stored.call(CallStatus.REFUSED, of=first))]
    assert await stored.run(refuse_calls, *refusals) == [True, True]
    found = await stored.store.find(first.asked.key)
    assert found is not None
    assert found.audit_event == refusals[1].call.audit_event
    assert await stored.events() == [each.call.audit_event for each in refusals]


async def test_of_two_beginnings_of_one_call_in_a_batch_one_wins(stored: Stored) -> None:
    first = stored.call()
    rows = [Beginning(call=each, repeatable=False) for each in (first, stored.call(of=first))]
    assert set(await stored.run(begin_calls, *rows)) == {False, True}


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_call_of_unknown_outcome_begins_again_only_when_it_may(
    stored: Stored, *, repeatable: bool
) -> None:
    call, other = stored.call(), stored.call()
    await stored.run(begin_calls, *(Beginning(call=each, repeatable=False) for each in (call, other)))
    await stored.run(end_calls, *(stored.ending(each, CallStatus.UNKNOWN) for each in (call, other)))
    again = [
        Beginning(call=stored.call(of=call), repeatable=repeatable),
        Beginning(call=stored.call(of=other), repeatable=False),
    ]
    assert await stored.run(begin_calls, *again) == [repeatable, False]
    assert await stored.status(other) is CallStatus.UNKNOWN


async def test_an_end_of_a_call_that_is_anothers_now_changes_and_tells_nothing(stored: Stored) -> None:
    call = stored.call()
    await stored.run(begin_calls, Beginning(call=call, repeatable=False))
    foreign = replace(call, owner=uuid.uuid4())
    assert await stored.run(end_calls, stored.ending(foreign)) == [False]
    assert await stored.status(call) is CallStatus.RUNNING
    assert await stored.run(end_calls, stored.ending(call)) == [True]
    assert await stored.run(end_calls, stored.ending(call)) == [False], "another end than the one that stands"
    assert len(await stored.events()) == 1


async def test_a_row_that_the_database_refuses_fails_alone(stored: Stored) -> None:
    good, bad = stored.call(), stored.call()
    bad = replace(bad, message="\0")
    begun = await asyncio.gather(
        *(stored.store.begin(call, repeatable=False) for call in (good, bad, stored.call())),
        return_exceptions=True,
    )
    assert [each is True for each in begun] == [True, False, True]
    assert isinstance(begun[1], Exception)


def limits(stored: Stored, **most: int) -> tuple[Ceiling, ...]:
    return ceilings(Gate(stored.tenant, CallKind.TOOL, "echo"), said_by="a test", **most)


async def begun(stored: Stored, *rows: Beginning) -> list[bool | str]:
    """One batch within limits; the reasons of those that have no room."""
    async with stored.database.transaction() as connection:
        answers = await begin_within_limits(connection, rows)
    return [each.reason_name if isinstance(each, DomainError) else each for each in answers]


@pytest.mark.parametrize("bound", ["max_running", "max_per_minute"])
async def test_a_limited_call_whose_commit_nobody_heard_of_does_not_stand_in_its_own_way(
    stored: Stored, bound: str
) -> None:
    row = Beginning(call=stored.call(), repeatable=False, ceilings=limits(stored, **{bound: 1}))
    assert await begun(stored, row) == [True]
    assert await begun(stored, row) == [True]
    assert await begun(stored, replace(row, call=stored.call())) == ["QUOTA_EXCEEDED"]


async def test_each_of_one_batch_is_counted_for_those_behind_it(stored: Stored) -> None:
    most = limits(stored, max_running=2, max_per_minute=3)
    calls = [stored.call() for _ in range(4)]
    rows = [Beginning(call=each, repeatable=False, ceilings=most) for each in calls]
    assert await begun(stored, *rows) == [True, True, "QUOTA_EXCEEDED", "QUOTA_EXCEEDED"]
    await stored.run(end_calls, *(stored.ending(each) for each in calls[:2]))
    again = [replace(row, call=stored.call()) for row in rows]
    assert await begun(stored, *again) == [True, "QUOTA_EXCEEDED", "QUOTA_EXCEEDED", "QUOTA_EXCEEDED"]


async def test_a_limit_holds_over_stores_that_begin_at_the_same_time(stored: Stored) -> None:
    other = CallStore(stored.database)
    most = limits(stored, max_running=5)
    tries = [
        store.begin(stored.call(), repeatable=False, ceilings=most)
        for store in (stored.store, other)
        for _ in range(20)
    ]
    ends = await asyncio.gather(*tries, return_exceptions=True)
    await other.close()
    assert ends.count(True) == 5
    assert {each.reason_name for each in ends if isinstance(each, DomainError)} == {"QUOTA_EXCEEDED"}


async def test_what_nothing_limits_begins_beside_what_something_does(stored: Stored) -> None:
    limited = [stored.call() for _ in range(3)]
    free = [stored.call() for _ in range(3)]
    ends = await asyncio.gather(
        *(stored.store.begin(c, repeatable=False, ceilings=limits(stored, max_running=1)) for c in limited),
        *(stored.store.begin(c, repeatable=False) for c in free),
        return_exceptions=True,
    )
    assert ends[3:] == [True] * 3
    # Those that nothing limits are of the same tool, and fill it.
    assert ends[:3].count(True) <= 1
