"""Runs one statement of a connection to a database, read-only unless it says otherwise."""

import asyncio
import base64
import datetime as dt
import json
import math
import os
import socket
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg.rows import dict_row

from gateway_svc.addresses import PRIVATE, Network, is_private, vetted
from gateway_svc.connection import Connection
from gateway_svc.names import Names, NameUnknownError
from gateway_svc.statements import DEFAULT_ROWS, DEFAULT_SECONDS, Statement
from interlock.common.cancellation import end
from svc_kit.strict_json import JsonValue

MAX_BYTES = 1024 * 1024
# Rows as the server sends them, and whatever else it says.
_MAX_RECEIVED_BYTES = 16 * MAX_BYTES
_LOOK_SECONDS = 0.02
# Of the kernel's `struct tcp_info`: up to, and at, `tcpi_bytes_received`.
_TCP_INFO_BYTES, _RECEIVED_AT = 136, 128
_CONNECT_SECONDS = 5
_PORT = 5432
# The server ends the statement itself; this is for one that does not answer any more.
_SLACK_SECONDS = 0.5
_CANCELED = "57014"

Session = psycopg.AsyncConnection[dict[str, Any]]


class AskFailed(Exception):
    """Nothing came of it. `executed`: False, or None when nobody knows."""

    def __init__(self, reason: str, message: str, *, executed: bool | None = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.executed = executed


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What it brought, or how many rows it changed."""

    rows: list[JsonValue] = field(repr=False)


class DatabaseClient:
    """A session of its own for each statement: nothing of one call is left for the next."""

    def __init__(self, names: Names, *, private: Sequence[Network] = PRIVATE) -> None:
        self._names = names
        self._private = private

    async def run(
        self,
        connection: Connection,
        statement: Statement,
        params: Mapping[str, Any],
        *,
        credential: str,
        seconds: float,
    ) -> Rows:
        """The rows; raises AskFailed. Ends, and has the server end it, when it is cancelled."""
        seconds = min(statement.seconds or DEFAULT_SECONDS, seconds)
        if seconds <= 0:
            raise AskFailed("QUERY_TIMEOUT", "no time was left for the statement")
        session = await self._connect(connection, statement, credential=credential, seconds=seconds)
        try:
            async with asyncio.timeout(seconds + _SLACK_SECONDS), _received_is_bounded(session, statement):
                return await _execute(session, statement, params)
        except TimeoutError:
            raise AskFailed(
                "QUERY_TIMEOUT",
                f"the statement was ended after {seconds:.3g} s",
                executed=None if statement.writes else False,
            ) from None
        finally:
            with suppress(psycopg.Error, OSError):
                await session.close()

    async def _connect(
        self, connection: Connection, statement: Statement, *, credential: str, seconds: float
    ) -> Session:
        place = urlsplit(connection.content.base_url)
        host, port = place.hostname or "", place.port or _PORT
        address = await self._address(connection, host, port)
        user, _, password = credential.partition(":")
        if not user:
            # The library would look for one of the gateway's own, and so it would for a password.
            raise AskFailed("CREDENTIAL_MISSING", "the connection has no user and password")
        read_only = "off" if statement.writes else "on"
        # Another's network is crossed only when the server proves who it is.
        private = is_private(ip_address(address))
        tls: dict[str, Any] = (
            {"sslmode": "prefer"} if private else {"sslmode": "verify-full", "sslrootcert": "system"}
        )
        try:
            async with asyncio.timeout(min(seconds, _CONNECT_SECONDS)):
                session: Session = await psycopg.AsyncConnection.connect(
                    host=host,
                    hostaddr=address,
                    port=port,
                    dbname=place.path.lstrip("/"),
                    user=user,
                    password=password,
                    application_name="interlock",
                    require_auth=_proofs(password, private=private),
                    passfile=os.devnull,
                    sslcertmode="disable",
                    gssencmode="disable",
                    options=f"-c default_transaction_read_only={read_only}"
                    f" -c statement_timeout={max(int(seconds * 1000), 1)}",
                    row_factory=dict_row,
                    # One that stays for a single statement has no use for them.
                    prepare_threshold=None,
                    **tls,
                )
        except (psycopg.Error, OSError, TimeoutError):
            # What libpq says may quote where and as whom.
            raise AskFailed("DATABASE_AWAY", "the database cannot be reached; nothing was sent") from None
        await session.set_read_only(not statement.writes)
        return session

    async def _address(self, connection: Connection, host: str, port: int) -> str:
        try:
            found = await self._names.addresses(connection.tenant, host, port)
        except NameUnknownError:
            raise AskFailed("DATABASE_AWAY", "the database cannot be reached; nothing was sent") from None
        address = vetted(
            found, allow_private=connection.content.allow_private, public=True, private=self._private
        )
        if address is None:
            raise AskFailed(
                "ADDRESS_FORBIDDEN", "the database is at an address that may not be called; nothing was sent"
            )
        return address


@asynccontextmanager
async def _received_is_bounded(session: Session, statement: Statement) -> AsyncIterator[None]:
    """Cut the session off when its server sends too much, as it may within a single row; raises AskFailed.

    The library keeps a row in memory as it comes, before anybody can refuse it.
    """
    with socket.socket(fileno=os.dup(session.fileno())) as wire:
        watching = asyncio.create_task(_cut_off(wire))
        try:
            yield
        except AskFailed:
            if not watching.done():
                raise
            raise AskFailed(
                "TOO_MANY_BYTES",
                f"the database sent more than {_MAX_RECEIVED_BYTES} bytes",
                executed=None if statement.writes else False,
            ) from None
        finally:
            await end(watching)


async def _cut_off(wire: socket.socket) -> None:
    """Return once it is cut off."""
    while True:
        told = wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        (received,) = struct.unpack_from("Q", told, _RECEIVED_AT)
        if received > _MAX_RECEIVED_BYTES:
            wire.shutdown(socket.SHUT_RDWR)
            return
        await asyncio.sleep(_LOOK_SECONDS)


def _proofs(password: str, *, private: bool) -> str:
    """How a server may have the password proven: never as it is, unless TLS has proven the server."""
    if not password:
        return "none"
    return "scram-sha-256,md5" if private else "scram-sha-256,md5,password"


async def _execute(session: Session, statement: Statement, params: Mapping[str, Any]) -> Rows:
    sent = False
    try:
        async with session.transaction():
            rows = await (_changed if statement.writes else _read)(session, statement, params)
            sent = statement.writes
    except psycopg.Error as error:
        if isinstance(error, psycopg.errors.QueryCanceled) or error.sqlstate == _CANCELED:
            raise AskFailed("QUERY_TIMEOUT", "the statement took too long and was ended") from None
        broken = error.sqlstate is None
        told = "the database broke off" if broken else f"{error.sqlstate} {type(error).__name__}"
        raise AskFailed(
            "QUERY_FAILED",
            f"the database did not run the statement: {told}",
            # Who loses the answer to a COMMIT does not know.
            executed=None if broken and (sent or statement.writes) else False,
        ) from None
    return Rows(rows=rows)


async def _read(session: Session, statement: Statement, params: Mapping[str, Any]) -> list[JsonValue]:
    taken = _Taken(statement)
    async with session.cursor() as cursor:
        # Row by row: what is too much is not even fetched.
        async for row in cursor.stream(statement.sql.encode(), dict(params)):
            taken.add(row)
    return taken.rows


async def _changed(session: Session, statement: Statement, params: Mapping[str, Any]) -> list[JsonValue]:
    taken = _Taken(statement)
    async with session.cursor() as cursor:
        await cursor.execute(statement.sql.encode(), dict(params))
        if cursor.description is None:
            return [{"changed": cursor.rowcount}]
        async for row in cursor:
            taken.add(row)
    return taken.rows


class _Taken:
    """Rows, as many as are allowed."""

    def __init__(self, statement: Statement) -> None:
        self._most = statement.max_rows or DEFAULT_ROWS
        self._bytes = 0
        self.rows: list[JsonValue] = []

    def add(self, row: Mapping[str, Any]) -> None:
        if len(self.rows) >= self._most:
            raise AskFailed("TOO_MANY_ROWS", f"the statement brings more than {self._most} rows")
        value = {name: _json(each) for name, each in row.items()}
        self._bytes += len(json.dumps(value))
        if self._bytes > MAX_BYTES:
            raise AskFailed("TOO_MANY_BYTES", f"the statement brings more than {MAX_BYTES} bytes")
        self.rows.append(value)


def _json(value: Any) -> JsonValue:
    """As JSON: bytes as base64, and what JSON does not know (exact numbers, dates, times) as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (bytes, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, (list, tuple)):
        return [_json(each) for each in value]
    if isinstance(value, dict):
        return {str(name): _json(each) for name, each in value.items()}
    return value.isoformat() if isinstance(value, (dt.date, dt.time)) else str(value)
