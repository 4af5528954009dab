"""The orchestrator: tasks from submit to their terminal event, and the workers' side of them."""
