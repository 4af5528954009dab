"""The registry: agents and tools, their immutable versions, and which agent fits a task."""
