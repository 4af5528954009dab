"""The audit log's RPCs: check, one call, translate."""

import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import grpc

from audit_svc.checkpoints import Checkpoints
from audit_svc.checks import check_batch, check_event, check_size, check_text, check_uuid
from audit_svc.completeness import CompletenessReport
from audit_svc.contents import Contents
from audit_svc.convert import (
    from_appended,
    from_checkpoint,
    from_completeness,
    from_entry,
    from_exported,
    from_finding,
    from_key_change,
    from_part,
    from_proof,
    from_step,
    to_event,
)
from audit_svc.errors import operators_alone
from audit_svc.event import NewEvent
from audit_svc.key_rotation import KeyRotation
from audit_svc.log import AuditLog
from audit_svc.log_verifier import LogVerifier, Progress
from audit_svc.payload_reads import (
    PAYLOAD_READERS,
    PayloadReads,
    reading_tenant,
    require_payload_reader,
)
from audit_svc.search import AuditSearch, Place, names_somebody, read_filter
from audit_svc.signer import CheckpointSigner
from audit_svc.tail import Tail
from audit_svc.task_trail import TaskTrails
from audit_svc.trail import AuditReader, ProvenEntry
from interlock.audit.v1 import audit_service_pb2 as messages
from interlock.audit.v1 import audit_service_pb2_grpc, entry_pb2
from svc_kit.clock import Clock
from svc_kit.errors import Violation, invalid
from svc_kit.identity import SYSTEM_TENANT, Role, acting_tenant, principal
from svc_kit.one_ahead import one_ahead
from svc_kit.paging import Question, decode_page_token, encode_page_token, page_size

NAME = "interlock.audit.v1.AuditService"

_PRODUCERS = frozenset({Role.SERVICE})
_READERS = frozenset({Role.VIEWER, Role.AUDITOR})
ROLES: Mapping[str, frozenset[Role]] = {
    "Append": _PRODUCERS,
    "AppendStream": _PRODUCERS,
    "GetEntry": _READERS,
    "GetPayload": PAYLOAD_READERS,
    "GetAuditTrail": _READERS,
    "SearchEntries": _READERS,
    "TailEntries": _READERS,
    "GetCheckpoint": _READERS,
    "GetInclusionProof": _READERS,
    "GetConsistencyProof": _READERS,
    "ExportLog": frozenset({Role.AUDITOR}),
    "VerifyRange": frozenset({Role.ADMIN, Role.AUDITOR}),
    "GetCompleteness": frozenset({Role.ADMIN, Role.AUDITOR}),
    "GetPublicKeys": frozenset(Role),
    "RotateKey": frozenset({Role.SUPER_ADMIN}),
}

