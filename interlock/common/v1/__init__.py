"""The contract package `interlock.common.v1`, generated from protos/interlock/common/v1; never edited."""
