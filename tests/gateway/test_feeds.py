"""What decisions stand on may not grow old."""

import pytest

from gateway_svc.cedar.decision import Question
from gateway_svc.pipeline.attempt import AttemptCheck
from gateway_svc.pipeline.binding import Binding
from gateway_svc.policy_book import PolicyBook
from gateway_svc.policy_store import PolicyStore
from interlock.orchestrator.v1.orchestrator_service_pb2 import ATTEMPT_STANDING_OVER
from interlock_suite.databases import ServiceDatabase
from svc_kit.clock import ManualClock
from svc_kit.database import Database
from svc_kit.errors import Unavailable
from tests.gateway.world import World, claims, gateway, once, until

QUESTION = Question(agent="a", agent_version="1.0.0", tool="t", arguments={}, attempt=1, submitter=None)


async def test_policies_that_were_not_read_for_ten_seconds_decide_nothing(
    gateway_database: ServiceDatabase,
) -> None:
    database, clock = Database(gateway_database.service_url), ManualClock()
    book = PolicyBook(PolicyStore(database), clock, monotonic=clock.monotonic)
    with pytest.raises(Unavailable, match="has not been heard yet"):
        book.decide("nobody", QUESTION)
    await book.refresh()
    clock.advance(9.9)
    assert not book.decide("nobody", QUESTION).allowed
    clock.advance(0.2)
    with pytest.raises(Unavailable, match="silent for 10 s") as refused:
        book.decide("nobody", QUESTION)
    assert refused.value.reason_name == "POLICY_STALE"
    await book.refresh()
    assert not book.decide("nobody", QUESTION).allowed
    await database.close()


class _OldRegistry:
    ready = True

    def age(self) -> float:
        return 10.1


def test_a_registry_that_was_silent_for_ten_seconds_binds_nothing() -> None:
    with pytest.raises(Unavailable, match="registry has been silent") as refused:
        Binding(_OldRegistry()).check(None)  # type: ignore[arg-type]  # asked for nothing but its age
    assert refused.value.reason_name == "POLICY_STALE"


class _OldAttempts:
    words = 7

    def age(self) -> float:
        return 10.1


def test_a_feed_of_attempts_that_was_silent_for_ten_seconds_lets_nothing_pass() -> None:
    with pytest.raises(Unavailable, match="feed of attempts has been silent") as refused:
        AttemptCheck(_OldAttempts()).check(None)  # type: ignore[arg-type]  # asked for nothing but its age
    assert refused.value.reason_name == "POLICY_STALE"


async def test_a_feed_of_attempts_that_broke_is_taken_up_again_with_what_happened_meanwhile(
    closed_world: World,
) -> None:
    closed_world.publish_tool()
    async with gateway(closed_world) as world:
        await world.allow()
        over, going = world.permit(), world.permit()
        await world.execute(going)
        world.orchestrator.silent = True
        await until(lambda: world.orchestrator.watchers == 0)
        world.stand(claims(over), ATTEMPT_STANDING_OVER)
        new = world.permit()
        world.orchestrator.silent = False
        await once("STALE_ATTEMPT", lambda: world.reason(over), instead_of="")
        assert await world.reason(new) == ""
        assert (await world.execute(going)).replayed


async def test_what_the_feed_has_not_brought_yet_is_asked_of_the_registry_itself(closed_world: World) -> None:
    closed_world.registry.behind = True
    async with gateway(closed_world) as world:
        await world.allow()
        world.publish_tool()
        assert (await world.execute(world.permit({"a": 1}), {"a": 1})).result_json == '{"a":1}'
        assert await world.reason(world.permit(tool="nowhere")) == "TOOL_NOT_BOUND"


async def test_a_registry_that_cannot_be_asked_leaves_a_call_open_to_be_asked_for_again(
    closed_world: World,
) -> None:
    closed_world.registry.behind = True
    async with gateway(closed_world) as world:
        await world.allow()
        world.publish_tool()
        world.registry.silent = True
        permit = world.permit({"a": 1})
        error = await world.refusal(permit, {"a": 1})
        assert (error.code.name, error.reason) == ("UNAVAILABLE", "POLICY_STALE")
        assert error.metadata["execution_state"] == "NOT_STARTED"
        assert error.retry_after is not None
        world.registry.silent = False
        assert (await world.execute(permit, {"a": 1})).result_json == '{"a":1}'
