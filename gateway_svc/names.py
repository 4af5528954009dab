"""Looks up the names of hosts, on threads of its own: a slow answer holds up nobody else."""

import asyncio
import functools
import ipaddress
import socket
import weakref
from concurrent.futures import ThreadPoolExecutor

_SECONDS = 10.0
_THREADS = 64
_OF_A_TENANT = 4


class NameUnknownError(Exception):
    """No address was found, or not in time."""


class Names:
    """Addresses as the system knows them.

    A look-up cannot be ended, and whoever runs a name's server decides how long it takes. So no tenant has
    more than its share of the threads, which are not those on which the rest of the process works.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="names")
        self._shares: weakref.WeakValueDictionary[str, asyncio.Semaphore] = weakref.WeakValueDictionary()

    async def addresses(self, tenant: str, host: str, port: int) -> list[str]:
        """All of a host, for a connection of a tenant; raises NameUnknownError."""
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            pass
        try:
            async with asyncio.timeout(_SECONDS):
                return await self._look_up(tenant, host, port)
        except (OSError, UnicodeError, TimeoutError):
            raise NameUnknownError from None

    async def _look_up(self, tenant: str, host: str, port: int) -> list[str]:
        share = self._shares.get(tenant)
        if share is None:
            share = self._shares[tenant] = asyncio.Semaphore(_OF_A_TENANT)
        await share.acquire()
        looking = asyncio.get_running_loop().run_in_executor(self._threads, _found, host, port)
        # Given back by the look-up itself: whoever waits for it may have left.
        looking.add_done_callback(functools.partial(_done, share))
        return await asyncio.shield(looking)


def _found(host: str, port: int) -> list[str]:
    return [str(sockaddr[0]) for *_, sockaddr in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _done(share: asyncio.Semaphore, looking: "asyncio.Future[list[str]]") -> None:
    share.release()
    if not looking.cancelled():
        looking.exception()  # nobody may be there any more to take it
