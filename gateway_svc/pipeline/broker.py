"""What a running tool may ask of the gateway: its only way out, by connections that both sides name."""

import json
from collections.abc import Mapping
from typing import Any, Protocol

import structlog

from gateway_svc.audit_events import add_json, query_event
from gateway_svc.audit_log import AuditLog, NotRecordedError
from gateway_svc.connection import Connection, ConnectionKind
from gateway_svc.database_client import AskFailed, Rows
from gateway_svc.errors import connection_not_granted, not_active
from gateway_svc.pipeline.pending import Begun, Pending, Tool
from gateway_svc.redaction import Redaction
from gateway_svc.statements import Statement, parameter_flaw
from gateway_svc.tool_call import Asked, ToolCall
from gateway_svc.verdicts import Check
from interlock_sandbox import Host
from svc_kit.clock import Clock
from svc_kit.errors import DomainError, Unavailable
from svc_kit.ids import uuid7
from svc_kit.strict_json import JsonValue

log = structlog.get_logger(__name__)

_MAX_ASKED = 1000


class Connections(Protocol):
    """What the broker asks of the connections."""

    async def find(self, tenant: str, connection_id: str) -> Connection | None:
        """One connection, as it stands now."""

    def credential(self, stored: Connection) -> str:
        """The credential, empty when there is none; raises CREDENTIAL_MISSING."""


class Databases(Protocol):
    """Runs statements; see DatabaseClient."""

    async def run(
        self,
        connection: Connection,
        statement: Statement,
        params: Mapping[str, Any],
        *,
        credential: str,
        seconds: float,
    ) -> Rows:
        """The rows; raises AskFailed."""


class Fetches(Protocol):
    """Sends requests; see Fetcher."""

    async def fetch(
        self, call: ToolCall, connection: Connection, credential: str, asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What came back; raises AskFailed."""


class Broker:
    """Believes nothing that a tool says: each question is checked against connections as they stand then."""

    def __init__(
        self,
        connections: Connections,
        *,
        databases: Databases,
        fetches: Fetches,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._connections = connections
        self._fetches = fetches
        self._databases = databases
        self._audit = audit
        self._clock = clock

    async def check_reach(self, pending: Pending, tool: Tool) -> None:
        """Each connection that the tool lists has to list it; raises CONNECTION_NOT_BOUND or NOT_ACTIVE."""
        for connection_id in tool.connections:
            try:
                await self._granted(pending.asked, tool, connection_id)
            except DomainError as error:
                pending.verdicts.failed(Check.REACH, f"{error.message[:1].upper()}{error.message[1:]}.")
                raise

    def host(self, begun: Begun, tool: Tool) -> Host | None:
        """Who answers the tool; None for one that has nothing to ask."""
        if not tool.connections:
            return None

        async def answer(method: str, params: Mapping[str, Any]) -> bytes:
            try:
                if method == "query":
                    return _json({"rows": await self._query(begun, tool, params)})
                if method == "fetch":
                    return _json(await self.fetch(begun, tool, params))
                raise AskFailed("UNKNOWN_METHOD", f"there is no method {method[:64]!r}")
            except AskFailed as failed:
                return _told(failed)
            except Unavailable:
                return _told(AskFailed("UNAVAILABLE", "the gateway cannot look the connection up now"))
            except DomainError as error:
                return _told(AskFailed(error.reason_name, error.message))
            except Exception:
                log.exception("question_lost", call_id=str(begun.call.asked.call_id))
                return _told(AskFailed("INTERNAL", "the gateway failed", executed=None))

        return Host(answer=answer, open_calls=1, calls=_MAX_ASKED)

    async def fetch(self, begun: Begun, tool: Tool, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What a request brings; raises AskFailed, CONNECTION_NOT_BOUND, NOT_ACTIVE or CREDENTIAL_MISSING."""
        connection_id = asked.get("connection")
        if not isinstance(connection_id, str):
            raise AskFailed("INVALID_FIELDS", "a request names a connection")
        connection = await self._granted(begun.call.asked, tool, connection_id)
        credential = self._connections.credential(connection)
        return await self._fetches.fetch(begun.call, connection, credential, asked)

    async def _query(self, begun: Begun, tool: Tool, asked: Mapping[str, Any]) -> list[JsonValue]:
        connection_id, name, params = asked.get("connection"), asked.get("statement"), asked.get("params")
        if not isinstance(connection_id, str) or not isinstance(name, str) or not isinstance(params, dict):
            raise AskFailed("BAD_QUERY", "a query has a connection, a statement and params")
        connection = await self._granted(begun.call.asked, tool, connection_id)
        statement = next((each for each in connection.content.statements if each.name == name), None)
        if statement is None or connection.kind is not ConnectionKind.DATABASE:
            raise AskFailed("NO_SUCH_STATEMENT", f"connection {connection_id} has no statement {name[:64]}")
        if flaw := parameter_flaw(statement, params):
            raise AskFailed("BAD_PARAMETERS", flaw)
        credential = self._connections.credential(connection)
        await self._record(begun, connection_id, name, params)
        found = await self._databases.run(
            connection,
            statement,
            params,
            credential=credential,
            seconds=begun.cleared.pending.seconds_left(),
        )
        redaction = Redaction([credential, credential.partition(":")[2]])
        return [redaction.value(row) for row in found.rows]

    async def _granted(self, asked: Asked, tool: Tool, connection_id: str) -> Connection:
        """The connection, if both sides name each other; who is refused does not learn which one does not."""
        stored = (
            await self._connections.find(asked.tenant, connection_id)
            if connection_id in tool.connections
            else None
        )
        if stored is None or tool.digest not in stored.content.tool_digests:
            raise connection_not_granted(asked, connection_id)
        if stored.content.disabled:
            raise not_active("connection", connection_id)
        return stored

    async def _record(
        self, begun: Begun, connection_id: str, statement: str, params: Mapping[str, JsonValue]
    ) -> None:
        """Before it is sent; what cannot be recorded is not done."""
        event = query_event(
            begun.call,
            connection_id=connection_id,
            statement=statement,
            event_id=uuid7(),
            time=self._clock.now(),
        )
        try:
            await self._audit.append(add_json(event, "arguments", _json(params)))
        except NotRecordedError:
            raise AskFailed(
                "AUDIT_UNAVAILABLE", "the audit log cannot record the query, so it was not sent"
            ) from None


def _told(failed: AskFailed) -> bytes:
    error = {"reason": failed.reason, "message": failed.message, "executed": failed.executed}
    return _json({"error": error})


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
