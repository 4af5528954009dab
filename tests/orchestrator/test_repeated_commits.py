"""A commit whose answer was lost is run again: nothing may be stored twice."""

import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from interlock_suite.databases import ServiceDatabase
from orchestrator_svc import store
from orchestrator_svc.agents import AgentUnknownError, BoundTool
from orchestrator_svc.attempts import Attempts, AttemptWrite, Completion, Written
from orchestrator_svc.claims import Claims
from orchestrator_svc.journal import StepFinish
from orchestrator_svc.lifecycle import TaskState
from orchestrator_svc.records import (
    AgentPin,
    AttemptRef,
    ClaimRequest,
    Isolation,
    NewTask,
    RequestKey,
    Runnable,
    Session,
    StepInput,
    StepKind,
    StepStatus,
    Stored,
    Submitter,
)
from orchestrator_svc.retry import RetryPolicy
from orchestrator_svc.rights import HeldAttempt
from svc_kit.database import Database
from svc_kit.errors import DomainError
from svc_kit.ids import uuid7

SUBJECT = "worker-1"


class Quiet:
    """Hears of commits and does nothing."""

    def committed(self, *, runnable: Mapping[str, int]) -> None:
        pass

    def directed(self, session_id: uuid.UUID) -> None:
        pass

    def family(self) -> None:
        pass


class Bound:
    """Binds every tool."""

    def bound(self, tenant: str, pin: AgentPin, kind: StepKind, name: str) -> BoundTool:
        if name == "unknown":
            raise AgentUnknownError
        return BoundTool(name=name, version="1", digest="d", seconds=1)

    async def fetch(self, tenant: str, pin: AgentPin) -> None:
        pass


def new_task(request_id: uuid.UUID | None = None, tenant: str = "default") -> NewTask:
    return NewTask(
        task_id=uuid7(),
        tenant=tenant,
        agent=AgentPin(
            name="a",
            version="1",
            digest="d",
            isolation=Isolation.PLAN,
            retry=RetryPolicy(),
            start_to_close=60,
        ),
        task_type="",
        input_json="{}",
        labels={},
        submitters=(Submitter(tenant=tenant, subject="ada", roles=()),),
        request=RequestKey(subject="ada", method="SubmitTask", request_id=request_id, digest="b")
        if request_id
        else None,
    )


@pytest.fixture
async def opened(database: ServiceDatabase) -> AsyncIterator[Database]:
    opened = Database(database.service_url)
    yield opened
    await opened.close()


async def counts(database: Database) -> dict[str, int]:
    """Rows by table, and the numbers that the head of the log has given out."""
    async with database.autocommit() as connection:
        tables = ("task", "attempt", "task_step", "task_event", "outbox", "idempotency", "claim")
        found = {}
        for table in tables:
            rows = await connection.execute(sa.text(f"SELECT count(*) FROM {table}"))  # noqa: S608 - named above
            found[table] = rows.scalar_one()
        head = (await connection.execute(sa.text("SELECT position, outbox_seq FROM log_head"))).one()
    assert (head.position, head.outbox_seq) == (found["task_event"], found["outbox"])
    return found


async def test_a_batch_of_new_tasks_that_is_run_again_stores_nothing_more(opened: Database) -> None:
    submissions = store.SubmissionStore(opened)
    rows = [new_task(), new_task(uuid.uuid4()), new_task(tenant="acme")]
    first = await submissions.store(rows)
    assert all(isinstance(stored, Stored) for stored in first)
    before = await counts(opened)
    assert await submissions.store(rows) == [None, None, None]
    recalled = await submissions.recall(rows)
    assert [task.task_id for task, _ in recalled] == [row.task_id for row in rows]
    times = [stored.create_time for stored in first if isinstance(stored, Stored)]
    assert [task.create_time for task, _ in recalled] == times
    assert await counts(opened) == before


