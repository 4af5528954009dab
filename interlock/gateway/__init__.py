"""The contract package `interlock.gateway`, generated from protos/; never edited."""
