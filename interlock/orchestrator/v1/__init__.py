"""The contract package `interlock.orchestrator.v1`, generated from protos/; never edited."""
