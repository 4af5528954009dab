"""The contract package `interlock.gateway`, generated from protos/interlock/gateway; never edited."""
