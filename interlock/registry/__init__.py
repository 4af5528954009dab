"""The contract package `interlock.registry`, generated from protos/interlock/registry; never edited."""
