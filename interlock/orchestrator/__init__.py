"""The contract of the orchestrator, by version."""
