"""The contract of the gateway, by version."""
