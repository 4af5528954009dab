"""The contract package `interlock.gateway.v1`, generated from protos/interlock/gateway/v1; never edited."""
