"""Erasures: carried out to their end whatever holds them up, and never half of one told as a whole."""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
import pytest

from audit_svc import erasures
from audit_svc.erasure import Erasure, ErasureState, Selector
from audit_svc.erasure_store import ErasureStore
from audit_svc.erasures import ErasureRunner, Erasures
from audit_svc.holds import Holds
from audit_svc.holds import Selector as HoldSelector
from audit_svc.holds_store import HoldStore
from audit_svc.retention_store import RetentionStore
from audit_svc.task_keepers import KeeperAwayError, Told
from interlock.audit.v1 import audit_service_pb2 as audit_messages
from interlock.audit.v1 import erasure_service_pb2 as messages
from interlock.audit.v1 import erasure_service_pb2_grpc
from interlock.common.channel import channel
from svc_kit.clock import SystemClock
from svc_kit.errors import AlreadyExists, NotFound
from svc_kit.identity import Role
from tests.audit.conftest import Replica
from tests.audit.events import TASK, new_event
from tests.audit.served import Served, append, event, refusal

NOTHING = Told(running=False, undelivered=False, erased=())


@dataclass
class Keeper:
    """A service that answers what it is told to."""

    name: str
    answers: list[Told | Exception] = field(default_factory=list)
    asked: int = 0

    async def erase(self, tenant: str, task_ids: Sequence[uuid.UUID]) -> Told:
        assert (tenant, list(task_ids)) == ("default", [TASK])
        self.asked += 1
        answer = self.answers.pop(0) if self.answers else NOTHING
        if isinstance(answer, Exception):
            raise answer
        return answer


class Office:
    """Erasures over one replica, whose runner is moved by hand."""

    def __init__(self, replica: Replica, *keepers: Keeper) -> None:
        clock = SystemClock()
        self.store = ErasureStore(replica.database)
        self.erasures = Erasures(self.store, replica.store, clock)
        retention = RetentionStore(replica.database)
        self.holds = Holds(replica.log, replica.store, HoldStore(replica.database), retention, clock)
        self.runner = ErasureRunner(
            replica.database,
            self.store,
            replica.removals,
            keepers,
            clock,
            holds=self.holds,
            begun=asyncio.Event(),
        )

    async def begin(self, selector: Selector, *, request_id: uuid.UUID | None = None) -> Erasure:
        return await self.erasures.begin(
            "default", selector, reason="asked to", requester="ada", request_id=request_id
        )

    async def after_a_round(self, begun: Erasure) -> Erasure:
        await self.runner.once()
        return await self.erasures.get("default", begun.erasure_id)


async def contents(replica: Replica) -> int:
    size = (await replica.checkpoints.newest("default")).checkpoint.size
    entries = await replica.between("default", 0, size, with_bodies=True)
    return sum(len(entry.parts) for entry in entries if b'"PROMPT"' in entry.leaf)


async def test_an_erasure_goes_on_from_whatever_held_it_up(replica: Replica) -> None:
    await replica.log.append_batch(tuple(new_event() for _ in range(3)))
    first = Keeper("orchestrator", [Told(running=True, undelivered=False, erased=())])
    first.answers += [Told(running=False, undelivered=True, erased=()), KeeperAwayError("away")]
    first.answers += [Told(running=False, undelivered=False, erased=(("task", 1), ("blob", 0)))]
    second = Keeper("gateway", [KeeperAwayError("the gateway answered UNAVAILABLE")])
    office = Office(replica, first, second)
    begun = await office.begin(Selector(task_id=TASK))
    waits = [
        "the task has not ended, says the orchestrator",
        "the orchestrator has not yet told the log everything of the task",
        "away",
        "the gateway answered UNAVAILABLE",
    ]
    for waiting_for in waits:
        now = await office.after_a_round(begun)
        assert (now.state, now.waiting_for) == (ErasureState.RUNNING, waiting_for)
        # The log comes last: what others may still tell of would be new to it otherwise.
        assert await contents(replica) == 3
    done = await office.after_a_round(begun)
    assert (done.state, done.waiting_for) == (ErasureState.COMPLETE, "")
    assert (done.reached, done.explained_by) == ({"orchestrator.task": 1, "audit.payload": 3}, (3,))
    assert await contents(replica) == 0
    # What is complete is left alone.
    asked = first.asked
    await office.runner.once()
    assert first.asked == asked


async def test_two_runners_that_do_the_same_erasure_do_it_once(replica: Replica) -> None:
    """As when a leader that hangs comes back."""
    await replica.log.append_batch(tuple(new_event() for _ in range(5)))
    office = Office(replica)
    begun = await office.begin(Selector(task_id=TASK))
    await asyncio.gather(*(Office(replica).runner.once() for _ in range(4)))
    done = await office.after_a_round(begun)
    assert done.state is ErasureState.COMPLETE and await contents(replica) == 0
    assert done.reached["audit.payload"] == 5
    told = [f async for told in replica.verifier.run("default", begin=0, end=0) for f in told.findings]
    assert told == []


async def test_a_file_in_use_is_written_anew_later(replica: Replica) -> None:
    made = new_event()
    await replica.log.append(made)
    office = Office(replica)
    begun = await office.begin(Selector(event_id=made.event_id))
    async with replica.database.transaction() as reading:
        await reading.exec_driver_sql("SELECT count(*) FROM payload")
        now = await office.after_a_round(begun)
        assert now.state is ErasureState.ERASED and "in use" in now.waiting_for
    assert (await office.after_a_round(begun)).state is ErasureState.COMPLETE


