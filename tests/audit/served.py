"""An audit service behind its doors, and callers of it."""

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

from audit_svc.config import AuditSettings
from audit_svc.server import build
from interlock.audit.v1 import audit_service_pb2 as messages
from interlock.audit.v1 import audit_service_pb2_grpc, entry_pb2
from interlock.verify import NoteKey, PartBytes, Trail, TrailEntry
from svc_kit.clients import channel
from svc_kit.identity import SYSTEM_TENANT, LocalIssuer, Role, TokenVerifier
from svc_kit.ids import uuid7
from svc_kit.server import Addresses, running_server
from svc_kit.status import RemoteError, from_rpc_error

if TYPE_CHECKING:
    Stub: TypeAlias = audit_service_pb2_grpc.AuditServiceAsyncStub
    Caller: TypeAlias = AbstractAsyncContextManager[Stub]

ORIGIN = "interlock.test/suite"
TASK = "01900000-0000-7000-8000-000000000001"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Where a service answers, and who may mint tokens for it."""

    addresses: Addresses
    issuer: LocalIssuer

    def reader(self, *roles: Role, tenant: str = "default", subject: str = "dev@example.org") -> "Caller":
        """A person at the public door."""
        return self.caller(self.addresses.public, roles, tenant, subject)

    def producer(self, subject: str = "orchestrator", tenant: str = SYSTEM_TENANT) -> "Caller":
        """A service at the internal door."""
        return self.caller(self.addresses.internal, [Role.SERVICE], tenant, subject)

    @asynccontextmanager
    async def caller(
        self, address: str, roles: Iterable[Role], tenant: str, subject: str
    ) -> "AsyncIterator[Stub]":
        token = self.issuer.mint(subject, tenant, roles, ttl=600)
        async with channel(address, lambda: token) as opened:
            yield audit_service_pb2_grpc.AuditServiceStub(opened)


@asynccontextmanager
async def serving(settings: AuditSettings, issuer: LocalIssuer) -> AsyncIterator[Served]:
    """The service as its `server.py` builds it, in this process."""
    audit = build(settings)
    verifier = TokenVerifier([issuer.trusted()])
    async with running_server(
        audit.services, settings, verifier=verifier, lifespan=audit.lifespan
    ) as addresses:
        yield Served(addresses=addresses, issuer=issuer)


def event(**changes: Any) -> entry_pb2.Event:
    """A checked event as a message."""
    values: dict[str, Any] = {
        "event_id": str(uuid7()),
        "tenant": "default",
        "type": entry_pb2.ENTRY_TYPE_PROMPT,
        "actor": "dev@example.org",
        "agent": "summariser",
        "task_id": TASK,
        "payloads": [prompt()],
    }
    made = entry_pb2.Event(**{**values, **changes})
    if "event_time" not in changes:
        made.event_time.FromNanoseconds(time.time_ns())
    return made


def prompt(**changes: Any) -> entry_pb2.Payload:
    values = {"part": "input", "content_type": "application/json", "body": b'{"ask":"why"}'}
    return entry_pb2.Payload(**{**values, **changes})


async def append(stub: "Stub", made: entry_pb2.Event) -> messages.AppendResponse:
    return await stub.Append(messages.AppendRequest(event=made))


async def read_trail(stub: "Stub", *, include_payloads: bool = True, page_size: int = 0) -> Trail:
    """All pages of the task's trail, as a reader saves them."""
    pages = [await _page(stub, "", include_payloads=include_payloads, page_size=page_size)]
    while token := pages[-1].next_page_token:
        pages.append(await _page(stub, token, include_payloads=include_payloads, page_size=page_size))
    return Trail(
        task_id=TASK,
        checkpoint=pages[0].checkpoint.note,
        entries=tuple(entry for page in pages for entry in _entries(page)),
    )


async def _page(
    stub: "Stub", token: str, *, include_payloads: bool, page_size: int
) -> messages.GetAuditTrailResponse:
    return await stub.GetAuditTrail(
        messages.GetAuditTrailRequest(
            task_id=TASK,
            include_payloads=include_payloads,
            page_size=page_size,
            page_token=token,
            reason="asked by a test",
        )
    )


def _entries(page: messages.GetAuditTrailResponse) -> Sequence[TrailEntry]:
    return [
        TrailEntry(
            index=entry.index,
            leaf=entry.leaf,
            proof=tuple(proof.hashes),
            parts={p.part: PartBytes(salt=p.salt, body=p.body) for p in entry.payloads if p.salt},
        )
        for entry, proof in zip(page.entries, page.proofs, strict=True)
    ]


async def refusal(call: Any) -> RemoteError:
    """How a call is refused; it fails the test when it is not."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError("the call was not refused")


async def pinned_key(served: Served, tenant: str = "default") -> NoteKey:
    """The key that a reader pins at first sight."""
    async with served.reader(Role.VIEWER, tenant=tenant) as stub:
        keys = await stub.GetPublicKeys(messages.GetPublicKeysRequest())
    key = NoteKey.parse(keys.verifier_key)
    assert [k.ed25519 for k in keys.keys] == [key.public_key] and keys.keys[0].use == "checkpoint"
    return key
