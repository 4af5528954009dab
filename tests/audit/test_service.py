"""The audit service at its doors: real interceptors, real database."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from audit_svc.archive import FileArchive
from interlock.audit.v1 import audit_service_pb2 as messages
from interlock.audit.v1.entry_pb2 import EntryType
from interlock.client.audit_sink import AuditSink
from interlock.verify import open_checkpoint, verify_consistency, verify_inclusion, verify_trail
from svc_kit.clients import channel
from svc_kit.clock import SystemClock
from svc_kit.identity import SYSTEM_TENANT, Role
from svc_kit.ids import uuid7
from svc_kit.status import from_rpc_error
from tests.audit.served import ORIGIN, TASK, Served, append, event, pinned_key, prompt, read_trail, refusal


async def test_a_task_s_trail_verifies_offline(audit: Served) -> None:
    async with audit.producer("orchestrator") as orchestrator, audit.producer("gateway") as gateway:
        for producer, kind in ((orchestrator, "PROMPT"), (gateway, "TOOL_CALL"), (gateway, "TOOL_RESULT")):
            await append(producer, event(type=f"ENTRY_TYPE_{kind}"))
            await append(producer, event(task_id=str(uuid7())))
    async with audit.reader(Role.DEVELOPER) as stub:
        trail = await read_trail(stub, page_size=2)
    report = verify_trail(trail, key=await pinned_key(audit))
    assert report.ok, report.findings
    assert (report.entries_included, report.parts_matched) == (3, 3)
    leaves = [json.loads(entry.leaf) for entry in trail.entries]
    assert [leaf["type"] for leaf in leaves] == ["PROMPT", "TOOL_CALL", "TOOL_RESULT"]
    assert [leaf["producer"] for leaf in leaves] == ["orchestrator", "gateway", "gateway"]


async def test_an_acknowledgement_names_the_place_in_the_tree(audit: Served) -> None:
    made = event()
    async with audit.producer() as stub:
        await append(stub, event())
        first, again = await append(stub, made), await append(stub, made)
    assert (first.index, first.tree_size, first.already_existed) == (1, 2, False)
    assert (again.index, again.leaf_hash, again.already_existed) == (1, first.leaf_hash, True)


async def test_proofs_and_checkpoints_fit_together(audit: Served) -> None:
    async with audit.producer() as producer, audit.reader(Role.AUDITOR) as auditor:
        appended = [await append(producer, event()) for _ in range(5)]
        key = await pinned_key(audit)
        older = open_checkpoint(
            (await auditor.GetCheckpoint(messages.GetCheckpointRequest())).checkpoint.note, key=key
        )
        await append(producer, event())
        entry = await auditor.GetEntry(messages.GetEntryRequest(event_id=await newest_event_id(producer)))
        newer = open_checkpoint(entry.checkpoint.note, key=key)
        inclusion = await auditor.GetInclusionProof(
            messages.GetInclusionProofRequest(index=3, tree_size=older.size)
        )
        consistency = await auditor.GetConsistencyProof(
            messages.GetConsistencyProofRequest(first_tree_size=older.size, second_tree_size=newer.size)
        )
    assert (older.size, inclusion.leaf_hash) == (5, appended[3].leaf_hash)
    verify_inclusion(
        leaf=appended[3].leaf_hash, index=3, size=5, proof=list(inclusion.proof.hashes), root=older.root
    )
    verify_consistency(
        old_size=older.size,
        old_root=older.root,
        new_size=newer.size,
        new_root=newer.root,
        proof=list(consistency.hashes),
    )


async def newest_event_id(producer: Any) -> str:
    made = event()
    await append(producer, made)
    return made.event_id


async def test_the_checkpoint_folder_follows_within_a_second_without_being_asked(
    audit: Served, tmp_path: Path
) -> None:
    archive, clock = FileArchive(tmp_path / "checkpoints"), SystemClock()
    key = await pinned_key(audit)
    async with audit.producer() as producer:
        for size in range(1, 4):
            await append(producer, event())
            deadline = clock.monotonic() + 5
            while True:
                note = await archive.latest(f"{ORIGIN}/default")
                if note is not None and open_checkpoint(note, key=key).size == size:
                    break
                assert clock.monotonic() < deadline, "no checkpoint was archived"
                await asyncio.sleep(0.05)


async def test_nothing_is_appended_through_the_public_door(audit: Served) -> None:
    async with audit.caller(audit.addresses.public, [Role.SERVICE], SYSTEM_TENANT, "gateway") as stub:
        refused = await refusal(append(stub, event()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "INTERNAL_DOOR")


@pytest.mark.parametrize("role", sorted(set(Role) - {Role.SERVICE}))
async def test_only_services_append(audit: Served, role: Role) -> None:
    async with audit.caller(audit.addresses.internal, [role], "default", "someone") as stub:
        assert (await refusal(append(stub, event()))).reason == "ROLE_REQUIRED"


@pytest.mark.parametrize("role", [Role.SERVICE, Role.WORKER, Role.SUBMITTER])
async def test_who_writes_does_not_read(audit: Served, role: Role) -> None:
    tenant = SYSTEM_TENANT if role is Role.SERVICE else "default"
    async with audit.reader(role, tenant=tenant) as stub:
        refused = await refusal(stub.GetAuditTrail(messages.GetAuditTrailRequest(task_id=TASK)))
    assert refused.reason == "ROLE_REQUIRED"


async def test_a_service_of_one_tenant_does_not_append_to_another(audit: Served) -> None:
    async with audit.producer(tenant="blue") as stub:
        refused = await refusal(append(stub, event(tenant="green")))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


async def test_a_reader_sees_the_log_of_its_own_tenant_alone(audit: Served) -> None:
    made = event(tenant="blue")
    async with audit.producer() as producer:
        await append(producer, made)
    for tenant in ("green", SYSTEM_TENANT):
        async with audit.reader(Role.SUPER_ADMIN, Role.AUDITOR, tenant=tenant) as stub:
            refused = await refusal(stub.GetEntry(messages.GetEntryRequest(event_id=made.event_id)))
            assert refused.reason == "ENTRY_NOT_FOUND"
            assert (await read_trail(stub)).entries == ()
    async with audit.reader(Role.VIEWER, tenant="blue") as stub:
        assert len((await read_trail(stub, include_payloads=False)).entries) == 1


READS: list[tuple[str, Any]] = [
    ("GetEntry", messages.GetEntryRequest(event_id="01900000-0000-7000-8000-00000000000a")),
    ("GetAuditTrail", messages.GetAuditTrailRequest(task_id=TASK)),
    ("GetCheckpoint", messages.GetCheckpointRequest()),
    ("GetInclusionProof", messages.GetInclusionProofRequest(index=0)),
    ("GetConsistencyProof", messages.GetConsistencyProofRequest(first_tree_size=1)),
    ("GetPublicKeys", messages.GetPublicKeysRequest()),
]


@pytest.mark.parametrize(("method", "request_"), READS, ids=[method for method, _ in READS])
async def test_a_reader_that_names_another_tenant_is_refused_by_every_read(
    audit: Served, method: str, request_: Any
) -> None:
    async with audit.reader(Role.SUPER_ADMIN, Role.AUDITOR, tenant="green") as stub:
        call = getattr(stub, method)(request_, metadata=(("x-interlock-tenant", "blue"),))
        refused = await refusal(call)
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "TENANT_FORBIDDEN")


async def test_an_operator_of_all_tenants_reads_the_log_of_the_tenant_it_names(audit: Served) -> None:
    made = event(tenant="blue")
    async with audit.producer() as producer:
        await append(producer, made)
    in_blue = (("x-interlock-tenant", "blue"),)
    async with audit.reader(Role.SUPER_ADMIN, tenant=SYSTEM_TENANT) as stub:
        request = messages.GetAuditTrailRequest(task_id=TASK)
        assert len((await stub.GetAuditTrail(request, metadata=in_blue)).entries) == 1
        key = (await stub.GetPublicKeys(messages.GetPublicKeysRequest(), metadata=in_blue)).verifier_key
    assert key.startswith(f"{ORIGIN}/blue+")


async def test_a_viewer_sees_entries_and_proofs_but_no_payload(audit: Served) -> None:
    async with audit.producer() as producer:
        await append(producer, event())
    async with audit.reader(Role.VIEWER) as stub:
        page = await stub.GetAuditTrail(messages.GetAuditTrailRequest(task_id=TASK))
        (payload,) = page.entries[0].payloads
        assert (payload.part, payload.present, payload.body, payload.salt) == ("input", True, b"", b"")
        for call in (
            stub.GetAuditTrail(messages.GetAuditTrailRequest(task_id=TASK, include_payloads=True)),
            stub.GetEntry(messages.GetEntryRequest(event_id=page.entries[0].event_id, include_payloads=True)),
        ):
            refused = await refusal(call)
            assert (refused.reason, refused.metadata["needs"]) == ("ROLE_REQUIRED", "DEVELOPER,AUDITOR")
        report = verify_trail(await read_trail(stub, include_payloads=False), key=await pinned_key(audit))
    assert report.ok and (report.entries_included, report.parts_withheld) == (1, 1)


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.DEVELOPER])
async def test_reading_payloads_is_itself_recorded(audit: Served, role: Role) -> None:
    async with audit.producer() as producer, audit.reader(role) as stub:
        await append(producer, event())
        assert verify_trail(await read_trail(stub), key=await pinned_key(audit)).parts_matched == 1
        newest = await stub.GetInclusionProof(messages.GetInclusionProofRequest(index=1))
        assert newest.proof.tree_size == 2
        # The trail of the task holds what the task did, not who looked at it.
        assert len((await read_trail(stub, include_payloads=False)).entries) == 1


BAD_EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("event.event_id", {"event_id": ""}),
    ("event.event_id", {"event_id": "00000000-0000-4000-8000-000000000000"}),
    ("event.event_id", {"event_id": "7fffffff-0000-7000-8000-000000000000"}),
    ("event.tenant", {"tenant": ""}),
    ("event.tenant", {"tenant": "no tenant"}),
    ("event.type", {"type": 0}),
    ("event.type", {"type": 999}),
    ("event.event_time", {"event_time": None}),
    ("event.event_time", {"event_time": Timestamp(seconds=-1)}),
    ("event.event_time", {"event_time": Timestamp(seconds=2**40)}),
    ("event.producer_sequence", {"producer_sequence": -1}),
    ("event.attempt", {"attempt": -1}),
    ("event.task_id", {"task_id": "task-1"}),
    ("event.actor", {"actor": "x" * 257}),
    ("event.agent", {"agent": "a\x00b"}),
    ("event.status", {"status": "completed"}),
    ("event.reason", {"reason": "because I say so"}),
    ("event.trace_id", {"trace_id": "abc"}),
    ("event.span_id", {"span_id": "G" * 16}),
    ("event.attributes", {"attributes": {f"k{i}": "" for i in range(33)}}),
    ("event.attributes", {"attributes": {"Key": ""}}),
    ("event.attributes.key", {"attributes": {"key": "x" * 513}}),
    ("event.payloads", {"payloads": [prompt(part=f"p{i}") for i in range(9)]}),
    ("event.payloads[0].part", {"payloads": [prompt(part="In Put")]}),
    ("event.payloads[1].part", {"payloads": [prompt(), prompt()]}),
    ("event.payloads[0].content_type", {"payloads": [prompt(content_type="json")]}),
    ("event.payloads[0].body", {"payloads": [prompt(body=bytes(2**20 + 1))]}),
]


@pytest.mark.parametrize(("field", "change"), BAD_EVENTS)
async def test_a_bad_event_is_refused_by_the_name_of_its_field(
    audit: Served, field: str, change: dict[str, Any]
) -> None:
    async with audit.producer() as stub:
        refused = await refusal(append(stub, event(**change)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert field in {violation.field for violation in refused.violations}


async def test_all_that_is_wrong_with_an_event_is_said_at_once(audit: Served) -> None:
    async with audit.producer() as stub:
        refused = await refusal(append(stub, event(event_id="x", tenant="", status="bad")))
    assert {v.field for v in refused.violations} == {"event.event_id", "event.tenant", "event.status"}


async def test_a_producer_whose_clock_runs_ahead_is_told_so(audit: Served) -> None:
    ahead = Timestamp()
    ahead.FromDatetime(SystemClock().now() + timedelta(minutes=6))
    async with audit.producer() as stub:
        refused = await refusal(append(stub, event(event_time=ahead)))
    assert "clock" in refused.message


async def test_bad_questions_are_refused_by_the_name_of_their_field(audit: Served) -> None:
    async with audit.producer() as producer:
        await append(producer, event())
    async with audit.reader(Role.VIEWER) as stub:
        for field, call in (
            ("event_id", stub.GetEntry(messages.GetEntryRequest(event_id="x"))),
            ("task_id", stub.GetAuditTrail(messages.GetAuditTrailRequest(task_id="x"))),
            ("page_size", stub.GetAuditTrail(messages.GetAuditTrailRequest(task_id=TASK, page_size=-1))),
            ("page_token", stub.GetAuditTrail(messages.GetAuditTrailRequest(task_id=TASK, page_token="x"))),
            ("index", stub.GetInclusionProof(messages.GetInclusionProofRequest(index=-1))),
            ("tree_size", stub.GetInclusionProof(messages.GetInclusionProofRequest(tree_size=2))),
            ("first_tree_size", stub.GetConsistencyProof(messages.GetConsistencyProofRequest())),
            (
                "second_tree_size",
                stub.GetConsistencyProof(
                    messages.GetConsistencyProofRequest(first_tree_size=1, second_tree_size=9)
                ),
            ),
        ):
            refused = await refusal(call)
            assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
            assert [violation.field for violation in refused.violations] == [field]


async def test_a_page_token_of_another_task_is_refused(audit: Served) -> None:
    async with audit.producer() as producer, audit.reader(Role.VIEWER) as stub:
        for _ in range(2):
            await append(producer, event())
        page = await stub.GetAuditTrail(messages.GetAuditTrailRequest(task_id=TASK, page_size=1))
        assert page.next_page_token
        other = messages.GetAuditTrailRequest(task_id=str(uuid7()), page_token=page.next_page_token)
        assert (await refusal(stub.GetAuditTrail(other))).reason == "PAGE_TOKEN_INVALID"


async def test_a_stream_acknowledges_each_batch_in_the_order_sent(audit: Served) -> None:
    batches = [[event() for _ in range(size)] for size in (3, 1, 40)]
    async with audit.producer() as stub:
        stream = stub.AppendStream(messages.AppendStreamRequest(events=batch) for batch in batches)
        answers = [answer async for answer in stream]
    assert [[a.index for a in answer.appended] for answer in answers] == [
        [0, 1, 2],
        [3],
        list(range(4, 44)),
    ]


async def test_a_bad_batch_ends_the_stream_whole_and_what_was_acknowledged_stays(audit: Served) -> None:
    good, bad = [event(), event()], [event(), event(tenant="")]
    async with audit.producer() as stub:
        stream = stub.AppendStream(messages.AppendStreamRequest(events=batch) for batch in (good, bad))
        assert len((await anext(aiter(stream))).appended) == 2
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stream:
                pass
    refused = from_rpc_error(caught.value)
    assert [violation.field for violation in refused.violations] == ["events[1].tenant"]
    async with audit.reader(Role.VIEWER) as stub:
        assert len((await read_trail(stub, include_payloads=False)).entries) == 2


async def test_one_content_is_read_with_a_reason_that_the_log_keeps(audit: Served) -> None:
    made = event()
    async with audit.producer() as producer, audit.reader(Role.AUDITOR) as stub:
        await append(producer, made)
        request = messages.GetPayloadRequest(event_id=made.event_id, part="input", reason="complaint 17")
        read = await stub.GetPayload(request)
        assert (read.index, read.payload.body) == (0, made.payloads[0].body)
        told = await stub.SearchEntries(
            messages.SearchEntriesRequest(filter='type = "PAYLOAD_READ"', include_payloads=True, reason="x")
        )
        (entry,) = told.entries
        assert json.loads(entry.leaf)["attributes"]["part"] == "input"
        assert [(part.part, part.body) for part in entry.payloads] == [("reason", b"complaint 17")]
        for changes, reason in (
            ({"part": "never"}, "ENTRY_NOT_FOUND"),
            ({"event_id": TASK}, "ENTRY_NOT_FOUND"),
            ({"event_id": "x"}, "INVALID_FIELDS"),
            ({"reason": ""}, "INVALID_FIELDS"),
            ({"reason": "x" * 2001}, "INVALID_FIELDS"),
        ):
            bad = messages.GetPayloadRequest()
            bad.CopyFrom(request)
            bad.MergeFrom(messages.GetPayloadRequest(**changes))
            if changes == {"reason": ""}:
                bad.reason = ""
            assert (await refusal(stub.GetPayload(bad))).reason == reason
    async with audit.reader(Role.DEVELOPER) as stub:
        request.reason = ""
        assert (await stub.GetPayload(request)).payload.body == made.payloads[0].body
    async with audit.reader(Role.VIEWER) as stub:
        assert (await refusal(stub.GetPayload(request))).reason == "ROLE_REQUIRED"


async def test_a_receipt_in_the_answer_proves_the_entry_by_itself(audit: Served) -> None:
    key = await pinned_key(audit)
    async with audit.producer() as stub:
        made = [event() for _ in range(20)]
        requests = [messages.AppendRequest(event=each, want_receipt=True) for each in made]
        answers = await asyncio.gather(*(stub.Append(request) for request in requests))
        again = await stub.Append(requests[0])
        assert not (await append(stub, event())).HasField("checkpoint")
    assert again.already_existed
    for answer in (*answers, again):
        checkpoint = open_checkpoint(answer.checkpoint.note, key=key)
        assert answer.proof.index == answer.index and answer.proof.tree_size == checkpoint.size
        verify_inclusion(
            leaf=answer.leaf_hash,
            index=answer.index,
            size=checkpoint.size,
            proof=list(answer.proof.hashes),
            root=checkpoint.root,
        )


async def test_what_explains_a_gap_is_written_by_the_log_alone(audit: Served) -> None:
    async with audit.producer() as stub:
        for name in ("ERASURE", "RETENTION", "HOLD", "KEY_ROTATION"):
            refused = await refusal(append(stub, event(type=EntryType.Value(f"ENTRY_TYPE_{name}"))))
            assert [violation.field for violation in refused.violations] == ["event.type"]


async def test_batches_beyond_their_bounds_are_refused(audit: Served) -> None:
    large = prompt(body=bytes(2**20 - 1024))
    for events in ([], [event() for _ in range(513)], [event(payloads=[large]) for _ in range(3)]):
        async with audit.producer() as stub:
            stream = stub.AppendStream(iter([messages.AppendStreamRequest(events=events)]))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in stream:
                    pass
        assert [v.field for v in from_rpc_error(caught.value).violations] == ["events"]


async def test_the_producers_sink_delivers_and_delivers_again(audit: Served) -> None:
    token = audit.issuer.mint("registry", SYSTEM_TENANT, [Role.SERVICE], ttl=600)
    events = [event(producer_sequence=i + 1, payloads=[]) for i in range(600)]
    async with channel(audit.addresses.internal, lambda: token) as opened:
        sink = AuditSink(opened)
        await sink.deliver(events[:400])
        await sink.deliver(events)
        await sink.close()
    async with audit.reader(Role.VIEWER) as stub:
        trail = await read_trail(stub, include_payloads=False)
    sequences = [json.loads(entry.leaf)["pseq"] for entry in trail.entries]
    assert sequences == list(range(1, 601))
