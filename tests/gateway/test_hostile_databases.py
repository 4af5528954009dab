"""Databases that are not what they say: what they learn of the gateway's own rights."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway_svc.connection import Connection, ConnectionContent, ConnectionKind
from gateway_svc.database_client import AskFailed, DatabaseClient
from gateway_svc.names import Names
from gateway_svc.statements import Statement

OURS = "password-of-the-gateway-itself"
STATEMENT = Statement(name="one", sql="SELECT 1", writes=False, max_rows=0, seconds=2)
_NO_TLS = 80877103
_CLEARTEXT = struct.pack("!cII", b"R", 8, 3)


@dataclass(kw_only=True)
class Thief:
    """A server that asks for the password as it is."""

    port: int = 0
    startups: int = 0
    told: list[bytes] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                length, code = struct.unpack("!II", await reader.readexactly(8))
                body = await reader.readexactly(length - 8)
                if code == _NO_TLS:
                    writer.write(b"N")
                    continue
                self.startups += 1
                self.told.append(body)
                writer.write(_CLEARTEXT)
                self.told.append(await reader.read(1000))
                return
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def thief() -> AsyncIterator[Thief]:
    made = Thief()
    server = await asyncio.start_server(made.handle, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


def connection(port: int) -> Connection:
    now = datetime.now(UTC)
    return Connection(
        tenant="mallory",
        connection_id="mine",
        kind=ConnectionKind.DATABASE,
        content=ConnectionContent(
            base_url=f"postgresql://127.0.0.1:{port}/x",
            models={},
            agents=(),
            allow_private=True,
            description="",
            statements=(STATEMENT,),
        ),
        sealed=None,
        create_time=now,
        update_time=now,
        creator="mallory",
        etag="1",
    )


@pytest.mark.parametrize("credential", ["", "clerk", "clerk:", "clerk:theirs"])
async def test_no_database_is_told_a_password_of_the_gateways_surroundings_nor_one_in_the_clear(
    credential: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"*:*:*:*:{OURS}\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGUSER", "gateway")
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    if credential != "clerk":
        monkeypatch.setenv("PGPASSWORD", OURS)
    async with thief() as server:
        with pytest.raises(AskFailed) as failed:
            await DatabaseClient(Names()).run(
                connection(server.port), STATEMENT, {}, credential=credential, seconds=2
            )
    assert failed.value.reason == ("DATABASE_AWAY" if credential else "CREDENTIAL_MISSING")
    told = b"".join(server.told)
    assert all(word not in told for word in (OURS.encode(), b"gateway", b"theirs"))
    assert bool(server.startups) == bool(credential)


def message(kind: bytes, body: bytes, *, length: int = 0) -> bytes:
    return kind + struct.pack("!I", (length or len(body)) + 4) + body


async def test_a_row_without_end_is_cut_off_before_it_fills_the_memory() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionError):
            length, code = struct.unpack("!II", await reader.readexactly(8))
            await reader.readexactly(length - 8)
            if code == _NO_TLS:
                writer.write(b"N")
                length, _ = struct.unpack("!II", await reader.readexactly(8))
                await reader.readexactly(length - 8)
            writer.write(message(b"R", bytes(4)) + message(b"Z", b"I"))
            await reader.read(1000)
            writer.write(message(b"C", b"BEGIN\0") + message(b"Z", b"T"))
            await reader.read(1000)
            column = b"a\0" + struct.pack("!IHIhIh", 0, 0, 25, -1, 0, 0)
            writer.write(message(b"1", b"") + message(b"2", b"") + message(b"T", b"\0\1" + column))
            writer.write(message(b"D", struct.pack("!HI", 1, 10**9), length=10**9 + 6))
            while True:
                writer.write(bytes(100_000))
                await writer.drain()
                sent += 100_000
        writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    try:
        stored = connection(server.sockets[0].getsockname()[1])
        with pytest.raises(AskFailed) as failed:
            await DatabaseClient(Names()).run(stored, STATEMENT, {}, credential="clerk", seconds=20)
    finally:
        server.close()
    assert (failed.value.reason, failed.value.executed) == ("TOO_MANY_BYTES", False)
    assert sent < 200_000_000


async def test_a_database_at_a_private_address_that_is_left_to_nobody_is_not_called() -> None:
    async with thief() as server:
        with pytest.raises(AskFailed) as failed:
            await DatabaseClient(Names(), private=()).run(
                connection(server.port), STATEMENT, {}, credential="clerk:theirs", seconds=2
            )
    assert (failed.value.reason, server.startups) == ("ADDRESS_FORBIDDEN", 0)
