"""The contract package `interlock.registry.v1`, generated from protos/; never edited."""
