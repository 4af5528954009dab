"""A service for the tests of the kit: each kind of method, each kind of door; tests say what they do."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.wrappers_pb2 import StringValue

from interlock.common.v1 import options_pb2
from svc_kit.identity import Role
from svc_kit.server import Service

PACKAGE = "interlock.kittest.v1"
NAME = f"{PACKAGE}.KitService"
ROLES = {
    "Echo": frozenset({Role.VIEWER}),
    "Inside": frozenset({Role.SERVICE}),
    "Unstated": frozenset({Role.SERVICE}),
    "Tail": frozenset({Role.VIEWER}),
    "Collect": frozenset({Role.VIEWER}),
    "Chat": frozenset({Role.VIEWER}),
}
_KINDS = {"Tail": (False, True), "Collect": (True, False), "Chat": (True, True)}


def full_name(method: str) -> str:
    return f"/{NAME}/{method}"


def _describe() -> None:
    file = descriptor_pb2.FileDescriptorProto(
        name="interlock/kittest/v1/kit_service.proto",
        package=PACKAGE,
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto", "interlock/common/v1/options.proto"],
    )
    service = file.service.add(name="KitService")
    for name in ROLES:
        request_streaming, response_streaming = _KINDS.get(name, (False, False))
        method = service.method.add(
            name=name,
            input_type=".google.protobuf.StringValue",
            output_type=".google.protobuf.StringValue",
            client_streaming=request_streaming,
            server_streaming=response_streaming,
        )
        if name == "Inside":
            method.options.Extensions[options_pb2.door] = options_pb2.DOOR_INTERNAL
        elif name != "Unstated":
            method.options.Extensions[options_pb2.door] = options_pb2.DOOR_PUBLIC
    descriptor_pool.Default().Add(file)


_describe()


class KitService:
    """Echoes, until a test puts something else into `does`."""

    def __init__(self) -> None:
        self.does: dict[str, Callable[[Any, Any], Any]] = {
            "Echo": echo,
            "Inside": echo,
            "Unstated": echo,
            "Tail": tail,
            "Collect": collect,
            "Chat": chat,
        }

    def service(self) -> Service:
        return Service(name=NAME, add=self.add, roles=ROLES)

    def add(self, server: grpc.aio.Server) -> None:
        handlers = {}
        for name in ROLES:
            request_streaming, response_streaming = _KINDS.get(name, (False, False))
            make: Any = getattr(
                grpc,
                f"{'stream' if request_streaming else 'unary'}_{'stream' if response_streaming else 'unary'}"
                "_rpc_method_handler",
            )
            handlers[name] = make(
                self._behaviour(name),
                request_deserializer=StringValue.FromString,
                response_serializer=StringValue.SerializeToString,
            )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))

    def _behaviour(self, name: str) -> Callable[[Any, Any], Any]:
        def late_bound(request: Any, context: Any) -> Any:
            return self.does[name](request, context)

        return late_bound


async def echo(request: StringValue, context: Any) -> StringValue:
    return request


async def tail(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
    for number in range(3):
        yield StringValue(value=f"{request.value}{number}")


async def collect(requests: AsyncIterator[StringValue], context: Any) -> StringValue:
    return StringValue(value="".join([request.value async for request in requests]))


async def chat(requests: AsyncIterator[StringValue], context: Any) -> AsyncIterator[StringValue]:
    async for request in requests:
        yield StringValue(value=request.value.upper())


class KitStub:
    """What generated code would offer a client."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        codec: Any = {
            "request_serializer": StringValue.SerializeToString,
            "response_deserializer": StringValue.FromString,
        }
        self.Echo: Any = channel.unary_unary(full_name("Echo"), **codec)
        self.Inside: Any = channel.unary_unary(full_name("Inside"), **codec)
        self.Unstated: Any = channel.unary_unary(full_name("Unstated"), **codec)
        self.Tail: Any = channel.unary_stream(full_name("Tail"), **codec)
        self.Collect: Any = channel.stream_unary(full_name("Collect"), **codec)
        self.Chat: Any = channel.stream_stream(full_name("Chat"), **codec)
        self.Missing: Any = channel.unary_unary(full_name("Missing"), **codec)
