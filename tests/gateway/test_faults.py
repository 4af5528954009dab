"""Every step of a call fails, in whatever way: no effect, a clear code, one record, and nothing stuck."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway_svc.audit_log import AuditLog
from gateway_svc.call_store import CallStore
from gateway_svc.errors import stale
from gateway_svc.pipeline.arguments import ArgumentCheck
from gateway_svc.pipeline.attempt import AttemptCheck
from gateway_svc.pipeline.binding import Binding
from gateway_svc.pipeline.execute import Steps
from gateway_svc.pipeline.flights import Flights
from gateway_svc.pipeline.permit import PermitCheck
from gateway_svc.pipeline.policy import PolicyCheck
from gateway_svc.pipeline.replay import Replay
from gateway_svc.pipeline.run import ToolRunner
from gateway_svc.pipeline.tool_work import ToolWork
from interlock.common.v1 import permit_pb2
from tests.gateway.world import World, kinds

# Where a call can be stopped before its write-ahead, and once it is written ahead.
CHECKS = {
    "permit": (PermitCheck, "check"),
    "attempt": (AttemptCheck, "check"),
    "flights": (Flights, "check"),
    "replay": (Replay, "find"),
    "binding": (Binding, "check"),
    "arguments": (ArgumentCheck, "check"),
    "policy": (PolicyCheck, "check"),
    "reach": (ToolRunner, "check_reach"),
}
WRITE_AHEAD = {"row": (CallStore, "begin"), "entry": (AuditLog, "append"), "again": (ToolWork, "confirm")}
FAULTS: dict[str, Callable[[], Exception]] = {
    "INTERNAL": lambda: RuntimeError("nobody foresaw this"),
    "POLICY_STALE": lambda: stale("registry", 60.0),
}


@pytest.fixture
async def allowing(world: World) -> World:
    await world.allow()
    return world


def broken(patch: pytest.MonkeyPatch, owner: type, name: str, fault: Callable[[], Exception]) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise fault()

    patch.setattr(owner, name, fails)


async def stopped(world: World, permit: permit_pb2.Signed, reason: str) -> None:
    """The call was answered as not started, and the sandbox saw nothing of it."""
    error = await world.refusal(permit)
    assert (error.reason, error.metadata["execution_state"]) == (reason, "NOT_STARTED")
    assert "verdict" not in error.metadata, "it says nothing of the call, which may be asked for again"
    assert "nobody foresaw" not in str(error)
    assert world.runs == 0


async def heals(world: World, permit: permit_pb2.Signed, *, before: int, ran: int = 0) -> None:
    """Asked for again, the same call runs once; the log has it after what it had before."""
    await world.execute(permit)
    assert world.runs == ran + 1
    assert kinds(await world.told(permit, before + 2))[before:] == [
        ("TOOL_CALL", "RUNNING", ""),
        ("TOOL_RESULT", "COMPLETED", ""),
    ]


@pytest.mark.parametrize("reason", FAULTS)
async def test_a_check_that_fails_leaves_one_record_and_no_effect(
    allowing: World, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    permits = {}
    for step, (owner, name) in CHECKS.items():
        permits[step] = permit = allowing.permit()
        with monkeypatch.context() as patch:
            broken(patch, owner, name, FAULTS[reason])
            await stopped(allowing, permit, reason)
        assert [(row.status, row.reason) for row in await allowing.rows(permit)] == [("REFUSED", reason)]
        assert kinds(await allowing.told(permit, 1)) == [("TOOL_CALL", "REFUSED", reason)], step
    for number, permit in enumerate(permits.values()):
        await heals(allowing, permit, before=1, ran=number)


@pytest.mark.parametrize("step", WRITE_AHEAD)
async def test_a_write_ahead_that_fails_is_withdrawn_before_anything_runs(
    allowing: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    permit = allowing.permit()
    with monkeypatch.context() as patch:
        broken(patch, *WRITE_AHEAD[step], FAULTS["INTERNAL"])
        await stopped(allowing, permit, "INTERNAL")
    begun = [("TOOL_CALL", "RUNNING", "")] if step == "again" else []
    told = [*begun, ("TOOL_CALL", "REFUSED", "INTERNAL")]
    assert kinds(await allowing.told(permit, len(told))) == told
    await heals(allowing, permit, before=len(told))


async def test_a_permit_that_cannot_be_read_is_nobodys_call(
    allowing: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    permit = allowing.permit()
    with monkeypatch.context() as patch:
        broken(patch, PermitCheck, "read", FAULTS["INTERNAL"])
        await stopped(allowing, permit, "INTERNAL")
    assert await allowing.rows(permit) == []
    await heals(allowing, permit, before=0)


async def test_without_the_database_a_failing_check_still_stops_the_call(
    allowing: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    permit = allowing.permit()
    with monkeypatch.context() as patch:
        broken(patch, PolicyCheck, "check", FAULTS["POLICY_STALE"])
        broken(patch, CallStore, "refuse", FAULTS["INTERNAL"])
        await stopped(allowing, permit, "INTERNAL")
    await heals(allowing, permit, before=0)


def test_no_step_of_a_call_is_left_out() -> None:
    tried = {"permits", "attempts", "flights", "replay", "work", "write_ahead"}
    # Admission sheds load before there is a call; what follows the write-ahead has tests of its own.
    assert set(Steps.__dataclass_fields__) - tried == {"admission", "outcomes", "refusal"}
