"""The contract package `interlock.audit`, generated from protos/; never edited."""
