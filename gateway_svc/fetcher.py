"""Sends the requests of tools to HTTP origins: recorded before, and what came of it after."""

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any, Protocol

from gateway_svc.audit_events import add_json, request_event
from gateway_svc.audit_log import AuditLog, NotRecordedError
from gateway_svc.connection import READING, Connection, ConnectionKind
from gateway_svc.database_client import AskFailed
from gateway_svc.outgoing_http import BrokenOffError, HttpAnswer, NotSentError, TooLargeError
from gateway_svc.outgoing_request import OutgoingRequest, RequestFlawError, to_request
from gateway_svc.redaction import Redaction
from gateway_svc.tool_call import ToolCall
from svc_kit.clock import Clock
from svc_kit.errors import DomainError
from svc_kit.ids import uuid7

_SECONDS = 30.0
_MAX_ATTRIBUTE = 512
# Headers of an answer that a tool is given; others may tell of the way, or set state.
_GIVEN = frozenset(
    {
        *("content-type", "content-length", "content-language", "etag", "last-modified", "location"),
        *("retry-after", "link", "date", "cache-control"),
    }
)


class Http(Protocol):
    """What is asked of the network."""

    async def send(self, connection: Connection, request: OutgoingRequest, *, credential: str) -> HttpAnswer:
        """The answer, whatever its status."""


class Fetcher:
    """One request at a time, of a tool that may use the connection."""

    def __init__(self, http: Http, audit: AuditLog, clock: Clock) -> None:
        self._http = http
        self._audit = audit
        self._clock = clock

    async def fetch(
        self, call: ToolCall, connection: Connection, credential: str, asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What came back, as the tool gets to see it; raises AskFailed."""
        request = _checked(connection, asked)
        await self._record(call, request, "SENT")
        try:
            async with asyncio.timeout(_SECONDS):
                answer = await self._http.send(connection, request, credential=credential)
        except DomainError as error:
            failed = AskFailed(error.reason_name, error.message)
        except NotSentError:
            failed = AskFailed("PEER_UNAVAILABLE", "the other side cannot be reached; nothing was sent")
        except TooLargeError:
            failed = AskFailed("LIMIT_EXCEEDED", "the answer is larger than 256 KiB", executed=None)
        except (BrokenOffError, TimeoutError):
            failed = AskFailed("OUTCOME_UNKNOWN", "no whole answer came", executed=None)
        else:
            await self._record(call, request, "ANSWERED", answer)
            return _given(answer, Redaction([credential]))
        await self._record(call, request, "FAILED", reason=failed.reason)
        raise failed

    async def _record(
        self,
        call: ToolCall,
        request: OutgoingRequest,
        status: str,
        answer: HttpAnswer | None = None,
        *,
        reason: str = "",
    ) -> None:
        """Nothing is sent, and nothing given, of which the log does not hold that it is."""
        event = request_event(call, event_id=uuid7(), time=self._clock.now(), status=status, reason=reason)
        event.attributes["connection"] = request.connection
        event.attributes["method"] = request.method
        event.attributes["target"] = request.target[:_MAX_ATTRIBUTE]
        if answer is not None:
            event.attributes["http_status"] = str(answer.status)
            event.attributes["bytes"] = str(len(answer.body))
        elif status == "SENT" and _has_more(request):
            whole = {
                "target": request.target,
                "headers": dict(request.headers),
                "body": base64.b64encode(request.body).decode(),
            }
            add_json(event, "request", json.dumps(whole).encode())
        try:
            await self._audit.append(event)
        except NotRecordedError:
            executed = None if status != "SENT" else False
            raise AskFailed("AUDIT_UNAVAILABLE", "the audit log does not answer", executed=executed) from None


def _has_more(request: OutgoingRequest) -> bool:
    """Whether it carries what the attributes of its entry do not hold."""
    return bool(request.body or request.headers) or len(request.target) > _MAX_ATTRIBUTE


def _checked(connection: Connection, asked: Mapping[str, Any]) -> OutgoingRequest:
    try:
        request = to_request(asked)
    except RequestFlawError as error:
        raise AskFailed("INVALID_FIELDS", str(error)) from None
    if connection.kind is not ConnectionKind.HTTP:
        raise AskFailed("INVALID_FIELDS", f"connection {connection.connection_id} leads to no HTTP origin")
    if request.method not in (connection.content.methods or READING):
        raise AskFailed("METHOD_FORBIDDEN", f"{request.method} is not allowed there")
    return request


def _given(answer: HttpAnswer, redaction: Redaction) -> dict[str, Any]:
    """What the tool gets to see: nothing of the way, and not the credential."""
    headers = {name: redaction.text(value) for name, value in answer.headers.items() if name in _GIVEN}
    body = answer.body.decode("utf-8", "surrogateescape")
    redacted = redaction.text(body).encode("utf-8", "surrogateescape")
    return {"status": answer.status, "headers": headers, "body": base64.b64encode(redacted).decode()}
