"""What runs inside a tool's sandbox: sent there as text, never imported by the gateway."""
