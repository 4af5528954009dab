"""Channels of a service to others: request id, trace and deadline of what is being served go along."""

from collections.abc import Collection

import grpc

from interlock.common import channel as common
from interlock.common.channel import DEFAULT_DEADLINE_SECONDS, ClientTls, Errand, TokenFile, TokenSource
from interlock.common.remote_error import REQUEST_ID_KEY
from svc_kit.call_context import TRACEPARENT_KEY, current_call

__all__ = ["ClientTls", "TokenFile", "TokenSource", "channel"]


def channel(
    address: str,
    token: TokenSource | None = None,
    *,
    safe_methods: Collection[str] = (),
    deadline: float = DEFAULT_DEADLINE_SECONDS,
    tls: ClientTls | None = None,
    allow_plaintext_beyond_loopback: bool = False,
) -> grpc.aio.Channel:
    """As interlock.common.channel; what is asked on behalf of a call carries its ids and ends with it."""
    return common.channel(
        address,
        token,
        safe_methods=safe_methods,
        deadline=deadline,
        tls=tls,
        allow_plaintext_beyond_loopback=allow_plaintext_beyond_loopback,
        errand=_errand,
    )


def _errand() -> Errand | None:
    call = current_call()
    if call is None:
        return None
    return Errand(
        metadata=((REQUEST_ID_KEY, call.request_id), (TRACEPARENT_KEY, call.traceparent)),
        deadline=call.deadline,
    )
