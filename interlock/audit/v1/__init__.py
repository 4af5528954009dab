"""The contract package `interlock.audit.v1`, generated from protos/; never edited."""
