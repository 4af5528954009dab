"""Clients of the Interlock services."""
