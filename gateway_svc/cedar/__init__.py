"""Cedar, made to fail closed: what a policy may say, what it sees, and what it decides."""
