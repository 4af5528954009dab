"""The contract package `interlock.common.v1`, generated from protos/; never edited."""