async def test_claims_steps_and_ends_that_are_run_again_change_nothing(opened: Database) -> None:
    await store.SubmissionStore(opened).store([new_task() for _ in range(3)])
    session = Session(
        session_id=uuid.uuid4(), subject=SUBJECT, slot="s", incarnation=1, pools=("default",), capacity=9
    )
    sessions = store.SessionStore(opened)
    async with sessions.transaction() as connection:
        await sessions.open(connection, session, 60)
    claims = Claims(store=store.ClaimStore(opened), announcer=Quiet())
    asked = [
        ClaimRequest(
            claim_id=uuid.uuid4(),
            session_id=session.session_id,
            subject=SUBJECT,
            pool="default",
            tenants=frozenset({"default"}),
        )
        for _ in range(4)
    ]
    first = await claims._commit(asked)
    before = await counts(opened)
    again = await claims._commit(asked)
    assert [_place(each) for each in again] == [_place(each) for each in first]
    assert first[3] is None and await counts(opened) == before

    attempts = Attempts(store=store.AttemptStore(opened), bindings=Bound(), announcer=Quiet())
    writes = [
        write for claimed in first if isinstance(claimed, Runnable) for write in _writes(session, claimed)
    ]
    done = await attempts._commit(writes)
    assert all(isinstance(each, Written) for each in done)
    before = await counts(opened)
    assert before["task_step"] == 3 and before["task_event"] == 3 * 5
    # The first two writes of each attempt come too late now; the last one is known.
    repeated = await attempts._commit(writes)
    for index, answer in enumerate(repeated):
        if index % 3 == 2:
            assert isinstance(answer, Written) and answer.task.status.state is TaskState.COMPLETED
        else:
            assert isinstance(answer, DomainError) and answer.reason_name == "STALE_ATTEMPT"
    assert await counts(opened) == before


async def test_a_write_that_is_refused_leaves_no_part_of_itself_behind(opened: Database) -> None:
    await store.SubmissionStore(opened).store([new_task()])
    session = Session(
        session_id=uuid.uuid4(), subject=SUBJECT, slot="s", incarnation=1, pools=("default",), capacity=9
    )
    sessions = store.SessionStore(opened)
    async with sessions.transaction() as connection:
        await sessions.open(connection, session, 60)
    claims = Claims(store=store.ClaimStore(opened), announcer=Quiet())
    (claimed,) = await claims._commit(
        [
            ClaimRequest(
                claim_id=uuid.uuid4(),
                session_id=session.session_id,
                subject=SUBJECT,
                pool="default",
                tenants=frozenset({"default"}),
            )
        ]
    )
    assert isinstance(claimed, Runnable)
    attempts = Attempts(store=store.AttemptStore(opened), bindings=Bound(), announcer=Quiet())
    begin, finish, _ = _writes(session, claimed)
    await attempts._commit([begin])
    before = await counts(opened)
    assert begin.begin is not None
    other = StepInput(
        step_key="read", kind=StepKind.TOOL_CALL, name="read_csv", input_json="[]", digest="sha256:2"
    )
    mixed = AttemptWrite(held=begin.held, finish=finish.finish, begin=other)
    (answer,) = await attempts._commit([mixed])
    assert isinstance(answer, DomainError) and answer.reason_name == "NONDETERMINISM"
    assert await counts(opened) == before


def _place(claimed: Any) -> tuple[uuid.UUID, int] | None:
    return (claimed.task.task_id, claimed.attempt) if isinstance(claimed, Runnable) else None


def _writes(session: Session, claimed: Runnable) -> tuple[AttemptWrite, AttemptWrite, AttemptWrite]:
    """A step begun, the step finished, the task completed."""
    held = HeldAttempt(
        ref=AttemptRef(tenant=claimed.task.tenant, task_id=claimed.task.task_id, attempt=claimed.attempt),
        session_id=session.session_id,
        subject=SUBJECT,
    )
    begin = StepInput(
        step_key="read", kind=StepKind.TOOL_CALL, name="read_csv", input_json="{}", digest="sha256:1"
    )
    finish = StepFinish(step_key="read", status=StepStatus.COMPLETED, output_json="[1]")
    return (
        AttemptWrite(held=held, begin=begin),
        AttemptWrite(held=held, finish=finish),
        AttemptWrite(held=held, end=Completion(result_json="{}")),
    )
