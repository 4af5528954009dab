"""The one place where exceptions become statuses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import grpc
import structlog
from google.rpc import status_pb2

from interlock.common.remote_error import REQUEST_ID_KEY, known_code
from interlock.common.v1.errors_pb2 import ErrorReason
from svc_kit.call_context import Call, current_call
from svc_kit.errors import DomainError, Internal, Unavailable
from svc_kit.interceptors.deadline import DefaultDeadlineExpired
from svc_kit.interceptors.handlers import Context, Incoming, ScopeInterceptor
from svc_kit.status import STATUS_KEY, to_status

log = structlog.get_logger(__name__)

# Codes that say something of ours is broken; everything else is the caller's business.
_OUR_FAULT = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS})


class ErrorInterceptor(ScopeInterceptor):
    """DomainError → its status with details; anything unexpected → INTERNAL with the request id, no text."""

    @asynccontextmanager
    async def scope(self, incoming: Incoming) -> AsyncIterator[None]:
        """See ScopeInterceptor."""
        call = _call()
        try:
            yield
        except grpc.aio.AbortError:
            call.code = incoming.context.code()
            raise
        except asyncio.CancelledError:
            # The client went away, or its deadline passed: nobody is left to be answered.
            call.code = _why_cancelled(call)
            raise
        except DomainError as error:
            await _abort_with(incoming.context, call, error)
        except DefaultDeadlineExpired as error:
            status = status_pb2.Status(code=grpc.StatusCode.DEADLINE_EXCEEDED.value[0], message=str(error))
            await _abort(incoming.context, call, grpc.StatusCode.DEADLINE_EXCEEDED, status)
        except Exception as error:
            if _is_unavailable_peer(error):
                log.warning("another service is unavailable", text=str(error))
                await _abort_with(incoming.context, call, _peer_unavailable())
            log.exception("unexpected error")
            internal = _internal(call)
            await _abort(incoming.context, call, internal.code, to_status(internal, call.request_id))


async def _abort_with(context: Context, call: Call, error: DomainError) -> NoReturn:
    if error.code in _OUR_FAULT:
        log.error("call failed", code=error.code.name, reason=error.reason_name, text=error.message)
    else:
        log.info("call refused", code=error.code.name, reason=error.reason_name, text=error.message)
    await _abort(context, call, error.code, to_status(error, call.request_id))


def _is_unavailable_peer(error: Exception) -> bool:
    """Whether a call to another service found nobody, and nobody on the way here knew better."""
    return isinstance(error, grpc.aio.AioRpcError) and known_code(error.code()) is grpc.StatusCode.UNAVAILABLE


def _peer_unavailable() -> Unavailable:
    return Unavailable(
        ErrorReason.ERROR_REASON_PEER_UNAVAILABLE,
        "a service that this call needs cannot be reached",
        retry_after=1.0,
    )


def _internal(call: Call) -> Internal:
    return Internal(
        ErrorReason.ERROR_REASON_INTERNAL,
        f"internal error; the log has it under request id {call.request_id}",
    )


async def _abort(context: Context, call: Call, code: grpc.StatusCode, status: status_pb2.Status) -> NoReturn:
    call.code = code
    trailing = ((REQUEST_ID_KEY, call.request_id), (STATUS_KEY, status.SerializeToString()))
    await context.abort(code, status.message, trailing)


def _why_cancelled(call: Call) -> grpc.StatusCode:
    if call.deadline is not None and asyncio.get_running_loop().time() >= call.deadline:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.CANCELLED


def _call() -> Call:
    call = current_call()
    if call is None:
        raise RuntimeError("the request context interceptor must come before the errors interceptor")
    return call
