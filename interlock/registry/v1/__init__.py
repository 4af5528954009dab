"""The contract package `interlock.registry.v1`, generated from protos/interlock/registry/v1; never edited."""
