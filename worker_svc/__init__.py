"""Workers: claim a task, run its agent, journal its steps."""
