"""The way of one tool call: a module a step, and `execute` that takes them in order."""
