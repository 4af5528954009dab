"""What happens around every RPC of every service, in one list."""

from collections.abc import Collection, Mapping

from svc_kit.identity.roles import Role
from svc_kit.identity.verifier import TokenVerifier
from svc_kit.interceptors.access import AccessInterceptor
from svc_kit.interceptors.codec import CodecInterceptor
from svc_kit.interceptors.deadline import DeadlineInterceptor
from svc_kit.interceptors.drain import Drain, DrainInterceptor
from svc_kit.interceptors.errors import ErrorInterceptor
from svc_kit.interceptors.handlers import InterceptorChain
from svc_kit.interceptors.measure import MeasureInterceptor
from svc_kit.interceptors.request_context import RequestContextInterceptor


def interceptor_chain(
    *,
    verifier: TokenVerifier,
    roles: Mapping[str, frozenset[Role]],
    refused: Collection[str],
    drain: Drain,
    waiting: Collection[str],
    default_deadline: float,
) -> InterceptorChain:
    """The interceptors of one door; `refused` are the methods that it does not serve.

    `waiting` are those with a single reply that a drain ends, as it ends streams.
    """
    outermost_first = [
        # First, so that everything below logs and answers with the request id.
        RequestContextInterceptor(),
        # Outside the errors, so that refusals and failures are counted with the code they are answered with.
        MeasureInterceptor(),
        # Outside all that may refuse: whatever is raised from here on becomes a status in one place.
        ErrorInterceptor(),
        # Before anything costs work: a stream of a stopping server ends, an endless call gets an end.
        DrainInterceptor(drain, waiting=waiting),
        DeadlineInterceptor(default_deadline),
        # Before the request is parsed: strangers do not get to feed the parser.
        AccessInterceptor(verifier=verifier, roles=roles, refused=refused),
        # Last: messages become bytes and bytes messages inside of all the others, errors included.
        CodecInterceptor(),
    ]
    return InterceptorChain(outermost_first)
