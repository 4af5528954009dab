"""The contract package `interlock.registry`, generated from protos/; never edited."""
