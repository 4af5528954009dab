"""The contract package `interlock.common`, generated from protos/; never edited."""
