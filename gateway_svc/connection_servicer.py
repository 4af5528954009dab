"""The gateway's RPCs on connections: one call, translated."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeAlias

import grpc

from gateway_svc.connection import MAX_QUOTAS, Connection, ConnectionContent, ConnectionKind, ModelPrice
from gateway_svc.connections import Connections
from gateway_svc.statements import Statement
from interlock.gateway.v1 import connection_service_pb2 as messages
from interlock.gateway.v1 import connection_service_pb2_grpc
from svc_kit.errors import Violation, invalid
from svc_kit.identity import Role, acting_tenant, principal
from svc_kit.paging import Question, decode_page_token, encode_page_token, page_size

NAME = "interlock.gateway.v1.ConnectionService"

_ADMIN = frozenset({Role.ADMIN})
ROLES: Mapping[str, frozenset[Role]] = {
    "CreateConnection": _ADMIN,
    "GetConnection": _ADMIN,
    "ListConnections": _ADMIN,
    "UpdateConnection": _ADMIN,
    "DeleteConnection": _ADMIN,
    "SetConnectionCredential": _ADMIN,
}
_KINDS = {
    messages.CONNECTION_KIND_MODEL: ConnectionKind.MODEL,
    messages.CONNECTION_KIND_HTTP: ConnectionKind.HTTP,
    messages.CONNECTION_KIND_DATABASE: ConnectionKind.DATABASE,
}
# Field of the contract → field of the content.
_CHANGEABLE = {
    "base_url": "base_url",
    "models": "models",
    "agents": "agents",
    "allow_private_addresses": "allow_private",
    "description": "description",
    "disabled": "disabled",
    "methods": "methods",
    "credential_header": "credential_header",
    **{name: name for name in MAX_QUOTAS},
    "tool_digests": "tool_digests",
    "statements": "statements",
}

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class ConnectionServicer(connection_service_pb2_grpc.ConnectionServiceServicer):
    """Connections of the tenant that the caller acts for."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def CreateConnection(
        self, request: messages.CreateConnectionRequest, context: Context
    ) -> messages.CreateConnectionResponse:
        stored = await self._connections.create(
            acting_tenant(),
            principal().subject,
            connection_id=request.connection.connection_id,
            kind=_KINDS.get(request.connection.kind),
            content=_to_content(request.connection),
            validate_only=request.validate_only,
        )
        return messages.CreateConnectionResponse(connection=_from_connection(stored))

    async def GetConnection(
        self, request: messages.GetConnectionRequest, context: Context
    ) -> messages.GetConnectionResponse:
        stored = await self._connections.get(acting_tenant(), request.connection_id)
        return messages.GetConnectionResponse(connection=_from_connection(stored))

    async def ListConnections(
        self, request: messages.ListConnectionsRequest, context: Context
    ) -> messages.ListConnectionsResponse:
        tenant, size = acting_tenant(), page_size(request.page_size)
        question = Question(method="ListConnections", tenant=tenant)
        after = decode_page_token(request.page_token, question, (str,))
        found = await self._connections.page(tenant, after=after[0] if after else "", limit=size + 1)
        page = found[:size]
        more = len(found) > size
        return messages.ListConnectionsResponse(
            connections=map(_from_connection, page),
            next_page_token=encode_page_token((page[-1].connection_id,), question) if more else "",
        )

    async def UpdateConnection(
        self, request: messages.UpdateConnectionRequest, context: Context
    ) -> messages.UpdateConnectionResponse:
        stored = await self._connections.update(
            acting_tenant(),
            principal().subject,
            connection_id=request.connection.connection_id,
            change=_change(request),
            etag=request.connection.etag,
        )
        return messages.UpdateConnectionResponse(connection=_from_connection(stored))

    async def DeleteConnection(
        self, request: messages.DeleteConnectionRequest, context: Context
    ) -> messages.DeleteConnectionResponse:
        await self._connections.delete(
            acting_tenant(), principal().subject, connection_id=request.connection_id, etag=request.etag
        )
        return messages.DeleteConnectionResponse()

    async def SetConnectionCredential(
        self, request: messages.SetConnectionCredentialRequest, context: Context
    ) -> messages.SetConnectionCredentialResponse:
        stored = await self._connections.set_credential(
            acting_tenant(),
            principal().subject,
            connection_id=request.connection_id,
            credential=request.credential,
            etag=request.etag,
        )
        return messages.SetConnectionCredentialResponse(connection=_from_connection(stored))


def _change(request: messages.UpdateConnectionRequest) -> Callable[[ConnectionContent], ConnectionContent]:
    paths = list(request.update_mask.paths)
    if not paths or not set(paths) <= _CHANGEABLE.keys():
        wanted = f"must name some of {', '.join(_CHANGEABLE)}"
        raise invalid([Violation("update_mask", wanted)])
    wished = _to_content(request.connection)
    changes = {_CHANGEABLE[path]: getattr(wished, _CHANGEABLE[path]) for path in paths}
    return lambda content: replace(content, **changes)


def _to_content(message: messages.Connection) -> ConnectionContent:
    models = {
        each.name: ModelPrice(input_micros=each.input_price_micros, output_micros=each.output_price_micros)
        for each in message.models
    }
    if len(models) != len(message.models):
        raise invalid([Violation("connection.models", "must not name a model twice")])
    return ConnectionContent(
        base_url=message.base_url.rstrip("/"),
        models=models,
        agents=tuple(dict.fromkeys(message.agents)),
        allow_private=message.allow_private_addresses,
        description=message.description,
        disabled=message.disabled,
        methods=tuple(dict.fromkeys(message.methods)),
        credential_header=message.credential_header,
        **{name: getattr(message, name) for name in MAX_QUOTAS},
        tool_digests=tuple(dict.fromkeys(message.tool_digests)),
        statements=tuple(map(_to_statement, message.statements)),
    )


def _from_connection(stored: Connection) -> messages.Connection:
    content = stored.content
    message = messages.Connection(
        connection_id=stored.connection_id,
        kind=messages.ConnectionKind.Value(f"CONNECTION_KIND_{stored.kind}"),
        base_url=content.base_url,
        models=[
            messages.ConnectionModel(
                name=name, input_price_micros=price.input_micros, output_price_micros=price.output_micros
            )
            for name, price in content.models.items()
        ],
        agents=content.agents,
        allow_private_addresses=content.allow_private,
        description=content.description,
        disabled=content.disabled,
        methods=content.methods,
        credential_header=content.credential_header,
        **{name: getattr(content, name) for name in MAX_QUOTAS},
        tool_digests=content.tool_digests,
        statements=map(_from_statement, content.statements),
        has_credential=stored.sealed is not None,
        creator=stored.creator,
        etag=stored.etag,
    )
    message.create_time.FromDatetime(stored.create_time)
    message.update_time.FromDatetime(stored.update_time)
    return message


def _to_statement(message: messages.DatabaseStatement) -> Statement:
    return Statement(
        name=message.name,
        sql=message.sql,
        writes=message.writes,
        max_rows=message.max_rows,
        seconds=message.timeout.ToTimedelta().total_seconds(),
    )


def _from_statement(statement: Statement) -> messages.DatabaseStatement:
    message = messages.DatabaseStatement(
        name=statement.name, sql=statement.sql, writes=statement.writes, max_rows=statement.max_rows
    )
    if statement.seconds:
        message.timeout.FromTimedelta(timedelta(seconds=statement.seconds))
    return message
