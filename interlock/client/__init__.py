"""Clients of the Interlock services."""

from interlock.client.client import Client
from interlock.client.errors import InterlockError
from interlock.client.sync_client import SyncClient

__all__ = ["Client", "InterlockError", "SyncClient"]
