"""Tasks in the real store against a model, over crashes at any statement and a clock that the test moves."""

import asyncio
import itertools
import random
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orchestrator_svc import store
from orchestrator_svc.attempts import Attempts, AttemptWrite, Completion, End, Failure, Question, Release
from orchestrator_svc.claims import Claims
from orchestrator_svc.inputs import Inputs, Provision
from orchestrator_svc.journal import StepFinish
from orchestrator_svc.lifecycle import LEGAL, InputKind, TaskError, TaskState
from orchestrator_svc.reaper import Reaper
from orchestrator_svc.records import (
    AgentPin,
    AttemptRef,
    ClaimRequest,
    InputRequest,
    Isolation,
    NewTask,
    Runnable,
    Session,
    StepInput,
    StepKind,
    StepStatus,
    Submitter,
    Timeouts,
)
from orchestrator_svc.retry import RetryPolicy
from orchestrator_svc.rights import HeldAttempt
from orchestrator_svc.sessions import Sessions
from orchestrator_svc.tasks import Tasks
from svc_kit.errors import DomainError
from svc_kit.ids import uuid7
from tests.orchestrator import task_model
from tests.orchestrator.crashing import Crash, CrashingDatabase
from tests.orchestrator.task_model import TaskModel, lose_all
from tests.orchestrator.test_repeated_commits import Bound
from tests.suite_fixtures import PostgresServer

T = TypeVar("T")

SUBJECT = "worker-1"
POLICY = RetryPolicy(
    max_failures=task_model.MAX_FAILURES,
    initial=task_model.BACK_OFF,
    maximum=task_model.LONGEST_BACK_OFF,
    non_retryable=("Never",),
)
TASKS = st.integers(0, 3)
SLOTS = st.integers(0, 1)
_SHORT = 100
EDGES = {(str(source), str(target)) for (source, _), target in LEGAL.items()}
# What the database's clock moves by itself while an example runs is less than this.
ABOUT = 120.0


class Quiet:
    """Hears of commits and directives and does nothing."""

    def committed(self, **_: Any) -> None: ...
    def directed(self, session_id: uuid.UUID) -> None: ...
    def family(self) -> None: ...


class Ground:
    """A database for every example, each in a tenant of its own, and the loop of its connections."""

    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner()
        self.database = CrashingDatabase(url)
        stores = store.AttemptStore(self.database)
        reader = store.TaskStore(self.database)
        told = Quiet()
        self.submissions = store.SubmissionStore(self.database)
        self.sessions = Sessions(
            store=store.SessionStore(self.database), announcer=told, lease=task_model.LEASE
        )
        self.claims = Claims(store=store.ClaimStore(self.database), announcer=told)
        self.attempts = Attempts(store=stores, bindings=Bound(), announcer=told, chance=lambda: 0.5)
        self.tasks = Tasks(store=reader, locks=stores, announcer=told, grace=task_model.GRACE)
        self.inputs = Inputs(store=store.InputStore(self.database), tasks=reader, announcer=told)
        self.reaper = Reaper(
            sessions=self.sessions,
            store=store.UpkeepStore(self.database),
            announcer=told,
            share=1,
            chance=lambda: 0.5,
        )

    def close(self) -> None:
        """Close the pool and the loop."""
        self.runner.run(self.database.close())
        self.runner.close()

    def query(self, statement: str, **parameters: Any) -> list[Any]:
        """Rows of a statement that never crashes."""

        async def asked() -> list[Any]:
            async with self.database.autocommit() as connection:
                return list((await connection.execute(sa.text(statement), parameters)).all())

        return self.runner.run(asked())


