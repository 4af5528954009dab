"""Retention and holds over the wire: what is asked for wrongly, and who may ask."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from interlock.audit.v1 import (
    entry_pb2,
    erasure_service_pb2,
    erasure_service_pb2_grpc,
    retention_service_pb2_grpc,
)
from interlock.audit.v1 import retention_service_pb2 as messages
from svc_kit.clients import channel
from svc_kit.identity import Role
from svc_kit.ids import uuid7
from tests.audit.served import TASK, Served, append, event, refusal

if TYPE_CHECKING:
    Stub: TypeAlias = retention_service_pb2_grpc.RetentionServiceAsyncStub

CONTENT = messages.RETENTION_CLASS_CONTENT


@asynccontextmanager
async def caller(audit: Served, *roles: Role, tenant: str = "default") -> "AsyncIterator[Stub]":
    token = audit.issuer.mint("ada@example.org", tenant, roles, ttl=600)
    async with channel(audit.addresses.public, lambda: token) as opened:
        yield retention_service_pb2_grpc.RetentionServiceStub(opened)


def rule(**changes: Any) -> messages.RetentionRule:
    return messages.RetentionRule(**{"class": CONTENT, **changes})


async def test_a_policy_is_set_shown_previewed_and_locked(audit: Served) -> None:
    async with audit.producer() as producer:
        await append(producer, event())
    async with caller(audit, Role.ADMIN) as stub:
        shown = (await stub.GetRetentionPolicy(messages.GetRetentionPolicyRequest())).rules
        assert [(r.payload_min_days, r.payload_max_days, r.locked) for r in shown] == [(0, 0, False)] * 5
        preset = messages.SetRetentionPolicyRequest(preset="eu-ai-act")
        shown = (await stub.SetRetentionPolicy(preset)).rules
        assert {(r.payload_min_days, r.HasField("update_time")) for r in shown} == {(184, True)}
        locked = messages.SetRetentionPolicyRequest(rules=[rule(payload_min_days=200, locked=True)])
        assert (await stub.SetRetentionPolicy(locked)).rules[0].locked
        refused = await refusal(stub.SetRetentionPolicy(preset))
        assert (refused.reason, refused.metadata) == ("RETENTION_LOCKED", {"class": "CONTENT"})
        tried = messages.PreviewRetentionRequest(rules=[rule(payload_max_days=1)])
        told = await stub.PreviewRetention(tried)
        assert [getattr(each, "class") for each in told.classes] == [1, 2, 3, 4, 5] and told.complete
        assert [each.due_parts for each in told.classes] == [0] * 5
        names = [
            p.name for p in (await stub.ListRetentionPresets(messages.ListRetentionPresetsRequest())).presets
        ]
        assert names == ["eu-ai-act", "hipaa", "minimal", "pci-dss"]


async def test_holds_are_placed_listed_by_page_and_released(audit: Served) -> None:
    async with audit.producer() as producer:
        await append(producer, event())
    async with caller(audit, Role.ADMIN) as stub:
        placed = [
            (
                await stub.PlaceHold(
                    messages.PlaceHoldRequest(selector=selector, reason="Case 7,\nsecond part")
                )
            ).hold
            for selector in (
                messages.HoldSelector(task_id=TASK),
                messages.HoldSelector(actor="dev@example.org", type=entry_pb2.ENTRY_TYPE_PROMPT),
                messages.HoldSelector(agent="summariser"),
            )
        ]
        # The person stands there as everywhere in the log.
        assert placed[1].selector.actor and "dev" not in placed[1].selector.actor
        first = await stub.ListHolds(messages.ListHoldsRequest(page_size=2))
        rest = await stub.ListHolds(messages.ListHoldsRequest(page_size=2, page_token=first.next_page_token))
        assert [*first.holds, *rest.holds] == placed[::-1] and not rest.next_page_token
        ask = messages.ReleaseHoldRequest(hold_id=placed[0].hold_id, reason="closed")
        released = (await stub.ReleaseHold(ask)).hold
        assert released.release_reason == "closed" and released.HasField("release_time")
        assert (await stub.ReleaseHold(ask)).hold.release_event_id == released.release_event_id
        open_ones = (await stub.ListHolds(messages.ListHoldsRequest())).holds
        assert [each.hold_id for each in open_ones] == [each.hold_id for each in placed[:0:-1]]
        everything = await stub.ListHolds(messages.ListHoldsRequest(include_released=True))
        assert len(everything.holds) == 3
        unknown = messages.ReleaseHoldRequest(hold_id=str(uuid7()), reason="x")
        assert (await refusal(stub.ReleaseHold(unknown))).reason == "HOLD_NOT_FOUND"
    async with caller(audit, Role.AUDITOR) as stub:
        assert (await refusal(stub.ReleaseHold(ask))).reason == "ROLE_REQUIRED"
    async with caller(audit, Role.SUPER_ADMIN, tenant="elsewhere") as stub:
        assert (await refusal(stub.ReleaseHold(ask))).reason == "HOLD_NOT_FOUND"
        assert not (await stub.ListHolds(messages.ListHoldsRequest(include_released=True))).holds


async def test_everything_wrong_with_a_request_is_named_at_once(audit: Served) -> None:
    async def fields(call: Any) -> list[str]:
        return [violation.field for violation in (await refusal(call)).violations]

    async with caller(audit, Role.ADMIN) as stub:
        bad = [rule(payload_min_days=-1), rule(payload_min_days=9, payload_max_days=8), rule(**{"class": 0})]
        told = await fields(stub.SetRetentionPolicy(messages.SetRetentionPolicyRequest(rules=bad)))
        assert told == [
            "rules[0].payload_min_days",
            "rules[1].class",
            "rules[1].payload_max_days",
            "rules[2].class",
        ]
        assert await fields(stub.SetRetentionPolicy(messages.SetRetentionPolicyRequest())) == ["rules"]
        unknown = messages.SetRetentionPolicyRequest(preset="x")
        assert await fields(stub.SetRetentionPolicy(unknown)) == ["preset"]
        both = messages.SetRetentionPolicyRequest(preset="hipaa", rules=[rule()])
        assert await fields(stub.SetRetentionPolicy(both)) == ["rules"]
        assert await fields(stub.PlaceHold(messages.PlaceHoldRequest())) == ["selector", "reason"]
        selector = messages.HoldSelector(task_id="7", agent="x" * 129, actor="\t")
        selector.type = 99  # type: ignore[assignment]
        selector.begin_time.seconds, selector.end_time.seconds = 9, 2**60
        request = messages.PlaceHoldRequest(selector=selector, reason="x" * 1001)
        assert await fields(stub.PlaceHold(request)) == [
            "selector.task_id",
            "selector.agent",
            "selector.actor",
            "selector.type",
            "selector.end_time",
            "reason",
        ]
        backwards = messages.HoldSelector()
        backwards.begin_time.seconds, backwards.end_time.seconds = 9, 8
        request = messages.PlaceHoldRequest(selector=backwards, reason="x")
        assert await fields(stub.PlaceHold(request)) == ["selector.end_time"]
        ask = messages.ReleaseHoldRequest(hold_id="7", reason=" ")
        assert await fields(stub.ReleaseHold(ask)) == ["hold_id", "reason"]


async def test_an_erasure_waits_for_the_hold_on_what_it_would_erase(audit: Served) -> None:
    async with audit.producer() as producer:
        held = event()
        await append(producer, held)
    token = audit.issuer.mint("ada@example.org", "default", [Role.ADMIN], ttl=600)
    async with channel(audit.addresses.public, lambda: token) as opened:
        stub = retention_service_pb2_grpc.RetentionServiceStub(opened)
        erasures = erasure_service_pb2_grpc.ErasureServiceStub(opened)
        selector = messages.HoldSelector(agent="summariser")
        hold = (await stub.PlaceHold(messages.PlaceHoldRequest(selector=selector, reason="case"))).hold
        begun = await erasures.ErasePayload(
            erasure_service_pb2.ErasePayloadRequest(
                selector=erasure_service_pb2.ErasureSelector(event_id=held.event_id), reason="asked to"
            )
        )
        asked = erasure_service_pb2.GetErasureRequest(erasure_id=begun.erasure.erasure_id)
        await until(lambda: erasures.GetErasure(asked), lambda told: hold.hold_id in told.erasure.waiting_for)
        await stub.ReleaseHold(messages.ReleaseHoldRequest(hold_id=hold.hold_id, reason="closed"))
        await until(lambda: erasures.GetErasure(asked), lambda told: told.erasure.explained_by)


async def until(ask: Callable[[], Awaitable[Any]], fits: Callable[[Any], object]) -> None:
    """Until an answer fits."""
    async with asyncio.timeout(10):
        while True:
            if fits(await ask()):
                return
            await asyncio.sleep(0.02)
