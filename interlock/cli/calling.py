"""Finds a public method in the contract and calls it with JSON."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.message import Message

from interlock.audit.v1 import audit_service_pb2
from interlock.cli.problems import USAGE, CliError
from interlock.client.client import Client
from interlock.client.errors import InterlockError
from interlock.common.v1 import options_pb2
from interlock.gateway.v1 import connection_service_pb2, gateway_service_pb2, policy_service_pb2
from interlock.orchestrator.v1 import orchestrator_service_pb2, queue_service_pb2
from interlock.registry.v1 import registry_service_pb2, tool_service_pb2

_FILES: dict[str, tuple[FileDescriptor, ...]] = {
    "orchestrator": (orchestrator_service_pb2.DESCRIPTOR, queue_service_pb2.DESCRIPTOR),
    "registry": (registry_service_pb2.DESCRIPTOR, tool_service_pb2.DESCRIPTOR),
    "gateway": (
        gateway_service_pb2.DESCRIPTOR,
        policy_service_pb2.DESCRIPTOR,
        connection_service_pb2.DESCRIPTOR,
    ),
    "audit": (audit_service_pb2.DESCRIPTOR,),
}


def method_names(service: str) -> list[str]:
    """The public methods of a service. Raises CliError for an unknown service."""
    return sorted(_methods(service))


async def call_method(
    suite: Client, service: str, method_name: str, request_json: str
) -> AsyncIterator[dict[str, Any]]:
    """The answer, or each answer of a stream, as JSON. Raises CliError or InterlockError."""
    methods = _methods(service)
    method = methods.get(method_name)
    if method is None:
        raise CliError(
            f"{service} has no public method {method_name!r}.",
            f"It has {', '.join(sorted(methods))}.",
            reason=USAGE,
            exit_code=2,
        )
    request = message_factory.GetMessageClass(method.input_type)()
    try:
        json_format.Parse(request_json, request)
    except json_format.ParseError as error:
        raise CliError(
            f"The request is no {method.input_type.name}: {str(error).splitlines()[0]}",
            f"Its fields are {', '.join(each.name for each in method.input_type.fields) or 'none'}.",
            reason=USAGE,
            exit_code=2,
        ) from None
    try:
        async for answer in _answers(suite.channel(service), method, request):
            yield json_format.MessageToDict(answer, preserving_proto_field_name=True)
    except grpc.aio.AioRpcError as error:
        raise InterlockError.of(error) from None


async def _answers(
    channel: grpc.aio.Channel, method: MethodDescriptor, request: Message
) -> AsyncIterator[Message]:
    path = f"/{method.containing_service.full_name}/{method.name}"
    answer_type = message_factory.GetMessageClass(method.output_type)
    if method.server_streaming:
        stream: grpc.aio.UnaryStreamMultiCallable[Message, Message] = channel.unary_stream(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer_type.FromString,
        )
        async for answer in stream(request):
            yield answer
    else:
        unary: grpc.aio.UnaryUnaryMultiCallable[Message, Message] = channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer_type.FromString,
        )
        yield await unary(request)


def _methods(service: str) -> dict[str, MethodDescriptor]:
    """Every public method by its name. Raises CliError for an unknown service."""
    if service not in _FILES:
        raise CliError(
            f"There is no service {service!r}.",
            f"There are {', '.join(_FILES)}.",
            reason=USAGE,
            exit_code=2,
        )
    return {method.name: method for method in _public_methods(_FILES[service])}


def _public_methods(files: tuple[FileDescriptor, ...]) -> Iterator[MethodDescriptor]:
    for file in files:
        for described in file.services_by_name.values():
            for method in described.methods:
                if method.GetOptions().Extensions[options_pb2.door] == options_pb2.DOOR_PUBLIC:
                    yield method
