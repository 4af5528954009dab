"""The contract of the audit log, by version."""
