"""Every method of a running suite, found by reflection and called with raw bytes, as a stranger would."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor, descriptor_pool, message_factory
from google.protobuf.message import Message
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from interlock.common.remote_error import RemoteError
from tests.e2e.suite import SERVICES, RunningSuite

_OPEN = ("grpc.health.", "grpc.reflection.")
_SECONDS = 20.0

Metadata = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method of one service of a suite."""

    process: str
    service: str
    described: descriptor.MethodDescriptor

    @property
    def name(self) -> str:
        """As in `SubmitTask`."""
        return str(self.described.name)

    @property
    def full_name(self) -> str:
        """As in `interlock.orchestrator.v1.OrchestratorService/SubmitTask`."""
        return f"{self.service}/{self.name}"

    def request(self, **fields: Any) -> Message:
        """Its request, with those of the fields that it has."""
        known = self.described.input_type.fields_by_name
        kind = message_factory.GetMessageClass(self.described.input_type)
        # Versions of agents and tools are texts; the same name stands for a number elsewhere.
        numbers = {name for name, each in known.items() if each.cpp_type == each.CPPTYPE_INT32}
        texts = {name for name, value in fields.items() if isinstance(value, str)}
        return kind(
            **{name: fields[name] for name in fields if name in known and name not in numbers & texts}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A connection to one door of one service."""

    process: str
    internal: bool
    channel: grpc.Channel

    def methods(self) -> list[Method]:
        """All methods that its reflection tells of, but those that are open to everybody."""
        reflected = ProtoReflectionDescriptorDatabase(self.channel)
        pool = descriptor_pool.DescriptorPool(reflected)
        services = [name for name in reflected.get_services() if not name.startswith(_OPEN)]
        return [
            Method(process=self.process, service=name, described=method)
            for name in services
            for method in pool.FindServiceByName(name).methods
        ]

    def call(self, method: Method, metadata: Metadata, request: bytes = b"") -> bytes | RemoteError:
        """The reply, the first one of a stream, or the error."""
        path = f"/{method.full_name}"
        described = method.described
        several_in, several_out = described.client_streaming, described.server_streaming
        kinds: dict[tuple[bool, bool], Callable[[str], Any]] = {
            (False, False): self.channel.unary_unary,
            (False, True): self.channel.unary_stream,
            (True, False): self.channel.stream_unary,
            (True, True): self.channel.stream_stream,
        }
        sent: Any = iter([request]) if several_in else request
        try:
            answer: Any = kinds[several_in, several_out](path)(sent, metadata=metadata, timeout=_SECONDS)
            if not several_out:
                return bytes(answer)
            first = next(iter(answer), b"")
            answer.cancel()
            return bytes(first)
        except grpc.RpcError as error:
            return RemoteError.of(error)


def bearer(token: str) -> Metadata:
    """A token as a call carries it."""
    return (("authorization", f"Bearer {token}"),)


@contextmanager
def open_doors(suite: RunningSuite) -> Iterator[list[Door]]:
    """Both doors of every service."""
    doors = [
        Door(
            process=service,
            internal=internal,
            channel=grpc.insecure_channel(suite.door(service, internal=internal)),
        )
        for service in SERVICES
        for internal in (False, True)
    ]
    try:
        yield doors
    finally:
        for door in doors:
            door.channel.close()
