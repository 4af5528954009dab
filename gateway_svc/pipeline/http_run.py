"""Step 11 for tools without code: one request of the gateway's own, and what its answer means."""

import asyncio
import json

from gateway_svc import http_tool
from gateway_svc.connection import READING
from gateway_svc.database_client import AskFailed
from gateway_svc.errors import no_time_left
from gateway_svc.http_tool import HttpTool, PlaceEmpty, RequestFailed
from gateway_svc.pipeline.broker import Broker
from gateway_svc.pipeline.cancelable import CallCanceledError, Cancelable
from gateway_svc.pipeline.pending import Begun, Tool
from gateway_svc.pipeline.result import ResultCheck, canceled, lost, timed_out, tool_error
from gateway_svc.tool_call import Outcome
from svc_kit.clock import Clock
from svc_kit.errors import DomainError


class HttpRunner:
    """Sends the request of a call, which can be ended from outside like any."""

    def __init__(self, broker: Broker, running: Cancelable, results: ResultCheck, clock: Clock) -> None:
        self._broker = broker
        self._running = running
        self._results = results
        self._clock = clock

    async def run(self, begun: Begun, tool: Tool, http: HttpTool) -> Outcome:
        """How it ended; one that was sent and not answered is UNKNOWN, unless it only reads."""
        seconds = min(tool.wall_seconds, begun.cleared.pending.seconds_left())
        if seconds <= 0:
            raise no_time_left()
        try:
            asked = http_tool.asked(http, begun.cleared.arguments.value)
            async with asyncio.timeout(seconds):
                answer = await self._running.run(
                    begun.call.asked, self._broker.fetch(begun, tool, asked), connections=tool.connections
                )
            value = http_tool.result(answer)
        except (CallCanceledError, TimeoutError) as error:
            return self._cut_off(error, seconds) if http.method in READING else lost(now=self._clock.now())
        except (PlaceEmpty, AskFailed, RequestFailed, DomainError) as error:
            return self._failed(error, reads=http.method in READING)
        text = json.dumps(value, allow_nan=False).encode()
        return self._results.accept(text, tool, now=self._clock.now())

    def _cut_off(self, error: CallCanceledError | TimeoutError, seconds: float) -> Outcome:
        now = self._clock.now()
        if isinstance(error, CallCanceledError):
            return canceled(now=now, isolation="", why=error.why)
        return timed_out(now=now, seconds=seconds)

    def _failed(self, error: PlaceEmpty | AskFailed | RequestFailed | DomainError, *, reads: bool) -> Outcome:
        now = self._clock.now()
        match error:
            case AskFailed(executed=None) if not reads:
                return lost(now=now)
            case AskFailed():
                error_class, said = error.reason, error.message
            case RequestFailed():
                error_class, said = f"HTTP_{error.status}", str(error)
            case DomainError():
                error_class, said = error.reason_name, error.message
            case _:
                error_class, said = "INVALID_FIELDS", str(error)
        return tool_error(error_class, said, now=now)
