"""Between the contract's messages and the log's values; nothing is decided here."""

import contextlib
import uuid
from collections.abc import Iterator

from google.protobuf.timestamp_pb2 import Timestamp

from audit_svc.checkpoints import SignedCheckpoint
from audit_svc.completeness import Completeness
from audit_svc.event import Appended, NewEvent, Part, RemovedEntry, StoredEntry, StoredPart
from audit_svc.key_rotation import ToldChange
from audit_svc.task_steps import ProofState, Step, TrailEntry
from audit_svc.trail import ProvenEntry
from audit_svc.verification import Finding
from interlock.audit.v1 import audit_service_pb2, entry_pb2
from interlock.verify.entry import EntryError, parse_leaf

_TYPE_PREFIX = "ENTRY_TYPE_"
_TYPES = {name.removeprefix(_TYPE_PREFIX): value for name, value in entry_pb2.EntryType.items()}


def to_event(event: entry_pb2.Event, *, producer: str) -> NewEvent:
    """A checked message as an event of `producer`, whose name comes from its token."""
    return NewEvent(
        event_id=uuid.UUID(event.event_id),
        tenant=event.tenant,
        producer=producer,
        type=entry_pb2.EntryType.Name(event.type).removeprefix(_TYPE_PREFIX),
        event_time=event.event_time.ToNanoseconds(),
        producer_sequence=event.producer_sequence,
        actor=event.actor,
        agent=event.agent,
        agent_version=event.agent_version,
        task_id=uuid.UUID(event.task_id) if event.task_id else None,
        attempt=event.attempt,
        step_key=event.step_key,
        tool=event.tool,
        call_id=event.call_id,
        status=event.status,
        reason=event.reason,
        trace_id=event.trace_id,
        span_id=event.span_id,
        attributes=dict(event.attributes),
        parts=tuple(
            Part(name=payload.part, content_type=payload.content_type, body=payload.body)
            for payload in event.payloads
        ),
    )


def from_appended(appended: Appended) -> audit_service_pb2.AppendResponse:
    """An acknowledgement."""
    return audit_service_pb2.AppendResponse(
        index=appended.index,
        leaf_hash=appended.leaf_hash,
        tree_size=appended.tree_size,
        already_existed=appended.already_existed,
    )


def from_entry(entry: StoredEntry) -> entry_pb2.Entry:
    """An entry with the parts that its leaf commits to, also those that are stored no more."""
    recorded = Timestamp()
    recorded.FromDatetime(entry.recorded_time)
    return entry_pb2.Entry(
        event_id=str(entry.event_id),
        index=entry.index,
        leaf=entry.leaf,
        recorded_time=recorded,
        payloads=[from_part(part) for part in _all_parts(entry)],
    )


def from_exported(entry: StoredEntry | RemovedEntry) -> entry_pb2.Entry:
    """An entry, or what is left of one that was removed."""
    if isinstance(entry, StoredEntry):
        return from_entry(entry)
    return entry_pb2.Entry(index=entry.index, removed_leaf_hash=entry.leaf_hash)


def from_part(part: StoredPart) -> entry_pb2.StoredPayload:
    """One content, as far as it is stored and was read."""
    return entry_pb2.StoredPayload(
        part=part.name,
        content_type=part.content_type,
        salt=part.salt,
        body=part.body,
        present=part.present,
    )


def from_proof(proven: ProvenEntry, signed: SignedCheckpoint) -> entry_pb2.InclusionProof:
    """The proof of one entry against a checkpoint."""
    return entry_pb2.InclusionProof(
        index=proven.entry.index, tree_size=signed.checkpoint.size, hashes=proven.proof
    )


def from_finding(finding: Finding) -> audit_service_pb2.LogFinding:
    """One thing that is wrong with a log."""
    return audit_service_pb2.LogFinding(
        index=finding.index,
        flaw=audit_service_pb2.LogFlaw.Value(f"LOG_FLAW_{finding.flaw}"),
        message=finding.message,
    )


def from_step(step: Step) -> audit_service_pb2.TrailStep:
    """One step of what a task did."""
    message = audit_service_pb2.TrailStep(
        step_id=step.step_id,
        parent_id=step.parent_id,
        kind=audit_service_pb2.TrailStepKind.Value(f"TRAIL_STEP_KIND_{step.kind}"),
        attempt=step.attempt,
        step_key=step.step_key,
        call_id=step.call_id,
        tool=step.tool,
        status=step.status,
        reason=step.reason,
        proof_state=_proof_state(step.state),
        entries=map(_step_entry, step.entries),
    )
    _set_time(message.begin_time, step.begin_time)
    _set_time(message.end_time, step.end_time)
    return message


def _step_entry(entry: TrailEntry) -> audit_service_pb2.TrailStepEntry:
    message = audit_service_pb2.TrailStepEntry(
        index=entry.index,
        event_id=entry.leaf.event_id,
        type=_TYPES.get(entry.leaf.type, entry_pb2.ENTRY_TYPE_UNSPECIFIED),
        status=entry.text("status"),
        proof_state=_proof_state(entry.state),
    )
    _set_time(message.event_time, entry.text("event_time"))
    return message


def _proof_state(state: ProofState) -> audit_service_pb2.ProofState.ValueType:
    return audit_service_pb2.ProofState.Value(f"PROOF_STATE_{state.name}")


def _set_time(message: Timestamp, text: str) -> None:
    """As a leaf has it; one that has none stays without."""
    with contextlib.suppress(ValueError):
        message.FromJsonString(text)


def from_key_change(told: ToldChange) -> audit_service_pb2.KeyChange:
    """A change of a log's key."""
    return audit_service_pb2.KeyChange(
        index=told.change.leaf_index,
        event_id=str(told.change.event_id),
        old_key=str(told.old),
        new_key=str(told.new),
    )


def from_completeness(found: Completeness, *, numbers: bool) -> audit_service_pb2.ProducerCompleteness:
    """What is there of a producer; without `numbers` only how many are missing."""
    message = audit_service_pb2.ProducerCompleteness(producer=found.producer, missing=found.missing)
    if numbers:
        message.complete_to, message.highest = found.complete_to, found.highest
        message.gaps.extend(
            audit_service_pb2.SequenceGap(first=gap.first, last=gap.last) for gap in found.gaps
        )
    if found.gap_time is not None:
        message.gap_time.FromDatetime(found.gap_time)
    if found.last_time is not None:
        message.last_time.FromDatetime(found.last_time)
    return message


def from_checkpoint(signed: SignedCheckpoint) -> entry_pb2.Checkpoint:
    """A checkpoint; only its note proves anything, the other fields spare the reader from parsing it."""
    sign_time = Timestamp()
    sign_time.FromDatetime(signed.sign_time)
    return entry_pb2.Checkpoint(
        origin=signed.checkpoint.origin,
        tree_size=signed.checkpoint.size,
        root_hash=signed.checkpoint.root,
        note=signed.note,
        sign_time=sign_time,
    )


def _all_parts(entry: StoredEntry) -> Iterator[StoredPart]:
    yield from entry.parts
    stored = {part.name for part in entry.parts}
    try:
        promised = parse_leaf(entry.leaf).parts
    except EntryError:
        # A damaged leaf is handed out as it is, so that the verifier can name it.
        return
    for part in promised:
        if part.name not in stored:
            yield StoredPart(name=part.name, content_type=part.content_type, present=False)
