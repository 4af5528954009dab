"""Inputs and results over 256 KiB: named by their digest, of one tenant, and gone when nobody needs them."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import psycopg
import pytest
import sqlalchemy as sa

from interlock.client import Client
from interlock.common import documents
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2, worker_service_pb2
from interlock_suite.databases import ServiceDatabase
from orchestrator_svc.blobs import Blobs
from orchestrator_svc.store import BlobStore
from orchestrator_svc.store.blobs import SWEEP
from svc_kit.database import Database
from svc_kit.errors import InvalidArgument
from svc_kit.identity import Role
from tests.orchestrator.peers import AGENT, INPUT_SCHEMA, spec
from tests.orchestrator.test_claim_plans import explained, nodes
from tests.orchestrator.world import World, refused, refused_stream, request

LARGE = {"path": "x", "text": "ü" * 1_500_000}
TEXT = json.dumps(LARGE, indent=1)
CANONICAL = json.dumps(LARGE, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sent(data: bytes, digest: str = "") -> Iterator[messages.PutBlobRequest]:
    for chunk in documents.chunks(data):
        yield messages.PutBlobRequest(digest=digest, chunk=chunk)
        digest = ""


async def fetched(stub: Any, digest: str) -> str:
    answers = stub.GetBlob(messages.GetBlobRequest(digest=digest))
    return await documents.gathered((answer.chunk async for answer in answers), named=digest)


def client(world: World, *roles: Role) -> Client:
    token = world.issuer.mint("ada@example.org", "default", roles or (Role.DEVELOPER,), 600)
    return Client({"orchestrator": world.addresses.public}, lambda: token)


async def test_a_large_input_and_a_large_result_just_work_for_the_client(world: World) -> None:
    worker = world.worker()
    async with client(world) as suite, worker.session() as session:
        submitted = await suite.submit(AGENT, TEXT, request_id="7f8a3a1c-0000-4000-8000-000000000001")
        again = await suite.submit(AGENT, TEXT, request_id="7f8a3a1c-0000-4000-8000-000000000001")
        assert again.task_id == submitted.task_id
        claimed = await worker.must_claim(session)
        assert claimed.input_json == "" and claimed.input_blob == documents.digest(CANONICAL)
        request = worker_service_pb2.GetInputBlobRequest(attempt_token=claimed.attempt_token)
        answers = worker.stub.GetInputBlob(request)
        came = await documents.gathered((each.chunk async for each in answers), named=claimed.input_blob)
        assert came.encode() == CANONICAL
        stored = await worker.put_result(claimed, CANONICAL)
        complete = worker_service_pb2.CompleteTaskRequest(
            attempt_token=claimed.attempt_token, result_blob=stored.digest
        )
        await worker.stub.CompleteTask(complete)
        await worker.stub.CompleteTask(complete)
        task = await suite.wait(submitted.task_id)
        assert (task.input_json.encode(), task.result_json.encode()) == (CANONICAL, CANONICAL)
        bare = await world.get(submitted.task_id)
        assert (bare.input_json, bare.result_json, bare.result_blob) == ("", "", stored.digest)
        repeated = await suite.retry(submitted.task_id)
        assert (await suite.get(repeated.task_id)).input_json.encode() == CANONICAL
        await worker.complete(await worker.must_claim(session))


async def test_the_audit_log_is_told_the_digest_of_what_is_too_large_for_it(world: World) -> None:
    async with client(world) as suite:
        task = await suite.submit(AGENT, TEXT)
    prompt, _ = await world.peers.audit.of_task(task.task_id, 2)
    (part,) = prompt.payloads
    assert (part.part, json.loads(part.body)) == ("input_blob", {"digest": documents.digest(CANONICAL)})


@pytest.mark.parametrize(
    ("data", "digest", "field"),
    [
        (b"{", "", "chunk"),
        (b'{"a": 1, "a": 2}', "", "chunk"),
        (b"\xff", "", "chunk"),
        (b"1", documents.digest(b"2"), "digest"),
        (b"1", "sha256:1", "digest"),
        (b'"' + b"x" * documents.MAX_BYTES, "", "chunk"),
    ],
)
async def test_what_is_no_document_or_too_large_is_not_stored(
    world: World, data: bytes, digest: str, field: str
) -> None:
    error = await refused(world.people().PutBlob(sent(data, digest)))
    assert (error.reason, error.violations[0].field) == ("INVALID_FIELDS", field)


async def test_an_input_blob_is_held_to_the_rules_of_every_input(world: World) -> None:
    world.peers.registry.publish("strict", content=spec(input_schema_json=json.dumps(INPUT_SCHEMA)))
    people = world.people()
    missing = documents.digest(b"nobody stored this")
    error = await refused(people.SubmitTask(request(input_blob=missing)))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "BLOB_NOT_FOUND")
    error = await refused(people.SubmitTask(request(input_blob="sha256:x")))
    assert error.violations[0].field == "input_blob"
    for document in (b"[1]", b'{"path": 7}'):
        stored = (await people.PutBlob(sent(document))).digest
        error = await refused(people.SubmitTask(request(agent="strict", input_blob=stored)))
        assert (error.reason, error.violations[0].field) == ("INVALID_FIELDS", "input_blob")


async def test_another_tenants_blob_is_not_there(world: World) -> None:
    stored = (await world.people().PutBlob(sent(CANONICAL))).digest
    assert (await fetched(world.people(Role.VIEWER), stored)).encode() == CANONICAL
    stranger = world.people(tenant="other")
    error = await refused_stream(stranger.GetBlob(messages.GetBlobRequest(digest=stored)))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "BLOB_NOT_FOUND")
    submit = request(input_blob=stored)
    assert (await refused(stranger.SubmitTask(submit))).reason in {"BLOB_NOT_FOUND", "AGENT_NOT_FOUND"}


async def test_a_worker_reads_and_completes_with_blobs_of_its_live_attempt_alone(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        inputs = worker_service_pb2.GetInputBlobRequest(attempt_token=claimed.attempt_token)
        assert (await refused_stream(worker.stub.GetInputBlob(inputs))).reason == "BLOB_NOT_FOUND"
        complete = worker_service_pb2.CompleteTaskRequest(attempt_token=claimed.attempt_token)
        complete.result_blob = documents.digest(b"never stored")
        assert (await refused(worker.stub.CompleteTask(complete))).reason == "BLOB_NOT_FOUND"
        await worker.complete(claimed)
        assert (await refused(worker.put_result(claimed, b"1"))).reason == "STALE_ATTEMPT"
        assert (await refused_stream(worker.stub.GetInputBlob(inputs))).reason == "STALE_ATTEMPT"
    assert (await world.get(task.task_id)).state == task_pb2.TASK_STATE_COMPLETED


async def test_a_tenant_stores_no_more_than_it_may(world: World) -> None:
    async with world.serving(blob_bytes_per_tenant=2**20) as small:
        error = await refused(small.people().PutBlob(sent(json.dumps("x" * 2**20).encode())))
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BLOB_QUOTA")
        stored = await small.people().PutBlob(sent(b'"' + b"x" * 2**19 + b'"'))
        assert await small.people().PutBlob(sent(b'"' + b"x" * 2**19 + b'"')) == stored


async def test_what_no_task_refers_to_goes_after_a_while_and_nothing_else(
    world: World,
) -> None:
    people = world.people()
    kept = (await people.PutBlob(sent(b'{"path":"kept"}'))).digest
    await people.SubmitTask(request(input_blob=kept))
    unused, young = [(await people.PutBlob(sent(each))).digest for each in (b"1", b"2")]
    async with await psycopg.AsyncConnection.connect(world.database.service_url) as connection:
        await connection.execute(
            "UPDATE blob SET use_time = now() - interval '2 hours' WHERE digest = ANY(%s)", [[kept, unused]]
        )
    database = Database(world.database.service_url)
    try:
        store = BlobStore(database)
        assert await store.sweep(grace=3600, limit=10) == 1
        assert await store.touch("default", unused) is None
        assert await store.touch("default", kept) and await store.touch("default", young)
    finally:
        await database.close()


async def test_the_sweep_looks_at_what_is_old_enough_alone(database: ServiceDatabase) -> None:
    opened = Database(database.owner_url)
    fill = """
        INSERT INTO blob (tenant, digest, size, data, use_time)
        SELECT 'default', 'sha256:' || encode(sha256(n::text::bytea), 'hex'), 1, '1'::bytea,
            now() - make_interval(secs => n % 1000)
        FROM generate_series(1, 20000) AS n
    """
    try:
        async with opened.autocommit() as connection:
            await connection.execute(sa.text(fill))
            await connection.execute(sa.text("ANALYZE blob"))
        plan = await explained(opened, SWEEP, {"grace": 990, "limit": 100})
        by_age = [node for node in nodes(plan) if node.get("Index Name") == "blob_use_time"]
        assert by_age and "use_time" in by_age[0]["Index Cond"], [node["Node Type"] for node in nodes(plan)]
    finally:
        await opened.close()


async def test_documents_are_read_in_parts_of_their_own_size() -> None:
    class Stored:
        async def part(self, tenant: str, digest: str, *, at: int, count: int) -> bytes:
            return CANONICAL[at : at + count]

    blobs = Blobs(Stored(), tenant_bytes=0)  # type: ignore[arg-type]
    parts = [part async for part in blobs.read("default", "d")]
    assert b"".join(parts) == CANONICAL and len(parts) == -(-len(CANONICAL) // 2**20)


async def test_senders_that_send_nothing_hold_up_neither_readers_nor_others(world: World) -> None:
    blobs = Blobs(BlobStore(Database(world.settings.database_url)), tenant_bytes=2**30)
    never = asyncio.Event()

    async def silent() -> AsyncIterator[bytes]:
        yield b"["
        await never.wait()

    async def whole() -> AsyncIterator[bytes]:
        yield b'{"a": 1}'

    idle = [asyncio.ensure_future(blobs.put("default", silent())) for _ in range(8)]
    await asyncio.sleep(0)
    stored = await blobs.put("default", whole())
    assert await blobs.value("default", stored.digest) == {"a": 1}
    for each in idle:
        each.cancel()
    await asyncio.gather(*idle, return_exceptions=True)


async def test_an_upload_that_falls_silent_is_ended_with_what_is_wrong(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator_svc.blobs._SILENCE_SECONDS", 0.05)
    blobs = Blobs(BlobStore(Database(world.settings.database_url)), tenant_bytes=2**30)

    async def silent() -> AsyncIterator[bytes]:
        yield b"["
        await asyncio.Event().wait()

    with pytest.raises(InvalidArgument) as refused_upload:
        await blobs.put("default", silent())
    assert "none came for" in refused_upload.value.violations[0].message
