"""Step 2: without a genuine, live permit for exactly this call and this worker, nothing happens."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from interlock.common.v1 import permit_pb2
from svc_kit.signing import RECEIPT_PURPOSE, SigningKey
from svc_kit.status import RemoteError
from tests.gateway.world import World, claims, kinds, once


async def assert_nothing_happened(world: World, permit: permit_pb2.Signed, error: RemoteError) -> None:
    assert error.metadata["execution_state"] == "NOT_STARTED"
    assert world.runs == 0
    assert all(row.status == "REFUSED" for row in await world.rows(permit))
    assert all(event.status == "REFUSED" for event in world.entries(permit))


@pytest.fixture
async def allowing(world: World) -> World:
    await world.allow()
    return world


async def test_a_permit_signed_by_a_key_that_the_orchestrator_does_not_publish_is_refused(
    allowing: World, tmp_path: Path
) -> None:
    permit = allowing.permit(key=SigningKey.load_or_create(tmp_path, "permit"))
    error = await allowing.refusal(permit)
    assert (error.code.name, error.reason) == ("PERMISSION_DENIED", "SIGNATURE_INVALID")
    await assert_nothing_happened(allowing, permit, error)
    assert await allowing.rows(permit) == [], "a forged permit is believed in nothing, not even its ids"


async def test_a_permit_whose_content_was_changed_is_refused(allowing: World) -> None:
    permit = allowing.permit()
    changed = claims(permit)
    changed.tool = "other"
    permit.payload = changed.SerializeToString()
    error = await allowing.refusal(permit)
    assert error.reason == "SIGNATURE_INVALID"
    await assert_nothing_happened(allowing, permit, error)


async def test_a_signature_for_another_purpose_is_no_permit(allowing: World) -> None:
    permit = allowing.permit_key.sign(RECEIPT_PURPOSE, allowing.permit().payload)
    error = await allowing.refusal(permit)
    assert error.reason == "SIGNATURE_INVALID"
    await assert_nothing_happened(allowing, permit, error)


async def test_no_permit_at_all_is_refused(allowing: World) -> None:
    error = await allowing.refusal(permit_pb2.Signed())
    assert error.reason == "SIGNATURE_INVALID"
    assert allowing.runs == 0


@pytest.mark.parametrize(
    ("changes", "options", "reason"),
    [
        ({"expire_time": datetime.now(UTC) - timedelta(seconds=1)}, {}, "PERMIT_EXPIRED"),
        ({}, {"worker": "worker-2"}, "PERMIT_MISMATCH"),
        ({"argument_digest": f"sha256:{'1' * 64}"}, {}, "PERMIT_MISMATCH"),
        ({}, {"tenant": "somebody-else"}, "TENANT_FORBIDDEN"),
    ],
)
async def test_a_genuine_permit_that_does_not_fit_is_refused_and_recorded(
    allowing: World, changes: dict[str, Any], options: dict[str, Any], reason: str
) -> None:
    permit = allowing.permit(**changes)
    error = await allowing.refusal(permit, **options)
    assert error.reason == reason
    # A call whose permit ran out is asked for again with a new one.
    assert (error.metadata.get("verdict") == "true") == (reason != "PERMIT_EXPIRED")
    await assert_nothing_happened(allowing, permit, error)
    assert kinds(await allowing.told(permit, 1)) == [("TOOL_CALL", "REFUSED", reason)]
    call = await allowing.get(permit)
    assert call.reason == reason
    assert call.audit_index == -1


@pytest.mark.parametrize("field", ["tenant", "tool", "tool_digest", "agent_version", "step_key"])
async def test_a_permit_that_leaves_something_open_is_refused(allowing: World, field: str) -> None:
    changes: dict[str, Any] = {field: ""}
    permit = allowing.permit(**changes)
    error = await allowing.refusal(permit)
    assert error.reason == "PERMIT_MISMATCH"
    assert error.metadata["field"] == field
    await assert_nothing_happened(allowing, permit, error)


async def test_a_permit_for_another_worker_shows_the_role_as_what_refused(allowing: World) -> None:
    permit = allowing.permit()
    await allowing.refusal(permit, worker="worker-2")
    role, *others = (await allowing.get(permit)).verdicts
    assert (role.check, role.passed, role.skipped) == ("role", False, False)
    assert all(verdict.skipped for verdict in others)


async def test_a_key_that_the_orchestrator_took_into_use_later_is_learned(
    allowing: World, tmp_path: Path
) -> None:
    await allowing.execute(allowing.permit())
    rotated = SigningKey.load_or_create(tmp_path, "permit")
    allowing.orchestrator.keys.append(rotated)

    await once("", lambda: allowing.reason(allowing.permit(key=rotated)), instead_of="SIGNATURE_INVALID")
