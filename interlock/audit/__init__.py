"""The contract package `interlock.audit`, generated from protos/interlock/audit; never edited."""
