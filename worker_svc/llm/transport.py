"""The way of a model agent's requests: the journal and the gateway instead of the network."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2

from worker_svc.llm.budget import Budget

# Nobody listens there, and nothing is ever sent there: the gateway knows the address, and the credential.
BASE_URL = "http://gateway.invalid/v1"
# The gateway sets these by the agent version and the connection.
_NOT_OURS = ("model", "stream", "stream_options")

# Takes the key of the step and the request; gives the response and what it used up.
CallModel = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


class JournalTransport(httpx2.AsyncBaseTransport):
    """Answers chat-completion requests with what the journal's model steps answer."""

    def __init__(self, call_model: CallModel, budget: Budget) -> None:
        self._call_model = call_model
        self._budget = budget

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response of the gateway's provider; raises AgentError."""
        body = json.loads(await request.aread())
        number = self._budget.begin()
        asked = {name: value for name, value in body.items() if name not in _NOT_OURS}
        answer = await self._call_model(f"model-{number}", asked)
        self._budget.add(answer["usage"])
        return httpx2.Response(200, json=answer["response"], request=request)
