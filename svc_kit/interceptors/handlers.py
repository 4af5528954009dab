"""Wrapping method handlers of all four kinds."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour: TypeAlias = "Callable[[Any, Context], Any]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """The method being called."""

    name: str  # "/interlock.orchestrator.v1.OrchestratorService/SubmitTask"
    request_streaming: bool
    response_streaming: bool


class Incoming(NamedTuple):
    """One call, as the interceptors around it see it."""

    method: Method
    context: Context


class Interceptor(ABC):
    """Something that happens around calls."""

    @abstractmethod
    def wrap(self, method: Method, handler: Handler) -> Handler:
        """The handler to serve `method` with instead of `handler`."""


class InterceptorChain(grpc.aio.ServerInterceptor):
    """All interceptors of a door, outermost first, as the one that grpc sees.

    Each method is wrapped at its first call and not at each: grpc would walk the list for every call.
    """

    def __init__(self, interceptors: Sequence[Interceptor]) -> None:
        self._interceptors = tuple(interceptors)
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """See grpc: None means that no such method is served, which grpc answers itself."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        name = handler_call_details.method
        original, wrapped = self._wrapped.get(name, (None, None))
        if wrapped is None or original is not handler:
            wrapped = self._wrap(name, handler)
            self._wrapped[name] = (handler, wrapped)
        return wrapped

    def _wrap(self, name: str, handler: Handler) -> Handler:
        method = Method(
            name=name,
            request_streaming=handler.request_streaming,
            response_streaming=handler.response_streaming,
        )
        for interceptor in reversed(self._interceptors):
            handler = interceptor.wrap(method, handler)
        return handler


class ScopeInterceptor(Interceptor):
    """Runs every call inside an async context manager, whatever kind of call it is."""

    @abstractmethod
    def scope(self, incoming: Incoming) -> AbstractAsyncContextManager[None]:
        """Entered before the call begins; sees the exception that ends it."""

    def wrap(self, method: Method, handler: Handler) -> Handler:
        """See Interceptor."""
        inner = behaviour_of(handler)

        async def stream(request: Any, context: Context) -> None:
            async with self.scope(Incoming(method, context)):
                await write_all(inner, request, context)

        async def answer(request: Any, context: Context) -> Any:
            async with self.scope(Incoming(method, context)):
                return await inner(request, context)

        return with_behaviour(handler, stream if method.response_streaming else answer)


async def write_all(inner: Behaviour, request: Any, context: Context) -> None:
    """Run a streaming behaviour of either style, and write what it yields.

    A wrapper that yielded in turn would be left suspended when the client goes away in the middle of a write,
    and be closed later from another task, where context variables and locks are not its own.
    """
    replies = inner(request, context)
    if not hasattr(replies, "__aiter__"):
        await replies
        return
    async with aclosing(replies):
        async for reply in replies:
            await context.write(reply)


def behaviour_of(handler: Handler) -> Behaviour:
    """The one function that `handler` serves with."""
    # The stubs type behaviours for the synchronous API alone.
    behaviours: list[Any] = [
        handler.unary_unary,
        handler.unary_stream,
        handler.stream_unary,
        handler.stream_stream,
    ]
    found: Behaviour = next(behaviour for behaviour in behaviours if behaviour is not None)
    return found


def with_behaviour(handler: Handler, behaviour: Behaviour, **codec: Any) -> Handler:
    """`handler` with another behaviour; `codec` overrides request_deserializer and response_serializer."""
    make = _MAKERS[handler.request_streaming, handler.response_streaming]
    options = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    made: Handler = make(behaviour, **(options | codec))
    return made


_MAKERS: dict[tuple[bool, bool], Callable[..., Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
