"""What runs inside an agent's sandbox: sent there as text, never imported by the worker."""
