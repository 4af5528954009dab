"""The contract package `interlock.orchestrator`, generated from protos/; never edited."""
