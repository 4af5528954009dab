"""Parsing and serializing inside the reach of the other interceptors."""

from typing import Any

from google.protobuf.message import DecodeError

from svc_kit.errors import Violation, invalid
from svc_kit.interceptors.handlers import (
    Context,
    Handler,
    Interceptor,
    Method,
    behaviour_of,
    with_behaviour,
)


class CodecInterceptor(Interceptor):
    """Single messages are parsed and serialized here instead of in grpc.

    grpc would answer bytes that do not parse, or a reply that does not serialize, with the exception's own
    text and none of our details. Streamed messages stay with grpc: handlers may read them from the context.
    """

    def wrap(self, method: Method, handler: Handler) -> Handler:
        """See Interceptor."""
        inner = behaviour_of(handler)
        parse, serialize = handler.request_deserializer, handler.response_serializer
        codec: dict[str, Any] = {}
        if not method.request_streaming and parse is not None:
            inner, codec["request_deserializer"] = _parsing(inner, parse), None
        if not method.response_streaming and serialize is not None:
            inner, codec["response_serializer"] = _serializing(inner, serialize), None
        return with_behaviour(handler, inner, **codec)


def _parsing(inner: Any, parse: Any) -> Any:
    def run(request: bytes, context: Context) -> Any:
        try:
            message = parse(request)
        except DecodeError:
            raise invalid([Violation("", "the request cannot be parsed as the method's message")]) from None
        return inner(message, context)

    return run


def _serializing(inner: Any, serialize: Any) -> Any:
    async def run(request: Any, context: Context) -> Any:
        return serialize(await inner(request, context))

    return run
