"""What a call of a model is checked against, and how it is sent."""

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import Protocol

import structlog

from gateway_svc.connection import Connection
from gateway_svc.errors import arguments_invalid, model_unavailable
from gateway_svc.outgoing_http import BrokenOffError, HttpAnswer, NotSentError, TooLargeError
from gateway_svc.outgoing_request import OutgoingRequest
from gateway_svc.pipeline.arguments import parse_arguments
from gateway_svc.pipeline.cancelable import CallCanceledError, Cancelable
from gateway_svc.pipeline.model_answer import judge, too_large
from gateway_svc.pipeline.model_binding import ModelBinding
from gateway_svc.pipeline.model_quota import quotas, reserve, size_flaws
from gateway_svc.pipeline.pending import Arguments, Begun, Cleared, Model, Pending
from gateway_svc.pipeline.result import canceled
from gateway_svc.tool_call import Asked, CallStatus, Outcome
from gateway_svc.verdicts import Check
from interlock.common.time_limits import MODEL_SECONDS
from svc_kit.clock import Clock
from svc_kit.errors import Violation
from svc_kit.strict_json import JsonValue, canonical

log = structlog.get_logger(__name__)

PATH = "/chat/completions"
_OURS = ("model", "stream", "stream_options")


class Http(Protocol):
    """What this step asks of the network."""

    async def send(self, connection: Connection, request: OutgoingRequest, *, credential: str) -> HttpAnswer:
        """The answer, whatever its status."""


class Credentials(Protocol):
    """What this step asks of the connections."""

    def credential(self, stored: Connection) -> str:
        """The credential, empty when there is none; raises CREDENTIAL_MISSING."""


class ModelWork:
    """Steps 4 to 6 and 10 to 12 for models."""

    def __init__(
        self,
        *,
        binding: ModelBinding,
        credentials: Credentials,
        http: Http,
        running: Cancelable,
        clock: Clock,
    ) -> None:
        self._binding = binding
        self._credentials = credentials
        self._http = http
        self._running = running
        self._clock = clock

    async def clear(self, pending: Pending) -> Cleared:
        """The call with the very bytes that will be sent, if it passes; raises the refusal."""
        model = await self._binding.check(pending)
        arguments = _request(pending, model)
        host = model.connection.content.base_url
        pending.verdicts.passed(Check.APPROVAL, "No approval is asked for.")
        pending.verdicts.passed(Check.REACH, f"Sent by the gateway to {host} alone; no redirects.")
        asked = replace(pending.asked, tool_version=model.name)
        return Cleared(
            pending=replace(pending, asked=asked),
            called=model,
            arguments=arguments,
            policy_ids=(),
            ceilings=quotas(model.connection),
            reserve=reserve(arguments, model),
        )

    async def confirm(self, cleared: Cleared) -> None:
        """The connection or the agent may have changed during the write-ahead; where to send may not."""
        model = await self._binding.check(cleared.pending)
        if model != cleared.called:
            raise model_unavailable(
                model.connection.connection_id, "was changed while the call began", retry_after=1.0
            )

    async def may_repeat(self, asked: Asked) -> bool:  # noqa: ARG002 - of no model call
        """A prompt that is sent twice costs its tokens twice, and does no other harm."""
        return True

    async def perform(self, begun: Begun) -> Outcome:
        """The outcome, without its receipt; raises a DomainError only when the provider did nothing."""
        model = begun.cleared.called
        if not isinstance(model, Model):
            raise TypeError("this is a call of a tool")
        connection_id = model.connection.connection_id
        credential = self._credentials.credential(model.connection)
        seconds = min(begun.cleared.pending.seconds_left(), MODEL_SECONDS)
        post = self._http.send(
            model.connection, _posted(begun.cleared.arguments.canonical, connection_id), credential=credential
        )
        try:
            async with asyncio.timeout(seconds):
                answer = await self._running.run(begun.call.asked, post, connections=(connection_id,))
        except CallCanceledError as error:
            return canceled(now=self._clock.now(), isolation="", why=error.why)
        except NotSentError:
            raise model_unavailable(connection_id, "cannot be reached", retry_after=1.0) from None
        except TooLargeError:
            return too_large(self._clock.now())
        except BrokenOffError as error:
            log.warning("model_answer_broken_off", connection=connection_id, error=error.why)
            return _open(self._clock.now(), "MODEL_UNAVAILABLE", "broke off in the middle", begun.call.asked)
        except TimeoutError:
            return _open(self._clock.now(), "MODEL_TIMEOUT", "did not answer in time", begun.call.asked)
        return judge(answer, begun, model, credential=credential, now=self._clock.now())


def _posted(body: bytes, connection_id: str) -> OutgoingRequest:
    headers = {"content-type": "application/json", "accept": "application/json"}
    return OutgoingRequest(connection=connection_id, method="POST", target=PATH, headers=headers, body=body)


def _request(pending: Pending, model: Model) -> Arguments:
    """The request as it is sent; raises ARGUMENTS_INVALID, or PERMIT_MISMATCH."""
    value = parse_arguments(pending).value
    found = [
        Violation(f"request_json.{name}", "is set by the gateway; leave it out")
        for name in _OURS
        if name in value
    ]
    found += size_flaws(value)
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        found.append(Violation("request_json.messages", "must be a list of at least one message"))
    if found:
        raise arguments_invalid(found)
    sent: dict[str, JsonValue] = {**value, "model": model.name, "stream": False}
    return Arguments(value=value, canonical=canonical(sent))


def _open(now: datetime, reason: str, what: str, asked: Asked) -> Outcome:
    """An outcome of which nobody knows more than that tokens may have been used; it may be tried again."""
    return Outcome(
        status=CallStatus.UNKNOWN,
        end_time=now,
        isolation="",
        reason=reason,
        message=f"the provider behind connection {asked.tool} {what}",
    )