class TaskMachine(RuleBasedStateMachine):
    """Up to four tasks and two workers."""

    ground: Ground

    @initialize(chance=st.randoms(use_true_random=False))
    def begin(self, chance: random.Random) -> None:
        self.chance = chance
        self.tenant = f"t{uuid.uuid4().hex}"
        self.subject = f"{SUBJECT}-{self.tenant}"
        self.models: list[TaskModel] = []
        # By slot: the open session, and the seconds that its lease has left.
        self.open: dict[int, tuple[uuid.UUID, float]] = {}
        self.incarnation = 0
        self.steps = 0
        self.submit(None, None)
        self.open_session(0)

    def do(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it; where it crashes in the middle, do it again, as whoever asked would."""
        self.ground.database.crash_at = self.chance.choice((0, 1, 2, 3, 4, 5, 6))
        while True:
            try:
                return self.ground.runner.run(_awaited(work))
            except Crash:
                pass
            finally:
                self.ground.database.crash_at = 0

    def refused(self, work: Callable[[], Awaitable[object]]) -> str:
        """The reason for which it is refused, or nothing."""
        try:
            self.do(work)
        except DomainError as error:
            return error.reason_name
        return ""

    def task(self, number: int) -> TaskModel:
        return self.models[number % len(self.models)]

    @precondition(lambda self: len(self.models) < 4)
    @rule(start=st.sampled_from([None, 1050.0]), end=st.sampled_from([None, 5050.0]))
    def submit(self, start: float | None, end: float | None) -> None:
        new = NewTask(
            task_id=uuid7(),
            tenant=self.tenant,
            agent=AgentPin(
                name="a",
                version="1",
                digest="d",
                isolation=Isolation.PLAN,
                retry=POLICY,
                start_to_close=task_model.START_TO_CLOSE,
            ),
            task_type="",
            input_json="{}",
            labels={},
            submitters=(Submitter(tenant=self.tenant, subject="ada", roles=()),),
            timeouts=Timeouts(schedule_to_start=start, schedule_to_close=end),
        )
        self.do(lambda: self.ground.submissions.store([new]))
        self.models.append(TaskModel(task_id=new.task_id, start_within=start, start_in=start, ends_in=end))

    @rule(slot=SLOTS, replace=st.sampled_from([False, False, False, True]))
    def start_worker(self, slot: int, *, replace: bool) -> None:
        if replace or slot not in self.open:
            self.open_session(slot)

    def open_session(self, slot: int) -> None:
        self.incarnation += 1
        session = Session(
            session_id=uuid.uuid4(),
            subject=self.subject,
            slot=str(slot),
            incarnation=self.incarnation,
            pools=("default",),
            capacity=9,
        )
        self.do(lambda: self.ground.sessions.open(session))
        if slot in self.open:
            self.end_session(self.open[slot][0])
        self.open[slot] = (session.session_id, task_model.LEASE)

    def end_session(self, session_id: uuid.UUID) -> None:
        lose_all([task for task in self.models if task.session == session_id])

    @precondition(lambda self: bool(self.open))
    @rule(slot=SLOTS)
    def beat(self, slot: int) -> None:
        if slot in self.open:
            session_id = self.open[slot][0]
            self.do(lambda: self.ground.sessions.renew(session_id, self.subject))
            self.open[slot] = (session_id, task_model.LEASE)

    @precondition(lambda self: bool(self.open) and bool(self.models))
    @rule(slot=SLOTS)
    def take(self, slot: int) -> None:
        if slot in self.open:
            self.claim(slot)

    def claim(self, slot: int) -> None:
        session_id = self.open[slot][0]
        request = ClaimRequest(
            claim_id=uuid.uuid4(),
            session_id=session_id,
            subject=self.subject,
            pool="default",
            tenants=frozenset({self.tenant}),
        )
        (claimed,) = self.do(lambda: self.ground.claims._commit([request]))
        held = any(task.session == session_id and task.suspect for task in self.models)
        able = [task for task in self.models if task.runnable and not (task.suspect and held)]
        if not isinstance(claimed, Runnable):
            assert claimed is None and not able
            return
        task = next(task for task in able if task.task_id == claimed.task.task_id)
        assert task.ahead or not any(each.ahead for each in able)
        task.claim(session_id)
        assert claimed.attempt == task.attempt

    @precondition(lambda self: bool(self.open) and bool(self.models))
    @rule(number=TASKS, how=st.sampled_from(["complete", "fail", "fail for good", "release", "ask", "step"]))
    def work(self, number: int, how: str) -> None:
        if not any(task.live for task in self.models):
            self.claim(next(iter(self.open)))
        live = [task for task in self.models if task.live]
        if live:
            self.act(live[number % len(live)], how)

    def act(self, task: TaskModel, how: str) -> None:
        match how:
            case "complete":
                self.end(task, Completion(result_json="{}"))
                task.complete()
            case "fail":
                self.end(task, Failure(error=TaskError(error_class="E", message="m", retryable=True)))
                task.fail()
            case "fail for good":
                self.end(task, Failure(error=TaskError(error_class="Never", message="m", retryable=True)))
                task.fail(retryable=False)
            case "release":
                self.end(task, Release())
                task.release()
            case "ask":
                asked = len(task.questions) - (1 if task.questions and not task.questions[-1] else 0)
                self.end(task, Question(request=question(asked)))
                task.ask()
            case _ if task.state == "RUNNING":
                self.take_step(task)

    def held(self, task: TaskModel, attempt: int) -> HeldAttempt:
        return HeldAttempt(
            ref=AttemptRef(tenant=self.tenant, task_id=task.task_id, attempt=attempt),
            session_id=task.session or uuid.uuid4(),
            subject=self.subject,
        )

    def end(self, task: TaskModel, end: End) -> None:
        write = AttemptWrite(held=self.held(task, task.attempt), end=end)
        (written,) = self.do(lambda: self.ground.attempts._commit([write]))
        assert not isinstance(written, DomainError), written

    def take_step(self, task: TaskModel) -> None:
        self.steps += 1
        key, held = f"s{self.steps}", self.held(task, task.attempt)
        begun = StepInput(
            step_key=key, kind=StepKind.TOOL_CALL, name="tool", input_json="{}", digest="sha256:1"
        )
        ended = StepFinish(step_key=key, status=StepStatus.COMPLETED, output_json="1")
        for write in (AttemptWrite(held=held, begin=begun), AttemptWrite(held=held, finish=ended)):
            (written,) = self.do(lambda each=write: self.ground.attempts._commit([each]))  # type: ignore[misc]
            assert not isinstance(written, DomainError), written
        task.revision += 2

    @precondition(lambda self: any(task.attempt for task in self.models))
    @rule(number=TASKS, older=st.booleans())
    def write_too_late(self, number: int, *, older: bool) -> None:
        tried = [task for task in self.models if task.attempt and not (task.live and not older)]
        if tried:
            task = tried[number % len(tried)]
            held = self.held(task, task.attempt - older)
            begun = StepInput(
                step_key="late", kind=StepKind.TOOL_CALL, name="tool", input_json="{}", digest="sha256:1"
            )
            (refused,) = self.do(lambda: self.ground.attempts._commit([AttemptWrite(held=held, begin=begun)]))
            assert isinstance(refused, DomainError) and refused.reason_name == "STALE_ATTEMPT"

    @precondition(lambda self: bool(self.models))
    @rule(number=TASKS, what=st.sampled_from(["cancel", "pause", "resume"]))
    def direct(self, number: int, what: str) -> None:
        task = self.task(number)
        refusing = {
            "cancel": ("COMPLETED", "FAILED"),
            "pause": (*task_model.ENDS, "CANCELING"),
            "resume": (*task_model.ENDS, "CANCELING", "INPUT_REQUIRED"),
        }
        method = getattr(self.ground.tasks, what)
        refused = self.refused(lambda: method(self.tenant, task.task_id, actor="ada"))
        assert refused == ("TASK_STATE" if task.state in refusing[what] else "")
        if not refused:
            getattr(task, what)()

    @precondition(lambda self: bool(self.models))
    @rule(number=TASKS)
    def answer(self, number: int) -> None:
        task = self.task(number)
        waits = task.state == "INPUT_REQUIRED"
        given = Provision(
            tenant=self.tenant,
            task_id=task.task_id,
            input_id=f"q{len(task.questions) - 1}" if waits else "",
            json="1",
            subject="ada",
            decides=False,
        )
        refused = self.refused(lambda: self.ground.inputs.provide(given))
        assert refused == ("" if waits else "TASK_STATE")
        if waits:
            task.answer()

    @rule(seconds=st.sampled_from([600.0, 600.0, 3000.0]))
    def pass_time(self, seconds: float) -> None:
        clocks = ", ".join(
            f"{name} = {name} - make_interval(secs => :seconds)"
            for name in ("run_after", "start_by", "expires", "close_by", "wind_up_by")
        )
        self.ground.query(
            f"UPDATE task SET {clocks} WHERE tenant = :tenant AND end_time IS NULL RETURNING 1",  # noqa: S608
            seconds=seconds,
            tenant=self.tenant,
        )
        self.ground.query(
            "UPDATE worker_session SET lease_until = lease_until - make_interval(secs => :seconds)"
            " WHERE subject = :subject RETURNING 1",
            seconds=seconds,
            subject=self.subject,
        )
        for task in self.models:
            task.pass_time(seconds)
        self.open = {slot: (name, left - seconds) for slot, (name, left) in self.open.items()}

    @rule()
    def reap(self) -> None:
        self.do(lambda: self.ground.sessions.end_expired(100))
        for slot, (session_id, left) in list(self.open.items()):
            if left <= 0:
                self.end_session(session_id)
                del self.open[slot]
        self.do(self.ground.reaper.end_overdue)
        for task in self.models:
            task.keep_time()

    @invariant()
    def the_store_is_what_the_model_says(self) -> None:
        rows = self.ground.query(_ROWS, tenant=getattr(self, "tenant", ""))
        for row, task in zip(rows, getattr(self, "models", ()), strict=True):
            assert _row_of(row) == _model_of(task)
            assert _near(row.ends_in, task.ends_in) and _near(row.start_in, task.start_in)
            assert _near(row.close_in, task.close_in) and _near(row.wind_up_in, task.wind_up_in)
            check_history(row)


def question(number: int) -> InputRequest:
    """The task's question of that number."""
    return InputRequest(
        input_id=f"q{number}", kind=InputKind.QUESTION, step_key="", prompt="?", schema_json=""
    )


def check_history(row: Any) -> None:
    """Events without gaps along legal moves, one end at the most, and as many attempts as were counted."""
    revisions, states = row.revisions, [state for state in row.states if state]
    assert revisions == list(range(1, row.revision + 1))
    moves = [(a, b) for a, b in itertools.pairwise(states) if a != b]
    assert set(moves) <= EDGES
    assert sum(state in task_model.ENDS for state in states) == (row.state in task_model.ENDS)
    assert states[-1] == row.state
    assert (row.attempts, row.open_attempts) == (row.attempt, row.session_id is not None)


def _row_of(row: Any) -> tuple[Any, ...]:
    counters = (row.attempt, row.failures, row.crashes, row.revision)
    return (row.task_id, row.state, *counters, row.suspect, row.pausing, row.dead_lettered, row.session_id)


def _model_of(task: TaskModel) -> tuple[Any, ...]:
    counters = (task.attempt, task.failures, task.crashes, task.revision)
    flags = (task.suspect, task.pausing, task.dead_lettered)
    return (task.task_id, task.state, *counters, *flags, task.session)


def _near(stored: float | None, expected: float | None) -> bool:
    return stored is expected is None or (
        stored is not None and expected is not None and abs(stored - expected) < ABOUT
    )


_ROWS = """
SELECT task.*, coalesce(left_seconds, extract(epoch FROM expires - clock_timestamp()))::float8 AS ends_in,
    extract(epoch FROM start_by - clock_timestamp())::float8 AS start_in,
    extract(epoch FROM close_by - clock_timestamp())::float8 AS close_in,
    extract(epoch FROM wind_up_by - clock_timestamp())::float8 AS wind_up_in,
    (SELECT array_agg(revision ORDER BY revision) FROM task_event AS e WHERE e.task_id = task.task_id)
        AS revisions,
    (SELECT array_agg(CASE WHEN type = 'STATE_CHANGED' THEN state END ORDER BY revision)
        FROM task_event AS e WHERE e.task_id = task.task_id) AS states,
    (SELECT count(*) FROM attempt AS a WHERE a.task_id = task.task_id) AS attempts,
    (SELECT count(*) > 0 FROM attempt AS a WHERE a.task_id = task.task_id AND end_time IS NULL)
        AS open_attempts
FROM task WHERE tenant = :tenant ORDER BY create_time, task_id
"""


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


@pytest.fixture
def ground(postgres_server: PostgresServer) -> Iterator[Ground]:
    made = postgres_server.migrated_database("orchestrator")
    # What the disk does is not what is tested here.
    with psycopg.connect(made.owner_url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET synchronous_commit = off")
    ground = Ground(made.service_url)
    yield ground
    ground.close()


def test_whatever_happens_in_whatever_order_the_store_is_what_the_contract_says(ground: Ground) -> None:
    class Machine(TaskMachine):
        pass

    Machine.ground = ground
    profile = settings()
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=profile.max_examples // 10,
            stateful_step_count=40,
            # The short form is the same in every run; the long one (--hypothesis-profile long) explores.
            derandomize=profile.max_examples <= _SHORT,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    [log] = ground.query("SELECT position, (SELECT count(*) FROM task_event) AS events FROM log_head")
    assert log.position == log.events and ground.database.crashes
    [seen] = ground.query("SELECT array_agg(DISTINCT state) AS states FROM task_event")
    assert set(seen.states) == set(TaskState)
