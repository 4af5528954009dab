"""The contract of the registry, by version."""
