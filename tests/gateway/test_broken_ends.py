"""A store that fails in ways nobody foresaw: what ran is UNKNOWN, and nothing stays running for ever."""

import asyncio
from typing import Any

import pytest

from gateway_svc.call_store import CallStore
from gateway_svc.pipeline.flights import Flights
from gateway_svc.pipeline.result import ResultCheck
from svc_kit.errors import InvalidArgument
from svc_kit.strict_json import parse
from tests.gateway.world import World, kinds, until


@pytest.fixture
async def allowing(world: World) -> World:
    await world.allow()
    return world


async def fails(*_: Any, **__: Any) -> Any:
    raise RuntimeError("nobody foresaw this")


async def swept(world: World, permit: Any) -> None:
    async def unknown() -> bool:
        return [row.status for row in await world.rows(permit)] == ["UNKNOWN"]

    await until(unknown)


async def test_an_outcome_that_cannot_be_stored_is_unknown_and_does_not_stay_running(
    allowing: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CallStore, "finish", fails)
    permit = allowing.permit()
    error = await allowing.refusal(permit)
    assert (error.code.name, error.reason) == ("UNKNOWN", "OUTCOME_UNKNOWN")
    assert error.metadata["execution_state"] == "UNKNOWN"
    assert allowing.runs == 1
    await swept(allowing, permit)
    assert kinds(await allowing.told(permit, 2))[1] == ("TOOL_RESULT", "UNKNOWN", "OUTCOME_UNKNOWN")


async def test_a_call_that_cannot_be_withdrawn_does_not_stay_running(
    allowing: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CallStore, "withdraw", fails)
    allowing.audit.refuses = True
    permit = allowing.permit()
    assert await allowing.reason(permit) == "AUDIT_UNAVAILABLE"
    await swept(allowing, permit)
    assert allowing.runs == 0


async def test_an_executed_call_is_never_withdrawn_whatever_judging_its_result_raises(
    allowing: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(*_: Any, **__: Any) -> None:
        with pytest.raises(InvalidArgument) as refused:
            parse("{", field="result")
        raise refused.value

    monkeypatch.setattr(ResultCheck, "judge", judge)
    permit = allowing.permit()
    error = await allowing.refusal(permit)
    assert error.reason == "OUTCOME_UNKNOWN"
    assert error.metadata["execution_state"] == "UNKNOWN"
    assert [row.status for row in await allowing.rows(permit)] == ["UNKNOWN"]
    assert allowing.runs == 1


async def test_a_log_that_fails_in_a_new_way_leaves_nothing_running(
    allowing: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway_svc.audit_log.AuditLog.append", fails)
    permit = allowing.permit()
    error = await allowing.refusal(permit)
    assert (error.reason, error.metadata["execution_state"]) == ("INTERNAL", "NOT_STARTED")
    assert "verdict" not in error.metadata
    assert [row.status for row in await allowing.rows(permit)] == ["REFUSED"]
    assert allowing.runs == 0


async def test_work_that_fails_beside_is_told_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    flights: Flights[None] = Flights()
    await asyncio.wait({flights.spawn(fails())})
    await until(lambda: "nobody foresaw this" in "".join(capsys.readouterr()))
