"""An agent that does nothing."""

from typing import Any

from interlock.agent import AgentContext


async def run(_context: AgentContext, _task: dict[str, Any]) -> dict[str, Any]:
    """Answer at once."""
    return {}
