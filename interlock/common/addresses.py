"""Addresses that a service listens on or calls: `host:port`, `[v6]:port` or `unix:/path`.

A service with replicas is called by the addresses of all of them, separated by commas.
"""

import ipaddress
from dataclasses import dataclass

_MAX_UNIX_PATH_BYTES = 107  # what fits sockaddr_un with its closing NUL
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Address:
    """A checked address."""

    text: str  # as grpc takes it
    host: str  # "" for a unix socket
    port: int  # 0 for a unix socket, or to let the system choose

    @property
    def is_unix(self) -> bool:
        """Whether it is a unix socket, which only this machine reaches."""
        return not self.host

    @property
    def path(self) -> str:
        """The socket's path; empty for TCP."""
        return self.text.removeprefix("unix:") if self.is_unix else ""

    @property
    def is_local(self) -> bool:
        """Whether nothing beyond this machine reaches it; a name but localhost may resolve anywhere."""
        if self.is_unix or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def with_port(self, port: int) -> "Address":
        """The same host with the port that the system chose; a unix socket stays as it is."""
        return self if self.is_unix else parse_address(f"{self.text.rpartition(':')[0]}:{port}")


def parse_address(text: str) -> Address:
    """ValueError says what is wrong with `text`."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError(f"{text}: a unix socket needs an absolute path, unix:/…")
        if len(path.encode()) > _MAX_UNIX_PATH_BYTES:
            raise ValueError(f"{text}: a unix socket's path may have {_MAX_UNIX_PATH_BYTES} bytes at most")
        return Address(text, "", 0)
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not bare or (":" in bare) != (host != bare):
        raise ValueError(f"{text!r}: an address is spelled host:port, [v6]:port or unix:/path")
    if not port.isascii() or not port.isdigit() or int(port) > _MAX_PORT:
        raise ValueError(f"{text}: the port must be a number from 0 to {_MAX_PORT}")
    return Address(text, bare, int(port))


@dataclass(frozen=True, slots=True)
class Peer:
    """Where a service is called: one address, or those of its replicas."""

    target: str  # as grpc takes it
    is_local: bool  # whether nothing beyond this machine is reached
    is_spread: bool  # whether calls go to several addresses in turn


def parse_peer(text: str) -> Peer:
    """ValueError says what is wrong with `text`.

    Replicas are named by numeric addresses or by unix sockets. A host name stands alone; what it resolves to
    are the replicas.
    """
    addresses = [parse_address(part.strip()) for part in text.split(",")]
    is_local = all(address.is_local for address in addresses)
    if len(addresses) == 1:
        (address,) = addresses
        return Peer(address.text, is_local, is_spread=not address.is_unix and _family(address) is None)
    families = {_family(address) for address in addresses}
    if len(families) > 1 or None in families:
        raise ValueError(
            f"{text}: replicas are named by IPv4 addresses, by IPv6 addresses or by unix sockets"
        )
    (family,) = families
    return Peer(f"{family}:{','.join(_place(address) for address in addresses)}", is_local, is_spread=True)


def _place(address: Address) -> str:
    return address.path or address.text


def _family(address: Address) -> str | None:
    """The kind of a numeric address or socket, in grpc's words; None for a name."""
    if address.is_unix:
        return "unix"
    try:
        return f"ipv{ipaddress.ip_address(address.host).version}"
    except ValueError:
        return None
