"""A world with a provider of language models, and one agent that may use it."""

import json
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from interlock.common.v1 import permit_pb2
from interlock.gateway.v1 import (
    connection_service_pb2,
    connection_service_pb2_grpc,
    gateway_service_pb2,
    gateway_service_pb2_grpc,
)
from interlock.registry.v1 import agent_pb2, tool_pb2
from svc_kit.identity import Role
from svc_kit.status import RemoteError, from_rpc_error
from tests.gateway.openai_server import OpenAiServer
from tests.gateway.world import AGENT, AGENT_VERSION, WORKER, World

KEY = "sk-very-secret-0123456789"
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "Say hello."}]}


@dataclass(kw_only=True)
class Models:
    """A world with a provider, and one agent that may use it."""

    world: World
    provider: OpenAiServer

    @property
    def connections(self) -> "connection_service_pb2_grpc.ConnectionServiceAsyncStub":
        return connection_service_pb2_grpc.ConnectionServiceStub(self.world.public)

    @property
    def admin(self) -> tuple[tuple[str, str], ...]:
        return self.world.token(Role.ADMIN)

    async def connect(self, **changes: Any) -> None:
        """Store the connection `provider`, with its credential."""
        fields: dict[str, Any] = {
            "connection_id": "provider",
            "kind": connection_service_pb2.CONNECTION_KIND_MODEL,
            "base_url": self.provider.url,
            "models": [
                connection_service_pb2.ConnectionModel(
                    name="small", input_price_micros=1_000_000, output_price_micros=2_500_000
                )
            ],
            "agents": [AGENT],
            "allow_private_addresses": True,
        }
        connection = connection_service_pb2.Connection(**(fields | changes))
        await self.connections.CreateConnection(
            connection_service_pb2.CreateConnectionRequest(connection=connection), metadata=self.admin
        )
        await self.connections.SetConnectionCredential(
            connection_service_pb2.SetConnectionCredentialRequest(
                connection_id=connection.connection_id, credential=KEY
            ),
            metadata=self.admin,
        )

    async def update(self, *paths: str, **fields: Any) -> connection_service_pb2.Connection:
        request = connection_service_pb2.UpdateConnectionRequest(
            connection=connection_service_pb2.Connection(connection_id="provider", **fields)
        )
        request.update_mask.paths.extend(paths)
        return (await self.connections.UpdateConnection(request, metadata=self.admin)).connection

    async def delete(self) -> None:
        request = connection_service_pb2.DeleteConnectionRequest(connection_id="provider")
        await self.connections.DeleteConnection(request, metadata=self.admin)

    def permit(self, asked: Any = None, **changes: Any) -> permit_pb2.Signed:
        """A permit for one model call."""
        of_tool = {"tool": "", "tool_version": "", "tool_digest": "", "connection": "provider"}
        return self.world.permit(ASKED if asked is None else asked, **(of_tool | changes))

    async def call(
        self, permit: permit_pb2.Signed, asked: Any = None, *, timeout: float = 20.0
    ) -> gateway_service_pb2.CallModelResponse:
        """CallModel; raises RemoteError."""
        stub = gateway_service_pb2_grpc.GatewayServiceStub(self.world.internal)
        request = gateway_service_pb2.CallModelRequest(
            permit=permit, request_json=json.dumps(ASKED if asked is None else asked)
        )
        metadata = self.world.token(Role.WORKER, subject=WORKER)
        try:
            return await stub.CallModel(request, metadata=metadata, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def refusal(self, permit: permit_pb2.Signed, asked: Any = None, **options: Any) -> RemoteError:
        """The error that CallModel answers; the credential is nowhere in it."""
        with pytest.raises(RemoteError) as caught:
            await self.call(permit, asked, **options)
        error = caught.value
        assert KEY not in repr(error) + error.message + str(error.metadata)
        return error


def publish(world: World, **changes: Any) -> None:
    llm = {"instructions": "Help.", "connection": "provider", "model": "small"} | changes
    world.agent_version = agent_pb2.AgentVersion(
        agent=AGENT,
        version=AGENT_VERSION,
        digest=f"sha256:{'b' * 64}",
        spec=agent_pb2.AgentSpec(llm=agent_pb2.LlmRuntime(**llm)),
    )
    agent = agent_pb2.Agent(name=AGENT, latest_version=AGENT_VERSION, status=tool_pb2.STATUS_ACTIVE)
    world.registry.publish(world.tenant, world.agent_version, agent)
