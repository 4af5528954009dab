"""More events than the log can take in: who comes too late is told when to come back, and none is half in."""

import asyncio
from pathlib import Path

import grpc
import psycopg
import pytest

from interlock.audit.v1 import audit_service_pb2 as messages
from interlock_suite.databases import ServiceDatabase
from svc_kit.identity import LocalIssuer, Role
from svc_kit.status import from_rpc_error
from tests.audit.conftest import settings_for
from tests.audit.served import append, event, serving

PLACES = 8
CALLERS = 40


async def test_a_full_queue_refuses_with_a_time_to_come_back_and_what_it_took_is_appended(
    audit_database: ServiceDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit_svc.log.MAX_QUEUED_BATCHES", PLACES)
    issuer = LocalIssuer(tmp_path / "issuer.pem", "test")
    made = [event() for _ in range(CALLERS)]
    async with (
        serving(settings_for(audit_database, tmp_path), issuer) as audit,
        audit.producer() as stub,
        audit.reader(Role.AUDITOR) as auditor,
    ):
        await append(stub, event())
        with psycopg.connect(audit_database.owner_url) as connection:
            # Whoever appends waits for this row.
            connection.execute("SELECT FROM log_head FOR UPDATE")
            calls = [asyncio.create_task(append(stub, each)) for each in made]
            # One batch is on its way, and behind it the queue is full: nobody else has a place.
            waiting = set(calls)
            while len(waiting) > 2 * PLACES:
                done, waiting = await asyncio.wait(waiting, timeout=20, return_when=asyncio.FIRST_COMPLETED)
                assert done
        answers = await asyncio.gather(*calls, return_exceptions=True)
        refusals = [from_rpc_error(each) for each in answers if isinstance(each, grpc.aio.AioRpcError)]
        taken = [each for each in answers if isinstance(each, messages.AppendResponse)]
        assert len(taken) + len(refusals) == CALLERS and len(taken) >= PLACES
        assert {each.reason for each in refusals} == {"OVERLOADED"}
        assert {each.code for each in refusals} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert all(each.retry_after for each in refusals)
        # All come back: those who were refused stand now, the others stood already.
        again = [await append(stub, each) for each in made]
        assert sum(each.already_existed for each in again) == len(taken)
        told = [each async for each in auditor.VerifyRange(messages.VerifyRangeRequest())]
    assert sorted(each.index for each in again) == list(range(1, CALLERS + 1))
    assert told[-1].checked == CALLERS + 1 and not any(each.findings for each in told)
