"""Schema of the orchestrator's database."""
