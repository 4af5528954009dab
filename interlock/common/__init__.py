"""The contract package `interlock.common`, generated from protos/interlock/common; never edited."""