DEFAULT_PAGE = 200

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class AuditServicer(audit_service_pb2_grpc.AuditServiceServicer):
    """Producers come in by the SERVICE role; readers see the log of the tenant they act for."""

    def __init__(
        self,
        *,
        log: AuditLog,
        reader: AuditReader,
        task_trails: TaskTrails,
        search: AuditSearch,
        verifier: LogVerifier,
        checkpoints: Checkpoints,
        reads: PayloadReads,
        contents: Contents,
        tail: Tail,
        completeness: CompletenessReport,
        signer: CheckpointSigner,
        rotation: KeyRotation,
        clock: Clock,
    ) -> None:
        self._log = log
        self._reader = reader
        self._task_trails = task_trails
        self._search = search
        self._verifier = verifier
        self._checkpoints = checkpoints
        self._reads = reads
        self._contents = contents
        self._tail = tail
        self._completeness = completeness
        self._signer = signer
        self._rotation = rotation
        self._clock = clock

    async def Append(self, request: messages.AppendRequest, context: Context) -> messages.AppendResponse:
        _require(check_event(request.event, now=self._clock.now()))
        producer = _producer_for([request.event])
        appended = await self._log.append(to_event(request.event, producer=producer))
        answer = from_appended(appended)
        if request.want_receipt:
            # Nothing is signed that is not committed: the checkpoint is read again, now that it is.
            proof, signed = await self._reader.receipt(request.event.tenant, appended.index)
            size = signed.checkpoint.size
            answer.proof.CopyFrom(
                entry_pb2.InclusionProof(index=appended.index, tree_size=size, hashes=proof)
            )
            answer.checkpoint.CopyFrom(from_checkpoint(signed))
        return answer

    async def AppendStream(
        self, request_iterator: AsyncIterator[messages.AppendStreamRequest], context: Context
    ) -> AsyncIterator[messages.AppendStreamResponse]:
        # One batch after the other: a batch that overtook another would break the producers' order. While one
        # is written the next is read and checked.
        async for batch in one_ahead(self._batches(request_iterator)):
            appended = await self._log.append_batch(batch)
            yield messages.AppendStreamResponse(appended=map(from_appended, appended))

    async def _batches(
        self, requests: AsyncIterator[messages.AppendStreamRequest]
    ) -> AsyncIterator[tuple[NewEvent, ...]]:
        async for request in requests:
            _require(check_batch(request.events, now=self._clock.now()))
            producer = _producer_for(request.events)
            yield tuple(to_event(event, producer=producer) for event in request.events)

    async def GetEntry(
        self, request: messages.GetEntryRequest, context: Context
    ) -> messages.GetEntryResponse:
        _require(check_uuid(request.event_id, "event_id"))
        tenant = reading_tenant(payloads=request.include_payloads, reason=request.reason)
        proven, signed = await self._reader.entry(
            tenant, uuid.UUID(request.event_id), with_bodies=request.include_payloads
        )
        await self._record_read(tenant, [proven], {"event_id": request.event_id}, request.reason)
        return messages.GetEntryResponse(
            entry=from_entry(proven.entry),
            proof=from_proof(proven, signed),
            checkpoint=from_checkpoint(signed),
        )

    async def GetPayload(
        self, request: messages.GetPayloadRequest, context: Context
    ) -> messages.GetPayloadResponse:
        _require(check_uuid(request.event_id, "event_id"))
        tenant = reading_tenant(payloads=True, reason=request.reason)
        entry, part = await self._contents.find(tenant, uuid.UUID(request.event_id), request.part)
        told = {"event_id": request.event_id, "part": request.part, "parts": "1"}
        await self._reads.record(
            tenant=tenant, reader=principal().subject, attributes=told, reason=request.reason
        )
        return messages.GetPayloadResponse(payload=from_part(part), index=entry.index)

    async def GetAuditTrail(
        self, request: messages.GetAuditTrailRequest, context: Context
    ) -> messages.GetAuditTrailResponse:
        _require(check_uuid(request.task_id, "task_id"))
        tenant = reading_tenant(payloads=request.include_payloads, reason=request.reason)
        if request.as_steps:
            return await self._steps(request, tenant)
        task_id = uuid.UUID(request.task_id)
        # Pages after the first are proven against its checkpoint, whatever was appended since.
        question = Question(method="GetAuditTrail", tenant=tenant, filter=str(task_id))
        begin, size = decode_page_token(request.page_token, question, (int, int)) or (0, 0)
        page = await self._reader.trail(
            tenant,
            task_id,
            limit=page_size(request.page_size, default=DEFAULT_PAGE),
            begin=begin,
            size=size,
            with_bodies=request.include_payloads,
        )
        await self._record_read(tenant, page.entries, {"task_id": request.task_id}, request.reason)
        next_page = ""
        if page.next_index is not None:
            next_page = encode_page_token([page.next_index, page.checkpoint.checkpoint.size], question)
        return messages.GetAuditTrailResponse(
            entries=[from_entry(proven.entry) for proven in page.entries],
            proofs=[from_proof(proven, page.checkpoint) for proven in page.entries],
            checkpoint=from_checkpoint(page.checkpoint),
            next_page_token=next_page,
        )

    async def _steps(
        self, request: messages.GetAuditTrailRequest, tenant: str
    ) -> messages.GetAuditTrailResponse:
        if request.include_payloads or request.page_token:
            field = "include_payloads" if request.include_payloads else "page_token"
            raise invalid([Violation(field, "is not told with as_steps: ask for entries without it")])
        told = await self._task_trails.read(tenant, uuid.UUID(request.task_id))
        return messages.GetAuditTrailResponse(
            checkpoint=from_checkpoint(told.checkpoint),
            steps=map(from_step, told.steps),
            findings=map(from_finding, told.findings),
            steps_complete=told.complete,
        )

    async def SearchEntries(
        self, request: messages.SearchEntriesRequest, context: Context
    ) -> messages.SearchEntriesResponse:
        conditions = read_filter(request.filter)
        _require(check_text(request.text))
        # Who may ask for words may read: by asking for one after the other.
        reads = request.include_payloads or bool(request.text)
        tenant = reading_tenant(payloads=reads, reason=request.reason)
        if names_somebody(conditions):
            require_payload_reader()
        asked = {"filter": request.filter, "text": request.text}
        question = Question(method="SearchEntries", tenant=tenant, filter=json.dumps(asked))
        told = decode_page_token(request.page_token, question, (datetime, int, int))
        page = await self._search.page(
            tenant,
            conditions,
            text=request.text,
            after=Place(told[0], told[1]) if told else None,
            size=told[2] if told else 0,
            limit=page_size(request.page_size),
            with_bodies=request.include_payloads,
            with_proofs=request.include_proofs,
        )
        if reads:
            counted = {"entries": str(len(page.entries))}
            await self._record_read(tenant, page.entries, counted, request.reason, search=asked)
        size, token = page.checkpoint.checkpoint.size, ""
        if page.next_place is not None:
            token = encode_page_token([*page.next_place, size], question)
        proven = page.entries if request.include_proofs else ()
        return messages.SearchEntriesResponse(
            entries=[from_entry(each.entry) for each in page.entries],
            proofs=[from_proof(each, page.checkpoint) for each in proven],
            checkpoint=from_checkpoint(page.checkpoint),
            next_page_token=token,
            text_size=page.text_size,
        )

    async def TailEntries(
        self, request: messages.TailEntriesRequest, context: Context
    ) -> AsyncIterator[messages.TailEntriesResponse]:
        _require(check_size(request.begin, "begin"))
        conditions = read_filter(request.filter)
        if names_somebody(conditions):
            require_payload_reader()
        following = self._tail.follow(
            acting_tenant(), conditions, begin=request.begin, from_now=request.from_now
        )
        async for told in following:
            message = messages.TailEntriesResponse(
                entries=map(from_entry, told.entries), next_index=told.next_index
            )
            if told.checkpoint is not None:
                message.checkpoint.CopyFrom(from_checkpoint(told.checkpoint))
            yield message

    async def GetCheckpoint(
        self, request: messages.GetCheckpointRequest, context: Context
    ) -> messages.GetCheckpointResponse:
        signed = await self._checkpoints.newest(acting_tenant())
        return messages.GetCheckpointResponse(checkpoint=from_checkpoint(signed))

    async def GetInclusionProof(
        self, request: messages.GetInclusionProofRequest, context: Context
    ) -> messages.GetInclusionProofResponse:
        _require(check_size(request.index, "index") + check_size(request.tree_size, "tree_size"))
        leaf, size, proof = await self._reader.inclusion(acting_tenant(), request.index, request.tree_size)
        return messages.GetInclusionProofResponse(
            proof=entry_pb2.InclusionProof(index=request.index, tree_size=size, hashes=proof), leaf_hash=leaf
        )

    async def GetConsistencyProof(
        self, request: messages.GetConsistencyProofRequest, context: Context
    ) -> messages.GetConsistencyProofResponse:
        _require(
            check_size(request.first_tree_size, "first_tree_size", at_least=1)
            + check_size(request.second_tree_size, "second_tree_size")
        )
        size, proof = await self._reader.consistency(
            acting_tenant(), request.first_tree_size, request.second_tree_size
        )
        return messages.GetConsistencyProofResponse(
            first_tree_size=request.first_tree_size, second_tree_size=size, hashes=proof
        )

    async def VerifyRange(
        self, request: messages.VerifyRangeRequest, context: Context
    ) -> AsyncIterator[messages.VerifyRangeResponse]:
        _require(check_size(request.begin, "begin") + check_size(request.end, "end"))
        if request.end and request.begin >= request.end:
            raise invalid([Violation("end", "must be behind begin, or 0")])
        checked = total = 0
        async for told in self._verifier.run(acting_tenant(), begin=request.begin, end=request.end):
            message = messages.VerifyRangeResponse(findings=map(from_finding, told.findings))
            if isinstance(told, Progress):
                checked, total = told.checked, told.total
            else:
                message.checkpoint.CopyFrom(from_checkpoint(told.checkpoint))
                message.root_checked, message.complete = told.root_checked, told.complete
            message.checked, message.total = checked, total
            yield message

    async def ExportLog(
        self, request: messages.ExportLogRequest, context: Context
    ) -> AsyncIterator[messages.ExportLogResponse]:
        tenant = reading_tenant(payloads=request.include_payloads, reason=request.reason)
        begin = request.begin
        signed = await self._checkpoints.newest(tenant)
        if not 0 <= begin <= signed.checkpoint.size:
            _require([Violation("begin", f"must be between 0 and {signed.checkpoint.size}")])
        if request.include_payloads and begin < signed.checkpoint.size:
            # Before the first of them leaves: how many there are is known only when all have been read.
            told = {"export": "log", "entries": str(signed.checkpoint.size - begin)}
            await self._reads.record(
                tenant=tenant, reader=principal().subject, attributes=told, reason=request.reason
            )
        while begin < signed.checkpoint.size:
            page = await self._reader.between(
                tenant, begin, signed.checkpoint.size, with_bodies=request.include_payloads
            )
            yield messages.ExportLogResponse(entries=map(from_exported, page))
            begin += len(page)
        yield messages.ExportLogResponse(checkpoint=from_checkpoint(signed))

    async def GetCompleteness(
        self, request: messages.GetCompletenessRequest, context: Context
    ) -> messages.GetCompletenessResponse:
        numbers = acting_tenant() == SYSTEM_TENANT
        found = await self._completeness.all()
        return messages.GetCompletenessResponse(
            producers=[from_completeness(each, numbers=numbers) for each in found]
        )

    async def GetPublicKeys(
        self, request: messages.GetPublicKeysRequest, context: Context
    ) -> messages.GetPublicKeysResponse:
        tenant = acting_tenant()
        return messages.GetPublicKeysResponse(
            keys=self._signer.public(),
            verifier_key=str(await self._checkpoints.current_key(tenant)),
            changes=map(from_key_change, await self._rotation.changes(tenant)),
        )

    async def RotateKey(
        self, request: messages.RotateKeyRequest, context: Context
    ) -> messages.RotateKeyResponse:
        if acting_tenant() != SYSTEM_TENANT:
            raise operators_alone()
        number, logs = await self._rotation.rotate(principal().subject)
        return messages.RotateKeyResponse(number=number, logs=logs)

    async def _record_read(
        self,
        tenant: str,
        entries: Sequence[ProvenEntry],
        attributes: Mapping[str, str],
        reason: str,
        *,
        search: Mapping[str, str] | None = None,
    ) -> None:
        bodies = sum(1 for proven in entries for part in proven.entry.parts if part.salt)
        if bodies or (search is not None and search["text"]):
            counted = {**attributes, "parts": str(bodies)}
            reader = principal().subject
            await self._reads.record(
                tenant=tenant, reader=reader, attributes=counted, reason=reason, search=search
            )


def _require(violations: Sequence[Violation]) -> None:
    if violations:
        raise invalid(violations)


def _producer_for(events: Sequence[entry_pb2.Event]) -> str:
    """The caller's subject, if it may append to the logs of all these tenants."""
    for tenant in {event.tenant for event in events}:
        acting_tenant(tenant)
    return principal().subject
