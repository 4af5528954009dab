"""Where connections may lead to."""

import ipaddress

import pytest

from gateway_svc.addresses import PRIVATE, vetted
from gateway_svc.config import GatewaySettings
from gateway_svc.names import Names, NameUnknownError

_LINK_LOCAL = "169.254.169.254"


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111"])
def test_public_addresses_are_called(address: str) -> None:
    assert vetted([address], allow_private=False, public=True) == address


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.1.1",
        "100.64.0.1",
        "::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        _LINK_LOCAL,
        "fe80::1%eth0",
        "224.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_special_addresses_are_not_called(address: str) -> None:
    assert vetted([address], allow_private=False, public=True) is None


# However a machine of one's own, or its secrets, may be written.
_DISGUISED = [
    *("localhost", "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1"),
    *("017700000001", "127.0.0.1.", "127.255.255.254", "0.0.0.0", "0", "0x0"),
    *("10.0.0.1", "10.255.255.255", "167772161", "172.16.0.1", "172.31.255.255", "192.168.0.1"),
    *("0xc0a80001", "3232235521", "100.64.0.1", "100.127.255.255"),
    *("169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376"),
    *("192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::1", "::", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:169.254.169.254", "::127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::169.254.169.254", "64:ff9b:1::7f00:1", "2002:7f00:1::"),
    *("2002:a9fe:a9fe::", "2001:0:7f00:1::", "fc00::1", "fd12:3456::1", "fe80::1", "fec0::1"),
    *("ff02::1", "2001:db8::1", "100::1", "3fff::1"),
]


@pytest.mark.parametrize("host", _DISGUISED)
async def test_no_way_to_write_a_special_address_leads_there(host: str) -> None:
    try:
        found = await Names().addresses("tenant", host, 443)
    except NameUnknownError:
        return  # it is not even a name of anything
    assert vetted(found, allow_private=False, public=True) is None, found


def test_private_addresses_are_called_where_they_are_allowed_but_never_link_local_ones() -> None:
    assert vetted(["::ffff:127.0.0.1"], allow_private=True, public=False) == "127.0.0.1"
    assert vetted(["fd00::1"], allow_private=True, public=True) == "fd00::1"
    for secret in (_LINK_LOCAL, "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16"):
        assert vetted([secret], allow_private=True, public=True) is None, secret
    assert vetted(["8.8.8.8"], allow_private=True, public=False) is None, "plain http leaves no network"


def test_private_addresses_are_called_no_further_than_the_operator_lets_connections() -> None:
    assert GatewaySettings.model_fields["private_networks"].default == PRIVATE
    some = [ipaddress.ip_network("10.20.0.0/16")]
    assert vetted(["10.20.1.1"], allow_private=True, public=False, private=some) == "10.20.1.1"
    for elsewhere in ("10.21.0.1", "127.0.0.1", "::ffff:127.0.0.1", "::1", "fd00::1"):
        assert vetted([elsewhere], allow_private=True, public=True, private=some) is None
        assert vetted([elsewhere], allow_private=True, public=True, private=[]) is None
    assert vetted(["8.8.8.8"], allow_private=True, public=True, private=[]) == "8.8.8.8"
    everything = [ipaddress.ip_network("0.0.0.0/0")]
    assert vetted([_LINK_LOCAL], allow_private=True, public=True, private=everything) is None


def test_one_bad_address_among_good_ones_refuses_the_name() -> None:
    assert vetted(["8.8.8.8", "127.0.0.1"], allow_private=False, public=True) is None
    assert vetted([], allow_private=True, public=True) is None
