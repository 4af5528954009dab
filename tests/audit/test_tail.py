"""Following a log: every entry once, in order, whoever else follows and whatever is restarted."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest

from interlock.audit.v1 import audit_service_pb2 as messages
from interlock.audit.v1 import entry_pb2
from interlock.client import Client
from interlock.verify import open_checkpoint
from interlock.verify.merkle import Frontier, leaf_hash
from interlock_suite.databases import ServiceDatabase
from svc_kit.identity import LocalIssuer, Role
from svc_kit.status import from_rpc_error
from tests.audit.conftest import settings_for
from tests.audit.served import Served, append, event, pinned_key, serving


async def follow(client: Client, **options: object) -> AsyncIterator[entry_pb2.Entry]:
    async for update in client.tail(**options):  # type: ignore[arg-type]
        for entry in update.entries:
            yield entry


async def first(count: int, entries: AsyncIterator[entry_pb2.Entry]) -> list[entry_pb2.Entry]:
    found: list[entry_pb2.Entry] = []
    async with asyncio.timeout(30), aclosing(entries):  # type: ignore[type-var]
        async for entry in entries:
            found.append(entry)
            if len(found) == count:
                return found
    raise AssertionError("the tail ended")


def reader(audit: Served, *roles: Role, tenant: str = "default") -> Client:
    token = audit.issuer.mint("dev@example.org", tenant, roles or (Role.VIEWER,), ttl=600)
    return Client({"audit": audit.addresses.public}, lambda: token)


async def test_followers_get_every_entry_once_and_in_order_from_where_they_ask(audit: Served) -> None:
    async with audit.producer() as producer, reader(audit) as client:
        for i in range(5):
            await append(producer, event(agent=f"agent-{i % 2}"))
        everything = asyncio.create_task(first(300, follow(client)))
        later = asyncio.create_task(first(297, follow(client, begin=3)))
        some = asyncio.create_task(first(2, follow(client, filter='agent = "agent-1"')))
        from_now: list[messages.TailEntriesResponse] = []
        stub = client.audit
        stream = stub.TailEntries(messages.TailEntriesRequest(begin=1, from_now=True))
        answers = aiter(stream)
        assert (await anext(answers)).next_index == 5
        elsewhere = asyncio.create_task(first(1, follow(reader(audit, tenant="elsewhere"))))
        for _ in range(295):
            await append(producer, event(payloads=[]))
        assert [entry.index for entry in await everything] == list(range(300))
        assert [entry.index for entry in await later] == list(range(3, 300))
        assert [json.loads(entry.leaf)["agent"] for entry in await some] == ["agent-1"] * 2
        while not from_now or from_now[-1].next_index < 300:
            from_now.append(await anext(answers))
        stream.cancel()
        assert [e.index for update in from_now for e in update.entries] == list(range(5, 300))
        assert not elsewhere.done()
        elsewhere.cancel()


async def test_what_is_followed_leads_to_the_signed_root(audit: Served) -> None:
    key = await pinned_key(audit)
    async with audit.producer() as producer, reader(audit) as client:
        for _ in range(3):
            await append(producer, event())
        frontier, checkpoint = Frontier(), None
        async with asyncio.timeout(30), aclosing(client.tail()) as updates:
            async for update in updates:
                frontier = frontier.extended([leaf_hash(entry.leaf) for entry in update.entries])
                # Contents need a reason, and are not in it.
                assert not any(p.body or p.salt for entry in update.entries for p in entry.payloads)
                if update.HasField("checkpoint"):
                    checkpoint = open_checkpoint(update.checkpoint.note, key=key)
                    break
    assert checkpoint is not None
    assert (checkpoint.size, checkpoint.root) == (frontier.size, frontier.root())


async def test_a_restart_costs_no_entry_and_repeats_none(
    audit_database: ServiceDatabase, tmp_path: Path
) -> None:
    issuer = LocalIssuer(tmp_path / "issuer.pem", "test")
    settings = settings_for(audit_database, tmp_path)
    why: list[str] = []
    async with serving(settings, issuer) as audit:
        settings = settings.model_copy(
            update={"public_address": audit.addresses.public, "internal_address": audit.addresses.internal}
        )
        client = reader(audit)
        entries = follow(client, interrupted=lambda said, _: why.append(said))
        following = asyncio.create_task(first(60, entries))
        async with audit.producer() as producer:
            for _ in range(30):
                await append(producer, event())
    async with serving(settings, issuer) as audit, audit.producer() as producer:
        for _ in range(30):
            await append(producer, event())
        assert [entry.index for entry in await following] == list(range(60))
        await client.close()
    assert why


@pytest.mark.parametrize(
    ("request_", "field", "reason"),
    [
        (messages.TailEntriesRequest(begin=-1), "begin", "INVALID_FIELDS"),
        (messages.TailEntriesRequest(begin=2), "begin", "INVALID_FIELDS"),
        (messages.TailEntriesRequest(filter="x"), None, "FILTER_INVALID"),
        (messages.TailEntriesRequest(filter='actor = "ada"'), None, "ROLE_REQUIRED"),
    ],
)
async def test_a_bad_place_or_filter_is_refused(
    audit: Served, request_: messages.TailEntriesRequest, field: str | None, reason: str
) -> None:
    async with audit.producer() as producer, audit.reader(Role.VIEWER) as stub:
        await append(producer, event())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stub.TailEntries(request_):
                pass
    refused = from_rpc_error(caught.value)
    assert refused.reason == reason
    if field is not None:
        assert [violation.field for violation in refused.violations] == [field]
