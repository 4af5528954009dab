"""Model agents. Only `worker_svc.llm.agent` needs pydantic-ai, and is loaded with the first such task."""