async def test_every_erasure_has_its_turn_however_many_are_held_up(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasures, "_OPEN_AT_A_TIME", 2)
    events = [new_event() for _ in range(3)]
    await replica.log.append_batch(tuple(events))
    office = Office(replica, Keeper("orchestrator", [KeeperAwayError("away")] * 100))
    for _ in range(4):
        await office.begin(Selector(task_id=TASK))
    last = await office.begin(Selector(event_id=events[0].event_id))
    for _ in range(3):
        await office.runner.once()
    done = await office.erasures.get("default", last.erasure_id)
    assert done.state is ErasureState.COMPLETE


async def test_one_content_of_one_entry_goes_alone(replica: Replica) -> None:
    events = [new_event() for _ in range(2)]
    await replica.log.append_batch(tuple(events))
    office = Office(replica, Keeper("orchestrator", [KeeperAwayError("never asked")]))
    chosen = Selector(event_id=events[1].event_id, part=events[1].parts[0].name)
    done = await office.after_a_round(await office.begin(chosen))
    assert done.state is ErasureState.COMPLETE and await contents(replica) == 1
    with pytest.raises(NotFound, match="no entry with the event id"):
        await office.begin(Selector(event_id=events[0].event_id, part="never"))
    with pytest.raises(NotFound, match="no entry of the task"):
        await office.begin(Selector(task_id=uuid.uuid4()))


async def test_a_request_id_begins_one_erasure(replica: Replica) -> None:
    events = [new_event() for _ in range(2)]
    await replica.log.append_batch(tuple(events))
    office, request_id = Office(replica), uuid.uuid4()
    first = await office.begin(Selector(event_id=events[0].event_id), request_id=request_id)
    again = await office.begin(Selector(event_id=events[0].event_id), request_id=request_id)
    assert again.erasure_id == first.erasure_id
    with pytest.raises(AlreadyExists):
        await office.begin(Selector(event_id=events[1].event_id), request_id=request_id)


async def test_erasures_are_asked_for_followed_and_listed_over_the_wire(audit: Served) -> None:
    async with audit.producer() as producer:
        made = [event() for _ in range(3)]
        for each in made:
            await append(producer, each)
    token = audit.issuer.mint("ada", "default", [Role.ADMIN], ttl=600)
    async with channel(audit.addresses.public, lambda: token) as opened:
        stub = erasure_service_pb2_grpc.ErasureServiceStub(opened)
        for field_name, request in (
            ("selector", messages.ErasePayloadRequest(reason="x")),
            (
                "selector",
                messages.ErasePayloadRequest(
                    reason="x", selector=messages.ErasureSelector(task_id=str(TASK), event_id=str(TASK))
                ),
            ),
            (
                "selector.part",
                messages.ErasePayloadRequest(
                    reason="x", selector=messages.ErasureSelector(task_id=str(TASK), part="input")
                ),
            ),
            (
                "reason",
                messages.ErasePayloadRequest(selector=messages.ErasureSelector(task_id=str(TASK))),
            ),
            (
                "reason",
                messages.ErasePayloadRequest(
                    reason="x" * 2001, selector=messages.ErasureSelector(task_id=str(TASK))
                ),
            ),
        ):
            refused = await refusal(stub.ErasePayload(request))
            assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
            assert [violation.field for violation in refused.violations] == [field_name]
        begun = []
        for each in made:
            selector = messages.ErasureSelector(event_id=each.event_id)
            answer = await stub.ErasePayload(messages.ErasePayloadRequest(reason="x", selector=selector))
            begun.append(answer.erasure)
        async with asyncio.timeout(20):
            for erasure in begun:
                wanted = messages.GetErasureRequest(erasure_id=erasure.erasure_id)
                while True:
                    if (await stub.GetErasure(wanted)).erasure.state == messages.ERASURE_STATE_COMPLETE:
                        break
                    await asyncio.sleep(0.05)
        async with audit.reader(Role.DEVELOPER) as reader:
            gone = audit_messages.GetPayloadRequest(event_id=made[0].event_id, part="input")
            told = await refusal(reader.GetPayload(gone))
            assert (told.reason, told.metadata["explained_by"]) == ("PAYLOAD_ERASED", "3")
        listed: list[messages.Erasure] = []
        place = ""
        while place or not listed:
            page = await stub.ListErasures(messages.ListErasuresRequest(page_size=2, page_token=place))
            listed += page.erasures
            place = page.next_page_token
        assert [each.erasure_id for each in listed] == [each.erasure_id for each in reversed(begun)]
        unknown = messages.GetErasureRequest(erasure_id=str(uuid.uuid4()))
        assert (await refusal(stub.GetErasure(unknown))).reason == "ERASURE_NOT_FOUND"


async def test_nobody_erases_what_a_hold_keeps_neither_here_nor_elsewhere(replica: Replica) -> None:
    keeper = Keeper("orchestrator")
    office = Office(replica, keeper)
    await replica.log.append(new_event())
    hold = await office.holds.place("default", HoldSelector(task_id=TASK), reason="case", actor="ada")
    begun = await office.begin(Selector(task_id=TASK))
    waiting = await office.after_a_round(begun)
    assert (waiting.state, keeper.asked) == (ErasureState.RUNNING, 0)
    assert str(hold.hold_id) in waiting.waiting_for
    await office.holds.release("default", hold.hold_id, reason="closed", actor="ada")
    assert (await office.after_a_round(begun)).state is not ErasureState.RUNNING
    assert (keeper.asked, await contents(replica)) == (1, 0)
