"""Which addresses a connection may lead to. Pure."""

import ipaddress
from collections.abc import Sequence
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

PRIVATE: tuple[Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        (
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "::1/128",
            "fc00::/7",
        ),
    )
)
# Where clouds tell their machines secrets, outside of the link-local ranges: nobody's service stands there.
_OF_CLOUDS = tuple(
    map(
        ipaddress.ip_network,
        ("100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::/32", "fd20:ce::/32"),
    )
)
# Carry another address inside, which a router somewhere would unpack.
_TUNNELS = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))


# All that was ever given out of IPv6 for the internet; the library knows some of the exceptions within.
_INTERNET_6 = ipaddress.ip_network("2000::/3")
_DOCUMENTATION_6 = ipaddress.ip_network("3fff::/20")


def _is_of_a_cloud(address: Address) -> bool:
    return any(address in network for network in _OF_CLOUDS)


def is_private(address: Address) -> bool:
    """Loopback, or of somebody's own network. Link-local is not: hosts keep their own secrets there."""
    return any(address in network for network in PRIVATE) and not _is_of_a_cloud(address)


def is_public(address: Address) -> bool:
    """An ordinary address of the internet."""
    if (
        _is_of_a_cloud(address)
        or any(address in network for network in _TUNNELS)
        or address in _DOCUMENTATION_6
    ):
        return False
    if isinstance(address, ipaddress.IPv6Address) and address not in _INTERNET_6:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def vetted(
    addresses: list[str], *, allow_private: bool, public: bool, private: Sequence[Network] = PRIVATE
) -> str | None:
    """The address to connect to; None when there is none, or one that may not be called is among them.

    `allow_private` is what the connection says, `private` what the operator leaves to connections.
    """
    parsed = [_plain(each) for each in addresses]
    own = [*private] if allow_private else []
    fine = [
        any(each in network for network in own) if is_private(each) else public and is_public(each)
        for each in parsed
    ]
    return str(parsed[0]) if fine and all(fine) else None


def _plain(text: str) -> Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
