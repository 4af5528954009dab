"""The contract package `interlock.audit.v1`, generated from protos/interlock/audit/v1; never edited."""
