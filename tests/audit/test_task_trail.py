"""GetAuditTrail as steps: each with how much of it holds, whatever somebody did to the database."""

import uuid
from typing import TYPE_CHECKING

import pytest

from audit_svc.removal_store import PlacedPart
from interlock.audit.v1 import audit_service_pb2 as messages
from interlock.audit.v1 import entry_pb2
from interlock_suite.databases import ServiceDatabase
from svc_kit.identity import Role
from svc_kit.ids import uuid7
from tests.audit.conftest import AdminUrl, Replica
from tests.audit.events import TASK, new_event
from tests.audit.served import Served, append, event, refusal
from tests.audit.test_tampering import Tamper

if TYPE_CHECKING:
    from tests.audit.served import Stub

PROVEN, REMOVED, BROKEN = 1, 2, 3
REQUEST = messages.GetAuditTrailRequest(task_id=str(TASK), as_steps=True)


async def steps(stub: "Stub") -> messages.GetAuditTrailResponse:
    answer = await stub.GetAuditTrail(REQUEST)
    assert not answer.entries and not answer.next_page_token and answer.steps_complete
    return answer


def states(answer: messages.GetAuditTrailResponse) -> dict[str, int]:
    return {step.step_id: step.proof_state for step in answer.steps}


async def filled(replica: Replica) -> None:
    """A prompt, and three calls of two entries each; between them an entry of another task."""
    await replica.log.append(new_event())
    for number in range(3):
        for kind in ("TOOL_CALL", "TOOL_RESULT"):
            await replica.log.append(
                new_event(type=kind, attempt=1, call_id=f"c{number}", step_key=f"s{number}", tool="t")
            )
        await replica.log.append(new_event(task_id=uuid7()))
    await replica.checkpoints.publish()


async def test_a_task_is_told_as_steps_each_proven(audit: Served) -> None:
    async with audit.producer() as producer:
        await append(producer, event(task_id=str(TASK)))
        call = {"attempt": 1, "call_id": "c1", "step_key": "s", "tool": "t", "task_id": str(TASK)}
        for kind, status in (("TOOL_CALL", "RUNNING"), ("TOOL_RESULT", "COMPLETED")):
            type_ = entry_pb2.EntryType.Value(f"ENTRY_TYPE_{kind}")
            await append(producer, event(type=type_, status=status, **call))
    async with audit.reader(Role.VIEWER) as stub:
        answer = await steps(stub)
        assert states(answer) == {"task": PROVEN, "attempt:1": PROVEN, "call:c1": PROVEN}
        step = answer.steps[2]
        assert (step.kind, step.step_key, step.tool) == (messages.TRAIL_STEP_KIND_TOOL_CALL, "s", "t")
        assert (step.status, step.HasField("end_time")) == ("COMPLETED", True)
        assert [each.index for each in step.entries] == [1, 2]
        assert step.entries[1].type == entry_pb2.ENTRY_TYPE_TOOL_RESULT
        assert answer.checkpoint.tree_size == 3
        for field in ("include_payloads", "page_token"):
            wrong = messages.GetAuditTrailRequest(task_id=str(TASK), as_steps=True)
            setattr(wrong, field, True if field == "include_payloads" else "x")
            async with audit.reader(Role.DEVELOPER) as developer:
                refused = await refusal(developer.GetAuditTrail(wrong))
            assert [v.field for v in refused.violations] == [field]
        empty = messages.GetAuditTrailRequest(task_id=str(uuid7()), as_steps=True)
        assert not (await stub.GetAuditTrail(empty)).steps


_OTHER_AGENT = (
    "UPDATE entry SET leaf = convert_to(replace(convert_from(leaf, 'UTF8'), 'summariser', 'x'), 'UTF8'),"
    " agent = 'x' WHERE event_id = {event}"
)


@pytest.mark.parametrize(
    ("statement", "flaw"),
    [
        ("UPDATE payload SET body = 'x' WHERE event_id = {event}", "PAYLOAD"),
        ("DELETE FROM payload WHERE event_id = {event}", "PAYLOAD"),
        ("UPDATE entry SET status = 'OTHER' WHERE event_id = {event}", "COLUMNS"),
        ("UPDATE entry SET leaf = set_byte(leaf, 30, 7) WHERE event_id = {event}", "LEAF"),
        (_OTHER_AGENT, "LEAF"),
    ],
)
async def test_a_step_that_somebody_changed_is_broken_and_its_neighbours_are_not(
    replica: Replica,
    audit_database: ServiceDatabase,
    admin_url_of: AdminUrl,
    statement: str,
    flaw: str,
) -> None:
    await filled(replica)
    tamper = Tamper(admin_url_of(audit_database))
    await tamper(statement.format(event="(SELECT event_id FROM entry WHERE leaf_index = 5)"))
    answer = await replica.task_trails.read("default", TASK)
    told = {step.step_id: int(step.state) for step in answer.steps}
    assert {(each.index, str(each.flaw)) for each in answer.findings} >= {(5, flaw)}
    assert (told["call:c0"], told["call:c2"]) == (PROVEN, PROVEN)
    # What cannot be read at all stands among the findings alone.
    assert told.get("call:c1") == BROKEN or flaw == "LEAF"


async def test_a_removal_that_the_log_explains_leaves_its_step_proven(replica: Replica) -> None:
    await filled(replica)
    name = await replica.store.log_of("default")
    assert name is not None
    (row,) = await replica.rows.task_rows(name.log_id, TASK, begin=4, end=6, limit=1)
    part = PlacedPart(uuid.UUID(row.event_id), row.leaf_index, "input")
    await replica.removals.remove("default", [part], kind="ERASURE", actor="", attributes={})
    answer = await replica.task_trails.read("default", TASK)
    told = {step.step_id: int(step.state) for step in answer.steps}
    assert told == {
        "task": REMOVED,
        "attempt:1": REMOVED,
        "call:c0": PROVEN,
        "call:c1": REMOVED,
        "call:c2": PROVEN,
    }
    assert answer.findings == [] and answer.complete


async def test_a_task_of_more_entries_than_are_looked_at_says_so(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit_svc.task_trail.MAX_ENTRIES", 4)
    monkeypatch.setattr("audit_svc.task_trail._ROWS_AT_A_TIME", 2)
    await filled(replica)
    answer = await replica.task_trails.read("default", TASK)
    assert not answer.complete
    assert sum(len(step.entries) for step in answer.steps) == 4
