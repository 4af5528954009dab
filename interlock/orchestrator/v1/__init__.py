"""The contract package `interlock.orchestrator.v1`, generated from protos/interlock/orchestrator/v1; never edited."""
