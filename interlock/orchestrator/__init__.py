"""The contract package `interlock.orchestrator`, generated from protos/interlock/orchestrator; never edited."""
