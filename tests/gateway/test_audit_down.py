"""Step 9: what the audit log does not hold does not happen."""

import pytest
import sqlalchemy as sa

from interlock_suite.databases import ServiceDatabase
from svc_kit.database import Database
from tests.gateway.world import World, kinds, once, payload, until


@pytest.fixture
async def allowing(world: World) -> World:
    await world.allow()
    await until(lambda: any(event.status == "CREATED" for event in world.audit.events))
    return world


@pytest.mark.parametrize("fault", ["refuses", "hangs", "takes_silently"])
async def test_a_call_that_the_log_does_not_acknowledge_is_not_executed_and_can_be_asked_for_again(
    allowing: World, fault: str
) -> None:
    permit = allowing.permit({"a": 1})
    setattr(allowing.audit, fault, True)
    error = await allowing.refusal(permit, {"a": 1})
    assert (error.code.name, error.reason) == ("UNAVAILABLE", "AUDIT_UNAVAILABLE")
    assert error.metadata["execution_state"] == "NOT_STARTED"
    assert error.retry_after is not None
    assert "verdict" not in error.metadata, "it was not decided on"
    assert allowing.runs == 0

    async def withdrawn() -> bool:
        return [(row.status, row.reason) for row in await allowing.rows(permit)] == [
            ("REFUSED", "AUDIT_UNAVAILABLE")
        ]

    await until(withdrawn)
    setattr(allowing.audit, fault, False)
    assert (await allowing.execute(permit, {"a": 1})).result_json == '{"a":1}'
    assert allowing.runs == 1
    told = kinds(await allowing.told(permit, 4 if fault == "takes_silently" else 3))
    assert told.count(("TOOL_CALL", "REFUSED", "AUDIT_UNAVAILABLE")) == 1
    assert told.count(("TOOL_RESULT", "COMPLETED", "")) == 1


async def test_a_refusal_is_told_to_the_log_when_it_is_back(world: World) -> None:
    world.audit.refuses = True
    permit = world.permit({"a": 1})
    assert await world.reason(permit, {"a": 1}) == "POLICY_DENIED"
    assert world.entries(permit) == []
    world.audit.refuses = False
    assert kinds(await world.told(permit, 1)) == [("TOOL_CALL", "REFUSED", "POLICY_DENIED")]

    async def forgotten() -> bool:
        return await world.sql("SELECT 1 FROM audit_payload") == []

    await until(forgotten)


async def test_a_result_waits_for_the_log_without_holding_up_its_caller(allowing: World) -> None:
    first = allowing.permit({"n": 1})
    await allowing.execute(first, {"n": 1})
    await allowing.told(first, 2)
    second = allowing.permit({"n": 2})
    allowing.audit.refuses_batches = True
    assert (await allowing.execute(second, {"n": 2})).result_json == '{"n":2}'
    assert kinds(allowing.entries(second)) == [("TOOL_CALL", "RUNNING", "")]
    allowing.audit.refuses_batches = False
    assert kinds(await allowing.told(second, 2))[1] == ("TOOL_RESULT", "COMPLETED", "")


async def test_the_log_away_altogether_refuses_and_its_return_lets_calls_through(allowing: World) -> None:
    allowing.audit.refuses = True
    permit = allowing.permit()
    assert await allowing.reason(permit) == "AUDIT_UNAVAILABLE"
    assert await allowing.reason(permit) == "AUDIT_UNAVAILABLE"
    allowing.audit.refuses = False
    await once("", lambda: allowing.reason(permit), instead_of="AUDIT_UNAVAILABLE")
    assert allowing.runs == 1


async def test_what_was_delivered_but_not_deleted_is_delivered_again_with_the_same_content(
    world: World, gateway_database: ServiceDatabase
) -> None:
    owner = Database(gateway_database.owner_url, pool_size=1)

    async def as_owner(*statements: str) -> None:
        async with owner.transaction() as connection:
            for statement in statements:
                await connection.execute(sa.text(statement))

    await as_owner(
        "CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$",
        "CREATE TRIGGER stay BEFORE DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION stay()",
    )
    try:
        permit = world.permit({"a": 1})
        assert await world.reason(permit, {"a": 1}) == "POLICY_DENIED"
        (entry,) = await world.told(permit, 1)
        await until(lambda: world.audit.repeats > 0)
        assert payload(entry) == {"a": 1}
    finally:
        await as_owner("DROP TRIGGER stay ON outbox", "DROP FUNCTION stay")
        await owner.close()

    async def told_and_forgotten() -> bool:
        return not await world.sql("SELECT event_id FROM outbox UNION ALL SELECT event_id FROM audit_payload")

    await until(told_and_forgotten)
    assert not world.audit.reused
