"""The SDK of Python agents: what an agent's code is given, and the errors it may see.

An agent is a coroutine function, named in the entry-point group `interlock.agents`:

    async def run(context: AgentContext, input: dict[str, Any]) -> Any: ...
"""

from interlock.agent.context import (
    AgentContext,
    AgentError,
    ChildFailed,
    ChildTask,
    ToolError,
    ToolRefused,
)

ENTRY_POINT_GROUP = "interlock.agents"

__all__ = [
    "ENTRY_POINT_GROUP",
    "AgentContext",
    "AgentError",
    "ChildFailed",
    "ChildTask",
    "ToolError",
    "ToolRefused",
]
