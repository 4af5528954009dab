"""The contract package `interlock.gateway.v1`, generated from protos/; never edited."""
